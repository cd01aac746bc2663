"""A fleet at work, on standard error: a live table on a terminal; elsewhere a line for each model that is done."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modelguard._cli._progress import time_left
from modelguard._cli._streams import telling
from modelguard._reporters.escape import shorten, visible

if TYPE_CHECKING:
    from modelguard._fleet.targets import FleetTarget

WORDS = {"block": "BLOCKED", "incomplete": "NO VERDICT", "pass": "PASS"}
_STYLES = {"block": "bold red", "incomplete": "bold yellow", "pass": "green"}
RECENT = 8


class FleetDisplay:
    """A context manager; leaving it clears the live table."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._recent: deque[tuple[str, str]] = deque(maxlen=RECENT)
        self._live: Any = None
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4, get_renderable=self._drawn)

    def __enter__(self) -> FleetDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def ended(self, target: FleetTarget, row: Mapping[str, Any]) -> None:
        """One model is done."""
        self._counts[row["verdict"]] += 1
        shown = visible(f"{target.name}: {target.uri}" if target.name else target.uri)
        self._recent.append((row["verdict"], shown))
        if self._live is None and not self._quiet:
            with telling():
                print(f"modelguard: {self._counts.total()} of {self._total}: {WORDS[row['verdict']]} {shown}", file=sys.stderr)

    def _drawn(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        done = self._counts.total()
        left = time_left(done, self._total, time.monotonic() - self._began)
        said = ", ".join(f"{self._counts[verdict]} {word}" for verdict, word in WORDS.items() if self._counts[verdict])
        table = Table(title=f"{done} of {self._total} models  {said}  {left}".rstrip(), box=None, title_justify="left", show_header=False)
        for verdict, uri in self._recent:
            table.add_row(Text(WORDS[verdict], _STYLES[verdict]), Text(shorten(uri, 100)))
        return table
