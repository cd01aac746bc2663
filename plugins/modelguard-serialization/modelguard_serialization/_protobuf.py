"""The protobuf wire format, walked in place. Source: https://protobuf.dev/programming-guides/encoding/."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelguard_serialization import limits
from modelguard_serialization.reader import NotReadError

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: ``[begin, end)`` is its content; ``value`` that of a varint, 0 for others."""

    number: int
    wire: int
    begin: int
    end: int
    value: int


class Messages:
    """The messages in ``data``, of which no more than ``limits.FIELDS`` fields are walked in all."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._left = limits.FIELDS

    def fields(self, begin: int = 0, end: int | None = None) -> Iterator[Field]:
        """The fields of the message in ``[begin, end)``. Raises :class:`NotReadError` where the bytes are no message."""
        data = self.data
        at, end = begin, len(data) if end is None else end
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise NotReadError(f"has more than {limits.FIELDS} protobuf fields")
            tag, at = self._varint(at, end)
            number, wire, value = tag >> 3, tag & 7, 0
            start = at
            if wire == LEN:
                length, start = self._varint(at, end)
                at = start + length
            elif wire == VARINT:
                value, at = self._varint(at, end)
            elif wire in (FIXED32, FIXED64):
                at += 4 if wire == FIXED32 else 8
            else:
                raise NotReadError(f"is no valid protobuf (wire type {wire} at byte {start})")
            if at > end or not 1 <= number < 1 << 29:
                raise NotReadError(f"is no valid protobuf (a field at byte {start} leaves its message)")
            yield Field(number, wire, start, at, value)

    def inside(self, field: Field) -> Iterator[Field]:
        """The fields of the message that a field holds; none when it holds no message."""
        return self.fields(field.begin, field.end) if field.wire == LEN else iter(())

    def children(self, parent: Field | None, *numbers: int) -> Iterator[Field]:
        """The messages under a path of field numbers below ``parent`` (None: the whole), every one of them."""
        for field in self.fields() if parent is None else self.inside(parent):
            if field.number == numbers[0] and field.wire == LEN:
                if len(numbers) == 1:
                    yield field
                else:
                    yield from self.children(field, *numbers[1:])

    def text(self, field: Field, size: int = 1000) -> str:
        """The content as text, of which at most ``size`` bytes."""
        return bytes(self.data[field.begin : min(field.end, field.begin + size)]).decode("utf-8", "replace")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for position in range(at, min(at + 10, end)):
            byte = self.data[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, position + 1
            shift += 7
        raise NotReadError(f"is no valid protobuf (a number at byte {at} has no end)")


def plausible(data: memoryview, numbers: frozenset[int], first: int = 64) -> bool:
    """Whether the first fields of ``data`` make a message with no other field numbers than ``numbers``."""
    try:
        for done, field in enumerate(Messages(data).fields()):
            if field.number not in numbers:
                return False
            if done >= first:
                return True
    except NotReadError:
        return False
    return len(data) > 0
