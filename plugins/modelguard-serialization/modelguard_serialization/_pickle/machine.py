"""The unpickler's stack and memo, run without importing or calling anything.

Opcodes and their effect are those of CPython's ``Modules/_pickle.c`` and ``Lib/pickle.py`` (3.11 to 3.14), protocols 0 to 5. Where the
two differ, and where they would refuse an argument, the machine goes on: it stops only where every unpickler must, so that nothing an
unpickler would run lies behind the place where it stopped. Arguments are cut from the file, and values are shared, so time and memory
are linear in the opcodes.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from abc import ABC, abstractmethod
from collections.abc import Callable

from modelguard_serialization import limits
from modelguard_serialization._pickle.values import Call, Global, Persistent, Unknown, Value

LOOKED_THROUGH = 32
"""Characters from which on a text is looked through for what is hidden in it."""

_SHORT = 1 << 20
"""Bytes of a pickle that is copied before it is run."""


class BrokenError(Exception):
    """Every unpickler stops at this place; the text says why."""

    def __init__(self, why: str, limit: bool = False) -> None:
        super().__init__(why)
        self.limit = limit
        """Whether it is a limit of ours that was met, and not the end of what an unpickler reads."""


class Watch(ABC):
    """Who is told what the pickle does, while it does it."""

    @abstractmethod
    def imported(self, name: Global) -> None:
        """A name is looked up."""

    @abstractmethod
    def called(self, call: Call) -> None:
        """Something is called or instantiated. ``call.callee`` may be any value."""

    @abstractmethod
    def built(self, target: Value, state: Value, at: int) -> None:
        """BUILD: ``target.__setstate__(state)``, or attributes are set."""

    @abstractmethod
    def changed(self, target: Value, what: str, at: int) -> None:
        """Items are added to what is no plain list, dictionary or set: methods of ``target`` run."""

    @abstractmethod
    def odd(self, what: str, at: int) -> None:
        """Something no pickler writes."""

    @abstractmethod
    def literal(self, data: memoryview | str, at: int) -> None:
        """Bytes, or a text of some length."""


class Machine:
    """One pickle, from ``at`` to its STOP. ``check`` is called every few thousand opcodes and may raise.

    ``fork`` continues another machine at another place, with its stack and memo.
    """

    def __init__(self, data: memoryview, at: int, watch: Watch, check: Callable[[], None], fork: Machine | None = None) -> None:
        self.data = data
        whole = data.obj
        self.raw: bytes | memoryview = whole if type(whole) is bytes and len(whole) == len(data) else data
        """The same bytes, to be looked at one by one, which a view is slow at (:func:`compact`)."""
        self.at = at
        self.start = at
        self.watch = watch
        self.check = check
        self.stack: list[Value] = []
        self.metastack: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.proto = 0
        self.frame_end = 0
        self.opcodes = 0
        self.most = limits.PICKLE_OPCODES
        self.kept = 0
        self.persistents: list[Persistent] = []
        self.after_build: Callable[[Machine, Value, Value], None] | None = None
        """Called when BUILD is done; may move :attr:`at` past what a loader reads there by other means, and replace what was built."""
        if fork is not None:
            self.stack = list(fork.stack)
            self.metastack = [list(part) for part in fork.metastack]
            self.memo = _Over(fork.memo)
            self.proto, self.opcodes = fork.proto, fork.opcodes

    def take(self, size: int) -> memoryview:
        begin = self.at
        end = begin + size
        if end > len(self.data):
            raise BrokenError("it ends inside an argument")
        self.at = end
        return self.data[begin:end]

    def line(self) -> bytes:
        """An argument that ends with its line, without the line feed; empty with :attr:`at` past it when it is too long to follow."""
        begin, step = self.at, 256
        if type(self.raw) is bytes and (end := self.raw.find(b"\n", begin, begin + step)) >= 0:
            self.at = end + 1
            return self.raw[begin:end]
        while True:
            block = bytes(self.data[begin : begin + step])
            if (end := block.find(b"\n")) >= 0:
                self.at = begin + end + 1
                return block[:end]
            if len(block) < step:
                raise BrokenError("it ends inside an argument")
            if step > limits.PICKLE_LINE:
                raise BrokenError("it has a line past the limit", limit=True)
            step *= 4

    def pop_mark(self) -> list[Value]:
        if not self.metastack:
            raise BrokenError("it looks for a mark that is not there")
        items = self.stack
        self.stack = self.metastack.pop()
        return items

    def find(self, module: str, name: str, at: int) -> None:
        raw = module
        if self.proto < 3:
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[module, name]
            else:
                module = IMPORT_MAPPING.get(module, module)
        found = Global(module, name, at, raw)
        self.stack.append(found)
        self.watch.imported(found)

    def call(self, kind: str, callee: Value, args: Value, kwargs: Value, at: int) -> None:
        call = Call(kind, callee, args, kwargs, at)
        self.stack.append(call)
        self.watch.called(call)

    def keep(self, count: int) -> None:
        self.kept += count

    def text(self, raw: memoryview | bytes, encoding: str, errors: str = "strict") -> None:
        """Push the text ``raw`` stands for; one too long to be a name stays bytes."""
        if len(raw) > limits.PICKLE_TEXT:
            view = memoryview(raw)
            self.watch.literal(view, self.at - len(raw))
            self.stack.append(view)
            return
        try:
            text: Value = str(raw, encoding, errors)
        except ValueError:
            self.watch.odd("a text that is not valid in its encoding", self.at)
            text = Unknown("a text that is not valid in its encoding")
        else:
            if len(text) >= LOOKED_THROUGH:
                self.watch.literal(text, self.at - len(raw))
        self.stack.append(text)

    def bytes_(self, size: int) -> None:
        view = self.take(size)
        if size > 8:
            self.watch.literal(view, self.at - size)
        self.stack.append(view)


def compact(data: memoryview) -> memoryview:
    """``data``, in memory of its own where it is short."""
    return memoryview(bytes(data)) if len(data) <= _SHORT and not isinstance(data.obj, bytes) else data


class Deaf(Watch):
    """Lets everything pass."""

    def imported(self, name: Global) -> None: ...

    def called(self, call: Call) -> None: ...

    def built(self, target: Value, state: Value, at: int) -> None: ...

    def changed(self, target: Value, what: str, at: int) -> None: ...

    def odd(self, what: str, at: int) -> None: ...

    def literal(self, data: memoryview | str, at: int) -> None: ...


class _Over(dict[int, Value]):
    """A memo on top of another."""

    def __init__(self, below: dict[int, Value]) -> None:
        super().__init__()
        self.below = below

    def __missing__(self, key: int) -> Value:
        return self.below[key]

    def __len__(self) -> int:
        return len(self.below) + super().__len__()
