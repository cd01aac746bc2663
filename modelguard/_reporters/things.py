"""Findings as a person counts them: what several copies of one tensor say alike is one thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelguard._reporters.escape import visible
from modelguard._reporters.view import beyond, count, fates, judged, reasons
from modelguard.findings import Finding, Severity
from modelguard.report import Decision, Report, Status, Violation

_RANK = {"blocks": 0, "no verdict": 1, "warns": 2}
MEASURED = 3
"""So many numbers with a fraction that agree to six digits are no accident: the tensors are copies, whatever they are called."""


@dataclass(frozen=True, eq=False)
class Thing:
    """A finding, and the ``copies`` that say the same of another file that holds the same tensor."""

    detector: str
    finding: Finding
    severity: Severity
    fate: str
    copies: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Reason:
    """Why the verdict is not *pass*: a thing, or a violation that is about no finding."""

    violation: Violation
    thing: Thing | None = None


def things(report: Report, decision: Decision) -> list[Thing]:
    """Every finding once, what decides the verdict first, then by severity and confidence."""
    fate = fates(decision)
    made: dict[tuple[Any, ...], list[tuple[str, Finding]]] = {}
    for detector, finding in report.findings():
        key = (detector, finding.rule, finding.severity, finding.confidence, fate(finding), *_said(finding))
        made.setdefault(key, []).append((detector, finding))
    found = [
        Thing(same[0][0], same[0][1], report.severity(same[0][1]), fate(same[0][1]), tuple(item for _, item in same[1:]))
        for same in made.values()
    ]
    return sorted(found, key=lambda item: (_RANK.get(item.fate, 3), -item.severity, -item.finding.confidence))


def why_not(report: Report, decision: Decision, found: list[Thing]) -> list[Reason]:
    """The reasons in the order of :func:`~modelguard._reporters.view.reasons`, each thing once. ``found`` is what :func:`things` gave."""
    by_fingerprint: dict[str, list[Thing]] = {}
    for thing in found:
        for finding in (thing.finding, *thing.copies):
            known = by_fingerprint.setdefault(finding.fingerprint, [])
            if thing not in known[-1:]:
                known.append(thing)
    given: list[Reason] = []
    seen: set[int] = set()
    for violation in reasons(report, decision):
        about = by_fingerprint.get(violation.subject, []) if violation.kind in ("finding", "waiver") else []
        new = [thing for thing in about if id(thing) not in seen]
        seen.update(map(id, new))
        given += [Reason(violation, thing) for thing in new]
        if not about:
            given.append(Reason(violation))
    return given


def besides(found: list[Thing]) -> list[str]:
    """How many things change nothing about the verdict for a reason of their own, in a few words each."""
    warns, waived, known = (sum(thing.fate.startswith(word) for thing in found) for word in ("warns", "waived", "known"))
    parts = [count(warns, "warning")] if warns else []
    parts += [f"{waived} waived"] if waived else []
    return parts + ([f"{known} known from the baseline"] if known else [])


def why(report: Report, decision: Decision, given: list[Reason]) -> str:
    """The verdict's reason in one sentence. ``given`` is what :func:`why_not` gave."""
    if not given:
        done = sum(outcome.status is Status.COMPLETED for outcome in report.outcomes)
        return (
            f"{done} of {count(len(report.outcomes), 'detector')} looked, and found nothing that {judged(report)} blocks{beyond(decision)}."
        )
    first = given[0]
    message = first.thing.finding.message if first.thing is not None and first.violation.kind == "finding" else first.violation.message
    more = f" And {count(len(given) - 1, 'more reason')}." if len(given) > 1 else ""
    return f"{visible(message).rstrip('.')}.{more}"


def _said(finding: Finding) -> tuple[str, str]:
    """Message and evidence without what differs between copies: the file, and where enough is measured the tensor's name."""
    place = finding.location
    if place.tensor is None:
        return finding.message, finding.fingerprint
    evidence = _rounded(finding.evidence)
    drop = [place.file or "", place.tensor] if _fractions(finding.evidence) >= MEASURED else [place.file or ""]
    message, text = finding.message, json.dumps(evidence, sort_keys=True, default=repr)
    for name in filter(None, drop):
        message, text = message.replace(f"{name}/", "").replace(name, ""), text.replace(json.dumps(name), "")
    return message, text if len(drop) == 2 else f"{place.tensor}\0{text}"


def _fractions(item: Any) -> int:
    if isinstance(item, float):
        return int(not item.is_integer())
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else ()
    return sum(map(_fractions, parts))


def _rounded(item: Any) -> Any:
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, Mapping):
        return {str(key): _rounded(part) for key, part in item.items()}
    return [_rounded(part) for part in item] if isinstance(item, list | tuple) else item
