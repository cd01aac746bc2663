"""What a person reads in a terminal: the answer, why, what was not looked at; then the details."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TextIO

from modelguard._reporters.escape import shorten, visible
from modelguard.findings import Finding, Severity
from modelguard.report import Decision, Report, Reporter, Status, Verdict, Violation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MAX_REASONS = 5
MAX_FINDINGS = 40
MAX_EVIDENCE = 240
_ANSWER = {Verdict.PASS: ("PASS", "bold green"), Verdict.BLOCK: ("BLOCKED", "bold red"), Verdict.INCOMPLETE: ("INCOMPLETE", "bold yellow")}
_STYLE: Mapping[Severity, str] = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}


@dataclass(frozen=True)
class ConsoleReporter(Reporter):
    """``width`` in columns; ``color`` adds ANSI styles. The default suits a pipe."""

    width: int = 80
    color: bool = False

    format = "console"

    @classmethod
    def for_stream(cls, stream: TextIO) -> Self:
        """As wide and as colourful as ``stream`` allows; honours NO_COLOR, FORCE_COLOR, TERM=dumb and COLUMNS."""
        from rich.console import Console

        console = Console(file=stream)
        width = console.width if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else cls.width
        return cls(max(width, 40), console.color_system is not None and not console.no_color)

    def render(self, report: Report, decision: Decision) -> str:
        from rich.console import Console

        console = Console(
            file=io.StringIO(),
            width=self.width,
            height=1000,
            color_system="standard" if self.color else None,
            force_terminal=self.color,
            force_interactive=False,
            no_color=not self.color,
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )
        report = report.canonical()
        _answer(console, report, decision)
        _not_looked_at(console, report)
        _findings(console, report, decision)
        _detectors(console, report)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n")) + "\n"


def _answer(console: Console, report: Report, decision: Decision) -> None:
    word, style = _ANSWER[decision.verdict]
    target = report.target
    room = console.width - len(word) - 2
    head = _text((word, style), "  ", (shorten(visible(target.uri), max(room, 20)), "bold"))
    if not decision.enforced and decision.verdict is Verdict.BLOCK:
        head.append("  (policy in report mode: not enforced)", "yellow")
    console.print(head)
    facts = [", ".join(target.format) or "no known format", _count(len(target.files), "file"), f"policy {report.policy.name}"]
    if report.reference is not None:
        facts.append(f"against {visible(report.reference.uri)}")
    if target.revision and target.revision not in target.uri:
        facts.append(f"at {target.revision[:12]}")
    _item(console, "", ", ".join(facts), "dim")
    reasons = sorted(decision.violations, key=lambda item: (not item.blocks, _rank(report, item)))
    for violation in reasons[:MAX_REASONS]:
        mark = ("✗ ", "red") if violation.blocks else ("? ", "yellow")
        _item(console, mark[0], f"{violation.rule} {visible(violation.message)}", "", mark[1])
    if len(reasons) > MAX_REASONS:
        _item(console, "", f"… and {len(reasons) - MAX_REASONS} more reasons, below", "dim")
    if not reasons:
        done = [outcome.detector for outcome in report.outcomes if outcome.status is Status.COMPLETED]
        _item(console, "✓ ", f"{', '.join(done)} completed and found nothing that the policy blocks", "", "green")
    tail = [_count(len(decision.warnings), "warning")] if decision.warnings else []
    tail += [f"{len(decision.waived)} waived"] if decision.waived else []
    if tail:
        _item(console, "! ", ", ".join(tail), "", "yellow")
    for note in decision.notes:
        # What a detector or plugin did not do is told below.
        if note.startswith("the waiver"):
            _item(console, "! ", visible(note), "", "yellow")


def _rank(report: Report, violation: Violation) -> int:
    """Findings come by severity, after what is wrong with the artifact or the scan as a whole."""
    found = [
        report.severity(item) for _, item in report.findings() if item.fingerprint == violation.subject and item.rule == violation.rule
    ]
    return -int(max(found)) if found else -10


def _not_looked_at(console: Console, report: Report) -> None:
    gaps: dict[tuple[str, str], list[str]] = {}
    for outcome in report.outcomes:
        if outcome.status is not Status.COMPLETED:
            gaps.setdefault((outcome.status.value, outcome.reason), []).append(outcome.detector)
    if not gaps and not report.target.unread and not report.plugin_failures:
        return
    console.print(_text(("Not looked at", "bold")))
    for (status, reason), names in sorted(gaps.items(), key=lambda item: item[1]):
        _item(console, "- ", f"{', '.join(names)} {status}: {visible(reason)}" if reason else f"{', '.join(names)} {status}")
    for failure in report.plugin_failures:
        _item(console, "- ", f"plugin {visible(failure.distribution)} not loaded: {visible(failure.reason)}")
    if unread := report.target.unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        names = [shorten(visible(path), 40) for path in unread[:3]]
        _item(console, "- ", f"{_count(len(unread), 'file')} in no known format: {', '.join(names)}{more}")


def _findings(console: Console, report: Report, decision: Decision) -> None:
    found = sorted(report.findings(), key=lambda pair: -report.severity(pair[1]))
    if not found:
        return
    titles = {rule.id: rule.title for rule in report.rules}
    console.print()
    console.print(_text(("Findings", "bold")))
    for detector, finding in found[:MAX_FINDINGS]:
        severity = report.severity(finding)
        title = f"{finding.rule} {visible(titles.get(finding.rule, ''))}".rstrip()
        _row(console, _text((severity.label, _STYLE[severity])), 10, _text((title, "bold"), f" ({_fate(finding, decision)})"))
        _block(console, visible(finding.message))
        for line in (_place(finding), _evidence(finding.evidence)):
            if line:
                _block(console, line, "dim")
        _block(console, f"{detector}, confidence {finding.confidence.label}, {finding.fingerprint}", "dim")
    if len(found) > MAX_FINDINGS:
        _block(console, f"… and {len(found) - MAX_FINDINGS} more; -o json=PATH or -o html=PATH has them all")


def _fate(finding: Finding, decision: Decision) -> str:
    """What the decision does with the finding."""
    for item in decision.violations:
        if item.subject == finding.fingerprint and item.kind in ("finding", "waiver"):
            return "blocks" if item.blocks else "no verdict"
    for waiver in decision.waived:
        if waiver.fingerprint == finding.fingerprint:
            return f"waived until {waiver.expires} by {visible(waiver.owner)}"
    return "warns" if finding.fingerprint in decision.warnings else "allowed"


def _place(finding: Finding) -> str:
    place = finding.location
    parts = [visible(part) for part in (place.file, place.tensor) if part is not None]
    if place.rows is not None:
        parts.append("rows " + _few(place.rows))
    if place.byte_offset is not None:
        end = f"-{place.byte_offset + place.byte_length}" if place.byte_length else ""
        parts.append(f"bytes {place.byte_offset}{end}")
    return ", ".join(parts)


def _evidence(evidence: Mapping[str, Any]) -> str:
    parts = [f"{visible(str(key))}={visible(_value(value))}" for key, value in sorted(evidence.items())]
    text = "  ".join(parts)
    return text if len(text) <= MAX_EVIDENCE else text[: MAX_EVIDENCE - 1] + "…"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _detectors(console: Console, report: Report) -> None:
    if not report.outcomes:
        return
    seconds: Mapping[str, Any] = report.timings.get("detectors", {})
    width = max(len(outcome.detector) for outcome in report.outcomes)
    console.print()
    console.print(_text(("Detectors", "bold")))
    for outcome in report.outcomes:
        score = outcome.summary.get("score")
        cells = [f"{outcome.detector:<{width}}", f"{outcome.status.value:<9}"]
        cells.append(_count(len(outcome.findings), "finding"))
        if isinstance(score, int | float):
            cells.append(f"score {score:.4g}")
        if outcome.detector in seconds:
            cells.append(f"{seconds[outcome.detector]:.1f} s")
        _block(console, "  ".join(cells), indent=2)


def _few(values: Iterable[Any]) -> str:
    items = [str(value) for value in values]
    return ", ".join(items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _item(console: Console, mark: str, text: str, style: str = "", mark_style: str = "") -> None:
    """One entry of a list: two columns in, marked, continuation lines aligned with the text."""
    _row(console, _text("  ", (mark, mark_style)), 2 + len(mark), _text((text, style)))


def _block(console: Console, text: str, style: str = "", indent: int = 10) -> None:
    """A paragraph, ``indent`` columns in."""
    _row(console, _text(""), indent, _text((text, style)))


def _row(console: Console, first: Text, width: int, body: Text) -> None:
    """``first`` in a column of ``width``, ``body`` wrapped beside it; nothing is cut off, whatever the words' length."""
    from rich.table import Table

    grid = Table.grid()
    grid.add_column(width=width, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(first, body)
    console.print(grid)


def _text(*parts: str | tuple[str, str]) -> Text:
    from rich.text import Text

    return Text.assemble(*parts, overflow="fold")
