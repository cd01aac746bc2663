"""Whether a file of any name and beginning would be run as a pickle by a loader that tries: protocol 0 is text, and has no magic number.

Opcodes and their effect on the stack are those of :mod:`pickletools`, which decodes and imports nothing.
"""

from __future__ import annotations

import pickletools
from typing import IO

from modelguard.artifact import ArtifactFile

MAX_OPCODES = 100_000
"""Opcodes that are followed. Nothing but a pickle decodes that far, so what does is taken for one."""
MAX_ARGUMENT = 1 << 26
"""Bytes of one opcode's argument that are read. A file that has more of them in one place is taken for a pickle too."""

_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_RUNS = frozenset({"REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"})


class _PastLimitError(Exception):
    pass


class _Bounded:
    """A file that refuses to read more at once than :data:`MAX_ARGUMENT`."""

    def __init__(self, handle: IO[bytes], size: int) -> None:
        self._handle = handle
        self._size = size

    def read(self, size: int) -> bytes:
        if MAX_ARGUMENT < size <= self._size - self._handle.tell():
            raise _PastLimitError
        return self._handle.read(min(size, MAX_ARGUMENT))

    def readline(self) -> bytes:
        line = self._handle.readline(MAX_ARGUMENT)
        if len(line) == MAX_ARGUMENT:
            raise _PastLimitError
        return line

    def tell(self) -> int:
        return self._handle.tell()


def runs_as_pickle(file: ArtifactFile) -> bool:
    """Whether the unpickler would import or call something before it meets an error, or would read the whole file.

    The stack is counted as the unpickler keeps it, so that text whose letters happen to be opcodes is not taken for a pickle. Raises
    :class:`~modelguard.errors.ArtifactError` when the file cannot be read.
    """
    with file.open() as handle:
        depth, named = 0, False
        marks: list[int] = []
        try:
            for number, (opcode, _, _) in enumerate(pickletools.genops(_Bounded(handle, file.size))):  # type: ignore[arg-type]
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
                if named and (opcode.name in _RUNS or opcode.name == "STOP"):
                    return True
                if number >= MAX_OPCODES:
                    return True
        except _PastLimitError:
            return True
        except (ValueError, OverflowError):
            return False
        return handle.tell() == file.size > 2
