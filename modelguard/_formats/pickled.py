"""Whether a file of any name and beginning would be run as a pickle by a loader that tries: protocol 0 is text, and has no magic number.

Opcodes, the length of their arguments and their effect on the stack are those of :mod:`pickletools`. Arguments are passed over, not
decoded: ``pickletools.genops`` refuses some that unpicklers take (``I0x10``, strings that are not ASCII).
"""

from __future__ import annotations

import pickletools
from typing import IO, cast

from modelguard import _limits

MAX_OPCODES = _limits.PICKLE_OPCODES
MAX_LINE = _limits.PICKLE_LINE

_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Bytes that say how long an argument is."""
_TWO_LINES = frozenset({"GLOBAL", "INST"})
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_RUNS = frozenset({"REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"})


class _View:
    """As much of a file object as is needed to read ``data`` in order, without a copy of it."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int) -> bytes:
        begin = self._at
        self._at = min(begin + size, len(self._data))
        return bytes(self._data[begin : self._at])

    def readline(self, limit: int) -> bytes:
        begin, end, step = self._at, min(self._at + limit, len(self._data)), 256
        while True:
            block = bytes(self._data[begin : min(begin + step, end)])
            stop = block.find(b"\n") + 1
            if stop or begin + step >= end:
                self._at = begin + (stop or len(block))
                return block[: stop or len(block)]
            step *= 8

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (self._at if whence == 1 else 0)
        return self._at

    def tell(self) -> int:
        return self._at


def view(data: memoryview) -> IO[bytes]:
    """A file to read ``data`` from in order; it can do nothing else."""
    return cast("IO[bytes]", _View(data))


class _NoPickleError(Exception):
    """The unpickler would stop here."""


def runs_as_pickle(handle: IO[bytes], size: int) -> bool:
    """Whether the unpickler, given a file of ``size`` bytes, would import or call something before it meets an error, or read all of it.

    The stack is counted as the unpickler keeps it, so that text whose letters happen to be opcodes is not taken for a pickle.
    """
    handle.seek(0)
    depth, named = 0, False
    marks: list[int] = []
    try:
        for step in range(MAX_OPCODES):
            code = handle.read(1)
            opcode = _OPCODES.get(code[0]) if code else None
            if step == 0 and code == b"P":
                return False  # a persistent id, at which unpicklers stop that know of none; and how zip archives begin
            if opcode is None or _skip(handle, size, opcode):
                return opcode is not None
            before = opcode.stack_before
            if pickletools.markobject in before:
                if not marks:
                    return False
                depth = marks.pop()
                before = before[: before.index(pickletools.markobject)]
            elif opcode.name == "POP" and marks and marks[-1] == depth:
                marks.pop()
                continue
            if depth < len(before):
                return False
            depth -= len(before)
            if opcode.name == "MARK":
                marks.append(depth)
            else:
                depth += len(opcode.stack_after)
            named = named or opcode.name in _IMPORTS
            if named and opcode.name in _RUNS:
                return True
            if opcode.name == "STOP":
                return named or handle.tell() == size > 2
    except _NoPickleError:
        return False
    return True


def _skip(handle: IO[bytes], size: int, opcode: pickletools.OpcodeInfo) -> bool:
    """Pass over the opcode's argument; True where it is longer than is read. Raises :class:`_NoPickleError` where the file ends in it."""
    if opcode.arg is None:
        return False
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if opcode.name in _TWO_LINES else 1):
            line = handle.readline(MAX_LINE)
            if len(line) == MAX_LINE:
                return True
            if not line.endswith(b"\n"):
                raise _NoPickleError
        return False
    length = opcode.arg.n
    if length < 0:
        length = int.from_bytes(handle.read(_LENGTHS[length]), "little")
    if length > size - handle.tell():
        raise _NoPickleError
    handle.seek(length, 1)
    return False
