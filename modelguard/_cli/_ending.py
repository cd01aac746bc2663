"""Signals that end the command: each unwinds it like an exception, so that no worker and no temporary folder is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP."""


def listen() -> None:
    """Take the signals, but those that whoever started the command has them ignored."""
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def leave(code: int) -> NoReturn:
    """End the process, which has been unwound, without waiting for threads: one may read from a server that is silent."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _end(signum: int, frame: object) -> NoReturn:
    # A second signal would cut short the unwinding that ends the worker and removes its folder. A function that does nothing, not
    # SIG_IGN: Python complains on standard error about a signal that arrived just before it was ignored.
    for number in ENDING:
        signal.signal(number, _already_ending)
    raise KeyboardInterrupt if signum == signal.SIGINT else Terminated


def _already_ending(signum: int, frame: object) -> None: ...
