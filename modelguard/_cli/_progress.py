"""Progress on standard error: live on a terminal; elsewhere a line for each detector, and one every few seconds about what takes long."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

from modelguard._cli._streams import telling
from modelguard._reporters.escape import visible
from modelguard.report import Outcome, Status

LINE_SECONDS = 10.0
"""How often a log, as opposed to a terminal, gets another line about the same work."""
SURE_SECONDS = 3.0
"""How long work has gone on before what is left of it can be foretold."""


class ProgressDisplay:
    """Shows downloads and detectors at work. A context manager; leaving it clears the live display."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._told: dict[str, float] = {}
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def reading(self, done: int, total: int, note: str) -> None:
        self._show("reading", done, total, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB  {note}")

    def started(self, detector: str) -> None:
        self._show(detector, 0, 0, "")

    def progressed(self, detector: str, done: int, total: int, note: str) -> None:
        self._show(detector, done, total, note)

    def ended(self, outcome: Outcome, seconds: float) -> None:
        if self._live is not None:
            if outcome.detector in self._tasks:
                self._live.remove_task(self._tasks.pop(outcome.detector))
        elif not self._quiet and outcome.status is not Status.SKIPPED:  # what was skipped, and why, is in the report
            number = len(outcome.findings)
            count = f", {number} finding{'s' if number > 1 else ''}" if number else ""
            _line(f"{visible(outcome.detector)} {outcome.status.value} in {seconds:.1f} s{count}")

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        note, now = visible(note), time.monotonic()
        left = time_left(done, total, now - self._began.setdefault(name, now))
        if self._live is not None:
            if name not in self._tasks:
                self._tasks[name] = self._live.add_task(visible(name), total=None, note="", left="")
            self._live.update(self._tasks[name], completed=done, total=total or None, note=note, left=left)
        elif not self._quiet and now - self._told.setdefault(name, now) > LINE_SECONDS:
            share = f"{100 * done // total}%" if total else ""
            _line(" ".join(filter(None, (visible(name), share, left and f"({left})", note))))
            self._told[name] = now


def time_left(done: int, total: int, seconds: float) -> str:
    """How long the rest of some work takes if it goes on as it went for ``seconds``; empty while nobody can say."""
    if not 0 < done < total or seconds < SURE_SECONDS:
        return ""
    rest = seconds * (total - done) / done
    return f"{rest:.0f} s left" if rest < 90 else f"{rest / 60:.0f} min left" if rest < 5400 else f"{rest / 3600:.1f} h left"


def _line(text: str) -> None:
    with telling():
        print(f"modelguard: {text}", file=sys.stderr)
