"""The protobuf wire format, walked in place over a memory map.

Source: https://protobuf.dev/programming-guides/encoding/. Nothing is built from what a message claims: a field is a position, and
every length is checked against the message that holds it before anything is sliced. Groups (wire types 3 and 4) were removed
from the formats read here long ago and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from modelguard import _limits
from modelguard.errors import FormatError, LimitError

if TYPE_CHECKING:
    import numpy.typing as npt

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5

MAX_FIELDS = _limits.PROTOBUF_FIELDS

MAX_FIELD_NUMBER = (1 << 29) - 1
_BLOCK = 1 << 16
"""Bytes, or single values, decoded at once: vectorised, and small beside whatever holds the result."""

Kind = Literal["varint", "fixed32", "fixed64"]
_WIRE: dict[Kind, int] = {"varint": VARINT, "fixed32": FIXED32, "fixed64": FIXED64}


class Field(NamedTuple):
    """One field of a message. ``start`` is where its tag is, ``begin`` and ``end`` bound its content; all absolute."""

    number: int
    wire: int
    start: int
    begin: int
    end: int
    value: int
    """What a varint or fixed-width field holds, unsigned; 0 for ``LEN``."""


class Wire:
    """The fields of the messages in ``view``, which is the file ``path``."""

    def __init__(self, view: memoryview, path: str) -> None:
        self.view = view
        self.path = path
        self._left = MAX_FIELDS

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """The fields of the message in ``[begin, end)``. Raises :class:`FormatError` or :class:`LimitError`."""
        view, at = self.view, begin
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise LimitError(self.path, f"has more than {MAX_FIELDS} protobuf fields", "split the model", rule="MG0104")
            start = at
            tag = view[at]
            at += 1
            if tag > 0x7F:
                tag, at = self.varint(start, end)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number <= MAX_FIELD_NUMBER:
                raise self.wrong(start, f"field number {number} is impossible")
            value = 0
            content = at
            if wire == LEN:
                length, content = (view[at], at + 1) if at < end and view[at] < 0x80 else self.varint(at, end)
                if length > end - content:
                    raise self.wrong(start, f"field {number} claims {length} bytes, and {end - content} are left in its message")
                at = content + length
            elif wire == VARINT:
                value, at = self.varint(at, end)
            elif wire in (FIXED32, FIXED64):
                at += 4 if wire == FIXED32 else 8
                if at > end:
                    raise self.wrong(start, f"field {number} is cut off by the end of its message")
                value = int.from_bytes(view[content:at], "little")
            else:
                raise self.wrong(start, f"field {number} has wire type {wire}, which this format does not use")
            yield Field(number, wire, start, content, at, value)

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The unsigned 64-bit number at ``at``, and the position after it."""
        value = shift = 0
        for position in range(at, min(at + 10, end)):
            byte = self.view[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    raise self.wrong(at, "a number overflows 64 bits")
                return value, position + 1
            shift += 7
        raise self.wrong(at, "a number has more than 10 bytes" if end - at >= 10 else "a number is cut off by the end of its message")

    def numbers(self, begin: int, end: int, number: int, kind: Kind) -> Iterator[npt.NDArray[Any]]:
        """The values of a repeated scalar field of the message in ``[begin, end)``, packed or not, in blocks, as unsigned bits."""
        import numpy as np

        single: list[int] = []
        dtype = np.uint32 if kind == "fixed32" else np.uint64
        for field in self.fields(begin, end):
            if field.number != number:
                continue
            if field.wire == _WIRE[kind]:
                single.append(field.value)
                if len(single) < _BLOCK:
                    continue
            if single:
                yield np.array(single, dtype)
                single = []
            if field.wire == LEN:
                yield from self._packed(field, kind)
        if single:
            yield np.array(single, dtype)

    def _packed(self, field: Field, kind: Kind) -> Iterator[npt.NDArray[Any]]:
        import numpy as np

        if kind != "varint":
            width = 4 if kind == "fixed32" else 8
            if (field.end - field.begin) % width:
                raise self.wrong(
                    field.start, f"field {field.number} packs {field.end - field.begin} bytes, which is not a multiple of {width}"
                )
            for at in range(field.begin, field.end, _BLOCK):
                yield np.frombuffer(self.view[at : min(at + _BLOCK, field.end)], dtype=f"<u{width}")
            return
        at = field.begin
        while at < field.end:
            block = np.frombuffer(self.view[at : min(at + _BLOCK, field.end)], dtype=np.uint8)
            ends = np.flatnonzero(block < 0x80) + 1
            starts = np.concatenate(([0], ends[:-1])) if len(ends) else np.zeros(1, np.intp)
            lengths = np.diff(ends, prepend=0) if len(ends) else np.array([len(block)])
            if lengths.max() > 10:
                raise self.wrong(at, "a number has more than 10 bytes")
            if not len(ends):
                raise self.wrong(at, "a number is cut off by the end of its message")
            values = np.zeros(len(ends), np.uint64)
            for index in range(int(lengths.max())):
                has = lengths > index
                bits = block[starts[has] + index].astype(np.uint64) & np.uint64(0x7F)
                if index == 9 and bits.max() > 1:
                    raise self.wrong(at, "a number overflows 64 bits")
                values[has] |= bits << np.uint64(7 * index)
            yield values
            at += int(ends[-1])

    def wrong(self, at: int, cause: str) -> FormatError:
        """The error that the bytes at ``at`` are."""
        return FormatError(f"{self.path}, byte {at}", cause, "download or export it again, and do not load it as it is")


def encode_varint(value: int) -> bytes:
    """``value`` (unsigned) in the shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(number: int, content: bytes) -> bytes:
    """A ``LEN`` field."""
    return encode_varint(number << 3 | LEN) + encode_varint(len(content)) + content
