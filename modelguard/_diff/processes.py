"""Work spread over processes that are forked from this one and share its memory-mapped files.

Threads would wait for each other instead: numpy gives the interpreter lock up and takes it back for every operation on a block, which
lasts some ten microseconds, about as long as handing the lock over.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from modelguard.errors import ModelguardError

PATIENCE = 0.5
"""Seconds between two calls of ``check`` while every process is busy."""

T = TypeVar("T")
R = TypeVar("R")


def scatter(function: Callable[[T], R], items: Sequence[T], processes: int, check: Callable[[], None]) -> Iterator[tuple[int, R]]:
    """(index, ``function(item)``) for every item, in the order in which they are done; ``items`` are begun in their own order.

    Runs in this process where ``processes`` is 1, where forking is not safe (anywhere but on Linux) and in processes that may have no
    children. ``function`` and ``items`` need not be picklable, results and exceptions need be. An exception of any of them, or of
    ``check``, ends all.

    Raises ``ModelguardError`` when a process dies.
    """
    processes = min(processes, len(items))
    if processes < 2 or sys.platform != "linux" or multiprocessing.current_process().daemon:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    with contextlib.ExitStack() as stack:
        idle: list[Connection[Any, Any]] = []
        for _ in range(processes):
            idle.append(_fork(function, items, list(idle), stack))
        waiting, busy = iter(range(len(items))), set[Any]()
        while True:
            for connection in idle:
                if (index := next(waiting, None)) is not None:
                    connection.send(index)
                    busy.add(connection)
            if not busy:
                return
            idle = []
            check()
            for connection in cast("list[Connection[Any, Any]]", wait(busy, PATIENCE)):
                try:
                    index, result, error = connection.recv()
                except (EOFError, ConnectionError):
                    raise ModelguardError(
                        "comparison", "one of its processes was killed", "give it more memory or fewer --threads"
                    ) from None
                if error is not None:
                    raise error
                busy.remove(connection)
                idle.append(connection)
                yield index, result


def _fork(
    function: Callable[[T], Any], items: Sequence[T], others: Sequence[Connection[Any, Any]], stack: contextlib.ExitStack
) -> Connection[Any, Any]:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, items, theirs, [*others, mine]), daemon=True)
    with warnings.catch_warnings():
        # Other threads of this process hold no lock that the child, which computes and writes to its pipe, could wait for.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(process.kill)
    stack.callback(mine.close)
    return mine


def _serve(function: Callable[[T], Any], items: Sequence[T], connection: Any, strangers: Sequence[Any]) -> None:
    # Ctrl-C is the parent's to handle; without the others' ends of the pipes, this one breaks when the parent is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stranger in strangers:
        stranger.close()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            index = connection.recv()
            try:
                answer: tuple[int, Any, BaseException | None] = index, function(items[index]), None
            except Exception as error:
                answer = index, None, error
            connection.send(answer)
