"""What lies on the stack of the pickle machine.

Strings, numbers, None and tuples stand for themselves; a list is a list of such values, bytes are a read-only memoryview of the file.
Everything else is one of these. Values are shared, never copied, and may contain themselves: nothing here compares or prints them.
"""

from __future__ import annotations

from typing import Any

Value = Any
"""str, int, float, bool, None, memoryview, tuple, list, or a class of this module."""


class Global:
    """A name that is imported. ``module`` and ``name`` are as Python 3 looks them up; ``raw`` is the module as the file writes it."""

    __slots__ = ("at", "module", "name", "raw")

    def __init__(self, module: str, name: str, at: int, raw: str) -> None:
        self.module, self.name, self.at, self.raw = module, name, at, raw

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """What ``callee`` gives when it is called with ``args`` and ``kwargs`` by the opcode ``kind``.

    ``state`` is what BUILD gave it, ``items`` what was appended to it, ``pairs`` what was set in it: keys and values in turn.
    """

    __slots__ = ("args", "at", "callee", "items", "kind", "kwargs", "pairs", "state")

    def __init__(self, kind: str, callee: Value, args: Value, kwargs: Value, at: int) -> None:
        self.kind, self.callee, self.args, self.kwargs, self.at = kind, callee, args, kwargs, at
        self.state: Value = None
        self.items: list[Value] | None = None
        self.pairs: list[Value] | None = None


class Dict:
    """A dictionary: ``pairs`` are keys and values in turn, in the order in which they were set."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[Value]) -> None:
        self.pairs = pairs

    def get(self, key: str) -> Value:
        """The value last set under a text, or None."""
        for index in range(len(self.pairs) - 2, -1, -2):
            if type(self.pairs[index]) is str and self.pairs[index] == key:
                return self.pairs[index + 1]
        return None


class SetOf:
    """A set or frozenset."""

    __slots__ = ("items",)

    def __init__(self, items: list[Value]) -> None:
        self.items = items


class Persistent:
    """What the loader's ``persistent_load`` gives for ``pid``."""

    __slots__ = ("at", "pid")

    def __init__(self, pid: Value, at: int) -> None:
        self.pid, self.at = pid, at


class Unknown:
    """A value that was not followed, and why."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why
