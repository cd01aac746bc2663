"""Whether a file of any name and beginning would be run as a pickle by a loader that tries: protocol 0 is text, and has no magic number.

Opcodes and their effect on the stack are those of :mod:`pickletools`, which decodes and imports nothing.
"""

from __future__ import annotations

import pickletools
import re
from typing import IO

from modelguard.artifact import ArtifactFile

MAX_OPCODES = 100_000
"""Opcodes that are followed. Nothing but a pickle decodes that far, so what does is taken for one."""
MAX_ARGUMENT = 1 << 26
"""Bytes of one opcode's argument that are read."""

_RUNS = frozenset({"REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"})
_NAMES = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)* [^\W\d]\w*(?:\.[^\W\d]\w*)*")


class _Bounded:
    """A file that refuses to read more at once than an opcode may carry."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle

    def read(self, size: int) -> bytes:
        if size > MAX_ARGUMENT:
            raise ValueError("an argument past the limit")
        return self._handle.read(size)

    def readline(self) -> bytes:
        return self._handle.readline(MAX_ARGUMENT)

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
            for number, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(handle))):  # type: ignore[arg-type]
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
                if opcode.name in ("GLOBAL", "INST"):
                    if not _NAMES.fullmatch(str(argument)):
                        return False
                    named = True
                named = named or opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
                if named and (opcode.name in _RUNS or opcode.name == "STOP"):
                    return True
                if number >= MAX_OPCODES:
                    return True
        except (ValueError, OverflowError):
            return False
        return handle.tell() == file.size > 2
