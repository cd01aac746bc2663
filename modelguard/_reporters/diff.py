"""What a person sees of a diff: the model's verdict, the modules with a bar each, folded over layers, then the files that differ.

Everything is drawn from the stored outcome, so a report written long ago looks the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TextIO

from modelguard._diff.names import layer, pattern
from modelguard._reporters.escape import visible
from modelguard._reporters.view import count, judged
from modelguard.findings import Severity
from modelguard.report import Decision, Outcome, Report, Reporter, Status

if TYPE_CHECKING:
    from rich.console import Console

BAR = 12
MOST = 60
"""Lines of the folded table; ``--all`` shows every tensor."""
MOST_FILES = 20
MOST_UPDATES = 12
PLACES = 4
"""Differences of one file that are shown; ``--all`` shows all that the report has."""
_STYLE = {
    "identical": "green", "cast": "green", "quantized": "cyan", "pruned": "yellow", "scaled": "yellow", "permuted": "yellow",
    "dense": "yellow", "lora-merge": "yellow", "fine-tune": "yellow", "partial-fine-tune": "yellow", "merge": "yellow",
}  # fmt: skip
_NOT_COMPARED = (
    ("missing", "missing from the checkpoint"),
    ("added", "not in the reference"),
    ("resized", "of another shape than in the reference"),
    ("unpaired", "checkpoints without a counterpart in the reference"),
    ("unpaired_reference", "checkpoints of the reference without a counterpart"),
    ("buffers", "integers and a few numbers that the reference stores and this format lacks"),
    ("exchanged", "under the name of another"),
    ("renamed", "under other names than in the reference"),
    ("graphs", "whose graph differs from the reference's"),
    ("graphs_not_compared", "whose graph was not compared"),
)


@dataclass(frozen=True, slots=True)
class _Line:
    """Tensors shown as one: those that share pattern, kind and rank."""

    label: str
    kind: str
    rank: int | None
    count: int
    relative: tuple[float, float]
    fraction: float
    shape: str


def render(outcome: Outcome, console: Console, all: bool = False, files: Outcome | None = None) -> None:
    """Draw the outcome of ``weight-diff`` on ``console``, and that of ``reference-files`` where it ran.

    ``all`` shows every tensor instead of layers folded by pattern. Only a model of which everything was compared is called identical.
    """
    from rich.table import Table
    from rich.text import Text

    summary = outcome.summary
    if outcome.status is not Status.COMPLETED or "verdict" not in summary:
        console.print(Text(f"not compared: {visible(outcome.reason) or outcome.status.value}", "bold yellow"))
        _files(files, console, all)
        return
    verdict = str(summary["verdict"])
    headline, style = _headline(verdict, files)
    console.print(Text.assemble((headline, f"bold {style}"), "  ", visible(str(summary.get("reason", "")))))
    console.print(Text(_counts(summary), "dim"))
    lines = _lines(summary["tensors"], fold=not all)
    if lines:
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        for title, justify in (("what", "left"), ("rank", "right"), ("relative change", "left"), ("entries", "right"), ("shape", "left")):
            table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("tensor", overflow="fold")
        shown = lines if all else lines[:MOST]
        top = max(line.relative[1] for line in lines)
        for line in shown:
            table.add_row(
                Text(visible(line.kind), _STYLE.get(line.kind, "red")),
                "" if line.rank is None else str(line.rank),
                f"{bar(line.relative[1], top)} {_span(line.relative)}",
                f"{line.fraction:.1%}" if line.fraction >= 0.0005 else "<0.1%",
                line.shape,
                Text(visible(line.label)),
            )
        console.print(table)
        if len(lines) > len(shown):
            console.print(Text(f"{len(lines) - len(shown)} more lines: --all shows every tensor", "dim"))
    for key, phrase in _NOT_COMPARED:
        found = summary.get(key, ())
        names = [visible(f"{name} (holds {found[name]})" if isinstance(found, Mapping) else str(name)) for name in found]
        if names and (key != "renamed" or verdict == key):
            listed = ", ".join(names if all else names[:5])
            rest = f" and {len(names) - 5} more" if len(names) > 5 and not all else ""
            console.print(Text(f"{len(names)} {phrase}: {listed}{rest}", "yellow"))
    _updates(summary.get("updates", ()), console)
    _files(files, console, all)


def _updates(updates: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A line for every client update, the largest first."""
    from rich.text import Text

    for item in sorted(updates, key=lambda item: -float(item["norm_ratio"]))[:MOST_UPDATES]:
        numbers = (
            f"{item['norm_ratio']:.3g} x the median norm, cosine {item['cosine']:.2f} to the others, {item['followed']:.2f} to the change"
        )
        console.print(Text(f"update {visible(str(item['name']))} ({visible(str(item['form']))}): {numbers}", "dim"))
    if len(updates) > MOST_UPDATES:
        console.print(Text(f"{len(updates) - MOST_UPDATES} smaller updates: the report has all", "dim"))


def _headline(verdict: str, files: Outcome | None) -> tuple[str, str]:
    """What stands in the first line, and its colour."""
    style, word = _STYLE.get(verdict, "red"), visible(verdict).upper()
    if verdict != "identical":
        return word, style
    if files is None or files.status is not Status.COMPLETED:
        return "WEIGHTS IDENTICAL, FILES NOT COMPARED", "yellow"
    paths = {finding.location.file for finding in files.findings}
    if not paths:
        return word, style
    return f"WEIGHTS IDENTICAL, {f'{len(paths)} FILES DIFFER' if len(paths) > 1 else '1 FILE DIFFERS'}", "yellow"


def _files(files: Outcome | None, console: Console, all: bool) -> None:
    """A line for every file that differs, and its first differences below."""
    from rich.text import Text

    if files is None:
        return
    if files.status is not Status.COMPLETED:
        console.print(Text(f"files not compared: {visible(files.reason) or files.status.value}", "bold yellow"))
    shown = files.findings if all else files.findings[:MOST_FILES]
    for finding in shown:
        console.print(
            Text(visible(finding.message), "dim" if finding.severity is not None and finding.severity < Severity.MEDIUM else "yellow")
        )
        places = finding.evidence.get("differences", ())
        for item in places if all else places[2:PLACES]:
            sides = (visible("absent" if item.get(side) is None else str(item[side])) for side in ("reference", "value"))
            console.print(Text(f"  {visible(str(item.get('place', '')))}: {' -> '.join(sides)}", "dim"))
    if len(files.findings) > len(shown):
        console.print(Text(f"{len(files.findings) - len(shown)} more files: --all shows every one", "dim"))


def bar(value: float, top: float, width: int = BAR) -> str:
    """A bar of eighths of a cell; the smallest change that is there at all shows."""
    if not value > 0 or top <= 0:
        return " " * width
    eighths = max(1, round(8 * width * min(1.0, value / top)))
    return ("█" * (eighths // 8) + ("" if eighths % 8 == 0 else " ▏▎▍▌▋▊▉"[eighths % 8])).ljust(width)


def _counts(summary: Mapping[str, Any]) -> str:
    words = [
        f"{count(summary.get('matched', 0), 'tensor')} compared",
        f"{summary.get('identical', 0)} identical",
        f"{len(summary['tensors'])} not",
    ]
    if summary.get("identical_by_digest"):
        words.append(f"{summary['identical_by_digest']} by digest only, not read")
    return ", ".join(words)


def _span(values: tuple[float, float]) -> str:
    low, high = (_number(value) for value in values)
    return high if low == high else f"{low} … {high}"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 1e4 else f"{value:.0e}"


def _lines(tensors: Sequence[Mapping[str, Any]], fold: bool) -> list[_Line]:
    folded: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for item in tensors:
        shape = "x".join(map(str, item.get("shape", ()))) or "scalar"
        key = (pattern(item["name"]) if fold else item["name"], item["kind"], item["rank"], shape)
        folded.setdefault(key, []).append(item)
    lines = []
    for (name, kind, rank, shape), items in folded.items():
        relative = [float(item["relative_norm"] or 0) for item in items]
        label = _folded(name, [layer(item["name"]) for item in items]) if fold and len(items) > 1 else items[0]["name"]
        fraction = sum(float(item.get("fraction", 0)) for item in items) / len(items)
        lines.append(_Line(label, kind, rank, len(items), (min(relative), max(relative)), fraction, shape))
    return sorted(lines, key=lambda line: (-line.relative[1], line.label))


def _folded(name: str, layers: Sequence[int | None]) -> str:
    numbers = sorted({number for number in layers if number is not None})
    return f"{name.replace('{}', '{' + _ranges(numbers) + '}', 1)} ×{len(layers)}"


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


@dataclass(frozen=True)
class DiffReporter(Reporter):
    """The diff as a table, every line as wide and colourful as the stream allows."""

    width: int = 100
    color: bool = False
    encoding: str = "utf-8"

    format = "diff"

    @classmethod
    def for_stream(cls, stream: TextIO) -> Self:
        from rich.console import Console

        console = Console(file=stream)
        width = console.width if stream.isatty() else cls.width
        return cls(max(width, 60), console.color_system is not None and not console.no_color, stream.encoding or "utf-8")

    def render(self, report: Report, decision: Decision) -> str:
        from rich.console import Console
        from rich.text import Text

        out = io.StringIO()
        console = Console(
            file=out, width=self.width, color_system="standard" if self.color else None, force_terminal=self.color, no_color=not self.color,
            markup=False, emoji=False, highlight=False, legacy_windows=False,
        )  # fmt: skip
        outcomes = {item.detector: item for item in report.outcomes}
        outcome = outcomes.get("weight-diff")
        if report.failure or outcome is None:
            console.print(Text(f"not compared: {visible(report.failure) or 'the detector weight-diff did not run'}", "bold yellow"))
        else:
            render(outcome, console, self.format == "diff-all", outcomes.get("reference-files"))
        nothing = "no objection" if report.policy.alone else "pass"
        answer = {"pass": nothing, "block": "blocked", "incomplete": "no verdict"}[decision.verdict.value]
        console.print(Text(f"{judged(report)}: {answer}", "bold"))
        if report.self_reference:
            console.print(Text(f"the reference is the target itself: {visible(report.self_reference)}", "yellow"))
        text = "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")) + "\n"
        return text.encode(self.encoding, "replace").decode(self.encoding)


@dataclass(frozen=True)
class DiffAllReporter(DiffReporter):
    """The diff with a line for every tensor."""

    format = "diff-all"
