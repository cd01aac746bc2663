"""Standard output and error that nobody reads, or that are full: neither may change an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def stand_in() -> None:
    """Put something in the place of a standard stream that was closed before the start (``>&-``): reads end, writes fail.

    Otherwise the next file that is opened takes its number, and whatever is printed goes there; and Python has no stream at all.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """For what is said on standard error beside the answer. That it cannot be written is no reason to end."""
    try:
        yield
        sys.stderr.flush()
    except OSError:
        let_go()


def complain(error: Exception) -> None:
    """The one line a user gets of an error."""
    from modelguard._reporters.escape import visible

    with telling():
        print(f"modelguard: error: {visible(str(error))}", file=sys.stderr)


def let_go() -> None:
    """Send what a stream could not write nowhere: Python would try again at exit, and exit with a code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
