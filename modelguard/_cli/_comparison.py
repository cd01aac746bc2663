"""Two stored reports of one artifact beside each other, as a text and as a document."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelguard._policies.compare import Pair, compare
from modelguard._reporters.escape import visible
from modelguard._reporters.view import answer, count, place
from modelguard.report import Status

if TYPE_CHECKING:
    from modelguard._policies.compare import Comparison
    from modelguard.report import Decision, Report

_MOST = 40


def compared(old: Report, before: Decision, new: Report, after: Decision, *, as_json: bool) -> str:
    """What is new, gone and changed. Raises :class:`~modelguard.errors.UsageError` for reports of two artifacts."""
    found = compare(old, new)
    if as_json:
        from modelguard._reporters.json import dump

        return dump(_document(found, old, before, new, after))
    return "\n".join(_lines(found, old, before, new, after)) + "\n"


def _lines(found: Comparison, old: Report, before: Decision, new: Report, after: Decision) -> Iterator[str]:
    said, says = answer(old, before), answer(new, after)
    yield f"{says if said == says else f'{said} -> {says}'}  {visible(new.target.uri)}"
    files = _files(old, new)
    words = [
        count(len(found.new), "new finding"),
        f"{len(found.gone)} gone",
        f"{len(found.changed)} changed",
        f"{len(found.same)} the same",
    ]
    yield "  " + ", ".join(words)
    yield f"  {count(len(files), 'file')} not as then: {_few(files)}" if files else "  every file has the bytes that it had"
    if (old.policy.name, old.policy.sha256) != (new.policy.name, new.policy.sha256):
        yield f"  judged by {visible(old.policy.name)} then and by {visible(new.policy.name)} now"
    if (then := _given(old)) != (now := _given(new)):
        yield _item(f"scanned {then} then and {now} now", "  ")
    looked = {item.detector for item in old.outcomes if item.status is Status.COMPLETED}
    yield from _listed("New", found.new, lambda detector: "" if detector in looked else f"{detector} had not looked")
    yield from _listed("Gone", found.gone, lambda detector: "")
    yield from _listed("Not looked for now, and so not known to be gone", found.unseen, lambda detector: f"{detector} did not look")
    if found.changed:
        yield "Changed"
        for item in found.changed[:_MOST]:
            yield _item(f"{item.after.rule} {item.after.message}")
            yield _item(f"{'; '.join(item.what)}", "      ")
    for heading, names in (
        ("Not looked at now, but then", found.unlooked),
        ("Looked at now, but not then", found.looked),
        ("Not looked at, then or now", found.still),
    ):
        if names:
            yield heading
        for kind in ("detector", "file", "plugin"):
            if of_kind := [name.partition(" ")[2] for name in names if name.startswith(f"{kind} ")]:
                yield _item(f"{kind}{'s' * (len(of_kind) > 1)}: {_few(of_kind, _MOST)}")


def _listed(heading: str, pairs: Iterable[Pair], note: Any) -> Iterator[str]:
    listed = list(pairs)
    if listed:
        yield heading
    for detector, finding in listed[:_MOST]:
        severity = finding.severity.label if finding.severity is not None else ""
        told = note(detector)
        yield _item(f"{finding.rule} {severity}: {finding.message}" + (f" [{told}]" if told else ""))
        if where := place(finding):
            yield f"      {where}"
    if len(listed) > _MOST:
        yield f"  and {len(listed) - _MOST} more; -f json has them all"


def _item(text: str, indent: str = "  - ") -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    hanging = " " * max(4, len(indent))
    return textwrap.fill(visible(text), width, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)


def _few(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(visible, listed[:most])) + more


def _given(report: Report) -> str:
    """What the scan had beside the artifact: other findings may come of other things."""
    given = [f"against {report.reference.uri}"] if report.reference is not None else []
    given += [f"on samples {report.samples.origin}"] if report.samples is not None else []
    given += [f"at {report.target.revision}"] if report.target.revision else []
    return f"{' '.join(given) or 'alone'}, by modelguard {report.tool_version}"


def _files(old: Report, new: Report) -> list[str]:
    """Paths that came, went, or hold other bytes, or of which it cannot be known."""
    then = {file.path: (file.size, file.sha256) for file in old.target.files}
    now = {file.path: (file.size, file.sha256) for file in new.target.files}
    return sorted(path for path in {*then, *now} if then.get(path) != now.get(path) or now[path][1] is None)


def _document(found: Comparison, old: Report, before: Decision, new: Report, after: Decision) -> dict[str, Any]:
    from modelguard._schemas.finding import write_finding

    def entry(pair: Pair) -> Mapping[str, Any]:
        return {"detector": pair[0], **write_finding(pair[1])}

    return {
        "target": new.target.uri,
        "identity": new.target.identity,
        "verdict": {"old": before.verdict.value, "new": after.verdict.value},
        "policy": {"old": old.policy.sha256, "new": new.policy.sha256},
        "files": _files(old, new),
        "new": [entry(pair) for pair in found.new],
        "gone": [entry(pair) for pair in found.gone],
        "not_looked_for": [entry(pair) for pair in found.unseen],
        "changed": [
            {"what": list(item.what), "old": entry((item.detector, item.before)), "new": entry((item.detector, item.after))}
            for item in found.changed
        ],
        "same": [entry(pair) for pair in found.same],
        "not_looked_at": {"only_now": list(found.unlooked), "only_then": list(found.looked), "both": list(found.still)},
    }
