"""What the console and HTML reports both show, in words, safe to show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelguard._reporters.escape import shorten, visible
from modelguard.artifact import LeftOut
from modelguard.findings import Finding
from modelguard.report import Decision, Outcome, Report, Status, Verdict, Violation

MAX_SOLE = 3
"""Messages of a detector that was asked alone which a short report shows."""
_ANSWER: Mapping[Verdict, str] = {Verdict.PASS: "PASS", Verdict.BLOCK: "BLOCKED", Verdict.INCOMPLETE: "INCOMPLETE"}


def answer(report: Report, decision: Decision) -> str:
    """The verdict in a word or two. That the detectors a scan was narrowed to found nothing is not the policy's pass."""
    return "NO OBJECTION" if decision.verdict is Verdict.PASS and report.policy.alone else _ANSWER[decision.verdict]


def judged(report: Report) -> str:
    """By what the report was judged."""
    policy, alone = f"policy {visible(report.policy.name)}", ", ".join(map(visible, report.policy.alone))
    return f"{alone} alone, {policy} not judged" if alone else policy


def reasons(report: Report, decision: Decision) -> list[Violation]:
    """The violations: what blocks before what was not looked at, the artifact and scan as a whole before findings by severity."""
    worst: dict[str, int] = {}
    for _, finding in report.findings():
        worst[finding.fingerprint] = max(worst.get(finding.fingerprint, 0), int(report.severity(finding)))

    def order(item: Violation) -> tuple[bool, bool, int]:
        about_finding = item.kind in ("finding", "waiver")
        return (not item.blocks, about_finding, -worst.get(item.subject, 0) if about_finding else 0)

    return sorted(decision.violations, key=order)


def beyond(decision: Decision) -> str:
    """What a pass leaves out, completing "nothing that it blocks"; empty without a baseline that knows something."""
    return f" beyond {count(len(decision.known), 'finding')} known from the baseline" if decision.known else ""


def all_clear(report: Report, decision: Decision) -> str:
    """Why a pass is a pass."""
    done = [visible(outcome.detector) for outcome in report.outcomes if outcome.status is Status.COMPLETED]
    return f"{', '.join(done)} completed: nothing the policy blocks{beyond(decision)}"


def clear(report: Report, decision: Decision) -> str:
    """The same in a few words."""
    nothing = "no objection" if report.policy.alone else "nothing it blocks"
    return f"{judged(report)}: {nothing}{beyond(decision)}"


def sole(report: Report) -> list[str]:
    """What was found by the only detector that was asked: the answer to the question, whatever its severity."""
    return [visible(item.message) for _, item in report.findings()][:MAX_SOLE] if len(report.outcomes) == 1 else []


def looked(report: Report) -> str:
    """How much was looked at: ``7 of 18 detectors, 2 files (onnx, safetensors)``."""
    done = sum(outcome.status is Status.COMPLETED for outcome in report.outcomes)
    formats = ", ".join(map(visible, report.target.format))
    files = count(len(report.target.files), "file") + (f" ({formats})" if formats else "")
    return f"{done} of {count(len(report.outcomes), 'detector')}, {files}"


def recalled(report: Report) -> frozenset[str]:
    """The detectors that were not asked again, because they had said it of the very same bytes before."""
    cached = report.timings.get("cached")
    return frozenset(map(str, cached)) if isinstance(cached, list | tuple) else frozenset()


def earlier(report: Report) -> str:
    """``, 7 cached``: how much of it was known from an earlier scan; empty where nothing was."""
    done = {outcome.detector for outcome in report.outcomes if outcome.status is Status.COMPLETED}
    known = len(done & recalled(report))
    return f", {'all' if known == len(done) else known} cached" if known else ""


def compared(report: Report) -> str:
    """``, against NAME``; empty without a reference."""
    return f", against {visible(report.reference.uri)}" if report.reference is not None else ""


def assumed(report: Report) -> str:
    """Whether the model was run on values that nobody vouched for."""
    spec = report.model.get("input") if report.model is not None else None
    source = spec.get("source") if isinstance(spec, Mapping) else None
    guessed = isinstance(source, Mapping) and source.get("high") == "assumed"
    return ", run on an assumed range of values (--input)" if guessed else ""


def facts(report: Report) -> list[str]:
    """What was scanned, against what, by which policy and with which options."""
    target = report.target
    unknown = "not opened" if report.failure and not report.outcomes else "no known format"
    words = [", ".join(map(visible, target.format)) or unknown, count(len(target.files), "file")]
    words.append(judged(report))
    if report.reference is not None:
        words.append(f"against {visible(report.reference.uri)}")
    if report.lock is not None:
        words.append(f"locked as {visible(report.lock.name)} in {visible(report.lock.file)}")
    if target.revision and target.revision not in target.uri:
        words.append(f"at {visible(target.revision)}")
    if report.model is not None and isinstance(report.model.get("input"), Mapping):
        words.append(run_as(report.model["input"]))
    return words + options(report)


def options(report: Report) -> list[str]:
    """The detector options that were set: ``quick=true for 6 detectors``."""
    shared: dict[str, list[str]] = {}
    for detector in sorted(report.options):
        for setting in settings(report, detector):
            shared.setdefault(setting, []).append(visible(detector))
    return [f"{setting} for {names[0] if len(names) == 1 else count(len(names), 'detector')}" for setting, names in shared.items()]


def doubts(report: Report) -> list[str]:
    """What could not be verified about where the files came from."""
    return [
        f"{visible(item.uri)}: {visible(note)}" for item in (report.target, report.reference) if item is not None for note in item.notes
    ]


def run_as(spec: Mapping[str, Any]) -> str:
    """What the model was run on, and who said so: a detector that searched the wrong input domain searched nothing."""
    sizes, source = spec.get("shape"), spec.get("source")
    shape = "x".join(map(str, sizes)) if isinstance(sizes, list | tuple) else "unknown"
    said = source.get("high", "unknown") if isinstance(source, Mapping) else "unknown"
    return visible(f"run as {spec.get('kind', 'unknown')} {shape}, values {value(spec.get('low'))}..{value(spec.get('high'))} ({said})")


def waiver_notes(decision: Decision) -> list[str]:
    """Notes about waivers; what a detector or plugin did not do is told by :func:`gaps`."""
    return [visible(note) for note in decision.notes if note.startswith("the waiver")]


def gaps(report: Report) -> list[str]:
    """What was not looked at: one line per reason, with the detectors it held up."""
    held: dict[tuple[str, str], list[str]] = {}
    for outcome in report.outcomes:
        if outcome.status is not Status.COMPLETED:
            held.setdefault((outcome.status.value, outcome.reason), []).append(visible(outcome.detector))
    lines = [
        f"{together(names)} {status}" + (f": {visible(reason)}" if reason else "")
        for (status, reason), names in sorted(held.items(), key=lambda item: item[1])
    ]
    return lines + other_gaps(report)


def other_gaps(report: Report) -> list[str]:
    """What was not looked at, or not vouched for, besides detectors that did not look."""
    lines = [f"plugin {visible(item.distribution)} not loaded: {visible(item.reason)}" for item in report.plugin_failures]
    for artifact in (report.target, report.reference):
        if artifact is not None:
            lines += [f"{visible(artifact.uri)}: {visible(note)}" for note in artifact.notes]
            lines += [f"{visible(artifact.uri)}: left out {left_out(item)}" for item in artifact.left_out]
    return lines + unread(report) + _unconfined(report)


def left_out(item: LeftOut) -> str:
    """Files that are on purpose no part of the artifact, in a few words: ``.git (12 files: git's own files)``."""
    return f"{visible(item.path)} ({count(item.files, 'file')}: {visible(item.reason)})"


def together(names: Sequence[str]) -> str:
    """Names in one line, variants after what they are variants of: ``cleanse (and -blend, -warp), other``."""
    variants: dict[str, list[str]] = {}
    for name in sorted(names):
        base = next((known for known in variants if name.startswith(f"{known}-")), None)
        if base is None:
            variants[name] = []
        else:
            variants[base].append(name.removeprefix(base))
    return ", ".join(name + (f" (and {', '.join(rest)})" if rest else "") for name, rest in variants.items())


def _unconfined(report: Report) -> list[str]:
    """What did not keep the worker apart on this machine although it might; a report of before it was told says nothing."""
    missing = [name for name in ("landlock", "seccomp") if report.confinement and name not in report.confinement]
    return [f"the worker was not held by {' or '.join(missing)}, which this system lacks"] if missing else []


def unread(report: Report) -> list[str]:
    """Files that nobody has read to the end."""
    paths = report.target.unread
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return [f"{count(len(paths), 'file')} not looked at: {', '.join(map(visible, paths[:3]))}{more}"] if paths else []


def ran(report: Report) -> list[Outcome]:
    """The detectors that looked, however it ended; those that were skipped are among :func:`gaps`."""
    return [outcome for outcome in report.outcomes if outcome.status is not Status.SKIPPED]


def settings(report: Report, detector: str) -> list[str]:
    """The options that were set on ``detector``: ``name=value`` each."""
    return [f"{visible(name)}={shorten(value(item), 60)}" for name, item in sorted(report.options.get(detector, {}).items())]


def fates(decision: Decision) -> Callable[[Finding], str]:
    """What the decision does with each finding: a word or two."""
    warned, known = set(decision.warnings), set(decision.known)
    waived = {(item.fingerprint, item.rule): item for item in decision.waived}
    judged = {item.subject: item.blocks for item in reversed(decision.violations) if item.kind in ("finding", "waiver")}

    def fate(finding: Finding) -> str:
        if finding.fingerprint in judged:
            return "blocks" if judged[finding.fingerprint] else "no verdict"
        if waiver := waived.get((finding.fingerprint, finding.rule)):
            return f"waived until {visible(waiver.expires)} by {visible(waiver.owner)}"
        if finding.fingerprint in known:
            return "known"
        return "warns" if finding.fingerprint in warned else "allowed"

    return fate


def place(finding: Finding) -> str:
    """Where a finding is."""
    where = finding.location
    parts = [visible(part) for part in (where.file, where.tensor) if part is not None]
    if where.rows is not None:
        more = f" and {len(where.rows) - 8} more" if len(where.rows) > 8 else ""
        parts.append(("rows " if len(where.rows) != 1 else "row ") + ", ".join(map(str, where.rows[:8])) + more)
    if where.byte_offset is not None:
        end = f"-{where.byte_offset + where.byte_length}" if where.byte_length else ""
        parts.append(f"bytes {where.byte_offset}{end}")
    return ", ".join(parts)


def value(item: Any) -> str:
    """A piece of evidence as text, numbers to four significant digits."""
    if isinstance(item, str):
        return visible(item)
    return visible(json.dumps(_rounded(item), sort_keys=True, ensure_ascii=False))


def _rounded(item: Any) -> Any:
    if isinstance(item, float):
        short = float(f"{item:.4g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(item, list | tuple):
        return [_rounded(part) for part in item]
    return {key: _rounded(part) for key, part in item.items()} if isinstance(item, Mapping) else item


def count(number: int, noun: str, several: str = "") -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]
