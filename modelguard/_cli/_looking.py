"""A scan that Ctrl-C may end, and what the command ends with then."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard._cli._streams import telling

if TYPE_CHECKING:
    from modelguard._scanner.prepare import Prepared
    from modelguard.report import Report


def looked(prepared: Prepared, quiet: bool) -> tuple[Report, bool]:
    """The report of a scan, and whether Ctrl-C ended it."""
    from modelguard._cli._progress import ProgressDisplay
    from modelguard._scanner.scan import Interrupted

    try:
        with ProgressDisplay(quiet) as display:
            report, interrupted = prepared.scan(display), False
    except Interrupted as error:
        report, interrupted = error.report, True
    tell_uncached([report], quiet)
    return report, interrupted


def tell_uncached(reports: Iterable[Report], quiet: bool) -> None:
    """Say once why what was found is not kept, where it should have been. No verdict depends on it."""
    from modelguard._reporters.escape import visible

    problem = next((str(said) for report in reports if (said := report.timings.get("cache"))), "")
    if problem and not quiet:
        with telling():
            print(f"modelguard: went on without {visible(problem)}", file=sys.stderr)


def ended(code: int, *, interrupted: bool) -> int:
    """The exit code of what was delivered with ``code``; says so where Ctrl-C ended it."""
    from modelguard._cli import EXIT_INTERRUPTED

    if not interrupted:
        return code
    with telling():
        print("modelguard: interrupted; the report has what was found until then", file=sys.stderr)
    return EXIT_INTERRUPTED
