"""What a person reads in a terminal: the answer, why, and how much was looked at; with ``verbose`` the details.

A short report gives every reason one line, cut where the terminal ends, and a long one says everything.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TextIO

from modelguard._reporters.escape import shorten, visible
from modelguard._reporters.missing import lacks
from modelguard._reporters.things import Reason, besides, things, why_not
from modelguard._reporters.view import (
    all_clear,
    answer,
    assumed,
    clear,
    compared,
    count,
    doubts,
    earlier,
    facts,
    fates,
    gaps,
    looked,
    options,
    place,
    ran,
    reasons,
    recalled,
    sole,
    unread,
    value,
    waiver_notes,
)
from modelguard.findings import Severity
from modelguard.report import Decision, Report, Reporter, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MAX_REASONS = 5
MAX_LINES = 20
WHOLE = 100_000
NARROW = 60
"""Columns below which a reason gets two lines."""
MAX_FINDINGS = 40
MAX_EVIDENCE = 240
_ASCII = str.maketrans({"✗": "x", "✓": "+", "…": "..."})
_ANSWER_STYLE: Mapping[Verdict, str] = {Verdict.PASS: "bold green", Verdict.BLOCK: "bold red", Verdict.INCOMPLETE: "bold yellow"}
_STYLE: Mapping[Severity, str] = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}


@dataclass(frozen=True)
class ConsoleReporter(Reporter):
    """``width`` in columns; ``color`` adds ANSI styles; what ``encoding`` lacks is written in ASCII. The default suits a pipe.

    ``verbose`` is everything: evidence, places, every detector.
    """

    width: int = 80
    color: bool = False
    encoding: str = "utf-8"
    verbose: bool = False

    format = "console"

    @classmethod
    def for_stream(cls, stream: TextIO) -> Self:
        """As wide and as colourful as ``stream`` allows; honours NO_COLOR, FORCE_COLOR, TERM=dumb and COLUMNS."""
        from rich.console import Console

        console = Console(file=stream)
        width = console.width if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else cls.width
        return cls(max(width, 40), console.color_system is not None and not console.no_color, stream.encoding or "utf-8")

    def in_full(self) -> Self:
        return replace(self, verbose=True)

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
        _headline(console, report, decision)
        if self.verbose:
            _answer(console, report, decision)
            _not_looked_at(console, report)
            _findings(console, report, decision)
            _detectors(console, report)
        else:
            _short(console, report, decision)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        text = "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n")) + "\n"
        if not self.encoding.lower().startswith("utf"):
            text = text.translate(_ASCII)
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)


def _headline(console: Console, report: Report, decision: Decision) -> None:
    word = answer(report, decision)
    head = _text(
        (word, _ANSWER_STYLE[decision.verdict]), "  ", (shorten(visible(report.target.uri), console.width - len(word) - 2), "bold")
    )
    if not decision.enforced and decision.verdict is Verdict.BLOCK:
        head.append("  (policy in report mode: not enforced)", "yellow")
    console.print(head)


def _short(console: Console, report: Report, decision: Decision) -> None:
    """Why, what was looked at, what was not."""
    found = things(report, decision)
    given = why_not(report, decision, found)
    _reasons(console, report, given[:MAX_LINES])
    more = [f"{count(len(given) - MAX_LINES, 'more reason')}"] if len(given) > MAX_LINES else []
    if decision.verdict is Verdict.PASS:
        _item(console, "✓ ", clear(report, decision), "", "green")
        for message in sole(report):
            _item(console, "", message)
    if report.outcomes:
        done = f"looked: {looked(report)}{earlier(report)}{compared(report)}{assumed(report)}"
        _item(console, "", ", ".join([done, *options(report)]), "dim")
    for doubt in doubts(report):
        _item(console, "! ", doubt, "", "yellow")
    notes = len(waiver_notes(decision))
    more += besides(found) + ([count(notes, "note") + " on waivers"] if notes else [])
    if more:
        _item(console, "! ", f"{', '.join(more)} (-v)", "", "yellow")
    _item(console, "", _held_up(report), "dim")


def _reasons(console: Console, report: Report, given: list[Reason]) -> None:
    """A line each as far as there is room: what blocks, how bad it would be, its rule, the message.

    A single one is given whole, and so is what is no finding, for it ends in its remedy and is nowhere else.
    """
    # Less than half a line of words says nothing: a narrow terminal gets two lines.
    room = console.width if console.width >= NARROW else 2 * console.width - 6
    whole = [len(given) == 1 or reason.thing is None for reason in given]
    lines = [_line(report, reason, WHOLE if all_of_it else room) for reason, all_of_it in zip(given, whole, strict=True)]
    seen = Counter(line.plain for line in lines)
    for reason, line, all_of_it in zip(given, lines, whole, strict=True):
        # Where lines differ only in what was cut off, both ends of each are shown.
        body = line if seen[line.plain] == 1 or all_of_it else _line(report, reason, room, middle=True)
        if all_of_it or console.width < NARROW:
            _row(console, body[:4], 4, body[4:])
        else:
            console.print(body, no_wrap=True, crop=False)


def _line(report: Report, reason: Reason, room: int, middle: bool = False) -> Text:
    """One reason in ``room`` columns, cut at its end or in the ``middle``."""
    violation, thing = reason.violation, reason.thing
    mark, style = ("✗ ", "red") if violation.blocks else ("? ", "yellow")
    line = _text("  ", (mark, style))
    if thing is not None:
        line.append(f"{thing.severity.label} ", _STYLE[thing.severity])
    line.append(f"{violation.rule} ")
    message = visible(violation.message if thing is None or violation.kind == "waiver" else thing.finding.message)
    files = len({item.location.file for item in (thing.finding, *thing.copies)}) if thing is not None else 1
    tail = f" (in {files} files)" if files > 1 else ""
    if len(line) + len(message) + len(tail) > room:  # then rather what happened than in which file
        message = next((message.removeprefix(start) for start in _starts(report) if message.startswith(start)), message)
    line.append(shorten(message, room - len(line) - len(tail)) if middle else message)
    line.truncate(room - len(tail), overflow="ellipsis")
    return line.append(tail)


def _starts(report: Report) -> list[str]:
    """What a message begins with that names a tensor by its file."""
    return [f"{visible(file.path)}/" for file in report.target.files]


def _held_up(report: Report) -> str:
    """What was not looked at, in one line."""
    held = lacks(report)
    total = sum(len(item.detectors) for item in held)
    wanted = [item for item in held if item.option]
    if len(held) == len(wanted) == 1:
        parts = [f"{count(total, 'detector')} for want of {wanted[0].option}"]
    else:
        parts = [count(total, "detector")] if total else []
        parts += [f"{len(item.detectors)} for want of {item.option}" for item in wanted][:2]
    parts += [count(len(report.target.unread), "file")] if unread(report) else []
    parts += [count(len(report.plugin_failures), "plugin")] if report.plugin_failures else []
    return f"not looked at: {', '.join(parts)}; -v says why" if parts else "-v shows the details"


def _answer(console: Console, report: Report, decision: Decision) -> None:
    _item(console, "", ", ".join(facts(report)), "dim")
    violations = reasons(report, decision)
    for violation in violations[:MAX_REASONS]:
        mark, style = ("✗ ", "red") if violation.blocks else ("? ", "yellow")
        _item(console, mark, f"{violation.rule} {visible(violation.message)}", "", style)
    if len(violations) > MAX_REASONS:
        _item(console, "", f"… and {count(len(violations) - MAX_REASONS, 'more reason')}, below", "dim")
    if decision.verdict is Verdict.PASS:
        _item(console, "✓ ", all_clear(report, decision), "", "green")
    tail = [count(len(decision.warnings), "warning")] if decision.warnings else []
    tail += [f"{len(decision.waived)} waived"] if decision.waived else []
    tail += [f"{len(decision.known)} known from the baseline"] if decision.known else []
    for line in ([", ".join(tail)] if tail else []) + waiver_notes(decision):
        _item(console, "! ", line, "", "yellow")


def _not_looked_at(console: Console, report: Report) -> None:
    lines = gaps(report)
    if lines:
        console.print(_text(("Not looked at", "bold")))
    for line in lines:
        _item(console, "- ", line)


def _findings(console: Console, report: Report, decision: Decision) -> None:
    found = sorted(report.findings(), key=lambda pair: -report.severity(pair[1]))
    if not found:
        return
    titles = {rule.id: rule.title for rule in report.rules}
    fate = fates(decision)
    console.print()
    console.print(_text(("Findings", "bold")))
    for detector, finding in found[:MAX_FINDINGS]:
        severity = report.severity(finding)
        title = f"{finding.rule} {visible(titles.get(finding.rule, ''))}".rstrip()
        _row(console, _text((severity.label, _STYLE[severity])), 10, _text((title, "bold"), f" ({fate(finding)})"))
        _block(console, visible(finding.message))
        for line in (place(finding), _evidence(finding.evidence)):
            if line:
                _block(console, line, "dim")
        _block(console, f"{visible(detector)}, confidence {finding.confidence.label}, {finding.fingerprint}", "dim")
    if len(found) > MAX_FINDINGS:
        _block(console, f"… and {len(found) - MAX_FINDINGS} more; -o json=PATH or -o html=PATH has them all")


def _evidence(evidence: Mapping[str, Any]) -> str:
    parts = [f"{visible(str(key))}={value(item)}" for key, item in sorted(evidence.items())]
    text = "  ".join(parts)
    return text if len(text) <= MAX_EVIDENCE else text[: MAX_EVIDENCE - 1] + "…"


def _detectors(console: Console, report: Report) -> None:
    outcomes = ran(report)
    if not outcomes:
        return
    seconds: Mapping[str, Any] = report.timings.get("detectors", {})
    width = max(len(visible(outcome.detector)) for outcome in outcomes)
    console.print()
    console.print(_text(("Detectors that ran", "bold")))
    for outcome in outcomes:
        score = outcome.summary.get("score")
        cells = [f"{visible(outcome.detector):<{width}}", f"{outcome.status.value:<9}"]
        cells.append(f"{count(len(outcome.findings), 'finding'):<11}")
        if isinstance(score, int | float):
            cells.append(f"score {score:.4g}")
        if outcome.detector in recalled(report):
            cells.append("cached")
        elif outcome.detector in seconds:
            cells.append(f"{seconds[outcome.detector]:.1f} s")
        _block(console, "  ".join(cells), indent=2)


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
