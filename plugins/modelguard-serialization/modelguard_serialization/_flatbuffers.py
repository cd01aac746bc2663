"""FlatBuffers, read in place. Source: https://flatbuffers.dev/internals/. Every position is checked before it is followed."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from modelguard_serialization import limits
from modelguard_serialization.reader import NotReadError


class Table:
    """A table at ``at`` of ``data``. What does not fit the data raises :class:`NotReadError`."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data = data
        self.at = at
        self._fields = at - _number(data, at, "<i")

    @classmethod
    def root(cls, data: memoryview) -> Table:
        """The table that the buffer is."""
        return cls(data, _number(data, 0, "<I"))

    def place(self, index: int) -> int | None:
        """Where field ``index`` is, or None when the table has none."""
        if 4 + 2 * index >= _number(self.data, self._fields, "<H"):
            return None
        offset = _number(self.data, self._fields + 4 + 2 * index, "<H")
        return self.at + offset if offset else None

    def number(self, index: int, kind: str = "<i") -> int:
        """The number in field ``index``; 0 when it is absent."""
        at = self.place(index)
        return 0 if at is None else _number(self.data, at, kind)

    def text(self, index: int) -> str:
        """The text in field ``index``; empty when it is absent."""
        at = self.place(index)
        if at is None:
            return ""
        at += _number(self.data, at, "<I")
        length = _number(self.data, at, "<I")
        if length > len(self.data) - at - 4:
            raise NotReadError("is no valid FlatBuffers file (a text leaves the file)")
        return bytes(self.data[at + 4 : at + 4 + min(length, 1000)]).decode("utf-8", "replace")

    def numbers(self, index: int) -> tuple[int, ...]:
        """The 32-bit numbers of the vector in field ``index``; none when it is absent."""
        at = self.place(index)
        if at is None:
            return ()
        at += _number(self.data, at, "<I")
        count = _number(self.data, at, "<I")
        if count > min(limits.FIELDS, (len(self.data) - at) // 4 - 1):
            raise NotReadError("is no valid FlatBuffers file (a list leaves the file)")
        return struct.unpack_from(f"<{count}i", self.data, at + 4)

    def tables(self, index: int) -> Iterator[Table]:
        """The tables of the vector in field ``index``."""
        at = self.place(index)
        if at is None:
            return
        at += _number(self.data, at, "<I")
        count = _number(self.data, at, "<I")
        if count > min(limits.FIELDS, (len(self.data) - at) // 4):
            raise NotReadError("is no valid FlatBuffers file (a list leaves the file)")
        for number in range(count):
            entry = at + 4 + 4 * number
            yield Table(self.data, entry + _number(self.data, entry, "<I"))


def _number(data: memoryview, at: int, kind: str) -> int:
    if not 0 <= at <= len(data) - struct.calcsize(kind):
        raise NotReadError("is no valid FlatBuffers file (a position leaves the file)")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value
