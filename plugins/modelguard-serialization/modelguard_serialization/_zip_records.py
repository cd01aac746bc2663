"""The records of a zip archive (APPNOTE.TXT 6.3.10, section 4.3), each as far as the bytes of it are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

END = b"PK\x05\x06"
END64 = b"PK\x06\x06"
LOCATOR64 = b"PK\x06\x07"
LISTED = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"
DESCRIPTOR = b"PK\x07\x08"

TAIL = 22 + 0xFFFF
"""Bytes before the end of a file in which readers look for the end record."""
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_LISTED = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where an end record says that the directory lies: its entries, length and offset, and the place that it ends at."""

    entries: int
    length: int
    offset: int
    end: int

    def starts(self) -> tuple[int, ...]:
        """CPython's zipfile counts back from the record by the length; miniz, and with it PyTorch, goes to the offset."""
        return tuple(dict.fromkeys((self.end - self.length, self.offset)))


@dataclass(frozen=True, slots=True)
class End:
    """An end of central directory record at ``at``, and the directories that it, or the zip64 record before it, points to."""

    at: int
    stop: int
    """Where its comment ends by its own account."""
    split: bool
    """Whether it says that the archive goes on in other files."""
    pointers: tuple[Pointer, ...]
    records: tuple[tuple[int, int], ...]
    """The stretches that it and its zip64 companions take up, without the comment."""


def ends(data: memoryview) -> Iterator[End]:
    """Every end record in the tail, the last first, because readers take the last."""
    base = max(0, len(data) - TAIL)
    tail = bytes(data[base:])
    at = tail.rfind(END)
    while at >= 0:
        if len(tail) - at >= 22:
            yield _end(data, base + at)
        at = tail.rfind(END, 0, at)


def _end(data: memoryview, at: int) -> End:
    disk, first, here, entries, length, offset, comment = struct.unpack_from("<4H2LH", data, at + 4)
    pointers = [Pointer(entries, length, offset, at)]
    records = [(at, at + 22)]
    split = any(number not in (0, _FULL16) for number in (disk, first)) or (here != entries and here != _FULL16)
    if at >= 20 and data[at - 20 : at - 16] == LOCATOR64:
        records.append((at - 20, at))
        for place in dict.fromkeys((at - 76, int.from_bytes(data[at - 12 : at - 4], "little"))):
            if 0 <= place <= at - 76 and data[place : place + 4] == END64:
                (own,) = struct.unpack_from("<Q", data, place + 4)
                disk, first, _, entries64, length64, offset64 = struct.unpack_from("<2L4Q", data, place + 16)
                split = split or disk != 0 or first != 0
                pointers.insert(0, Pointer(entries64, length64, offset64, place))
                records.append((place, max(place + 56, min(place + 12 + own, at - 20))))
        if len(pointers) > 1 and (entries, length, offset) == (_FULL16, _FULL32, _FULL32):
            pointers.pop()
    return End(at, at + 22 + comment, split, tuple(dict.fromkeys(pointers)), tuple(records))


@dataclass(frozen=True, slots=True)
class Header:
    """What a directory entry (``listed``) or a local header at ``at`` says of a member. ``stop`` is where the header ends.

    ``offset`` is that of the local header, in an entry; ``attributes`` are the external ones.
    """

    at: int
    stop: int
    name: str
    other_name: str
    """The name that the Info-ZIP field for Unicode paths gives it (4.6.9), where that holds for the name in the header."""
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int = 0
    attributes: int = 0
    disk: int = 0
    comment: tuple[int, int] = (0, 0)
    flawed: str = ""
    """What is wrong with the header itself."""


def listed(data: memoryview, at: int) -> Header | None:
    """The directory entry at ``at``, or None where there is none."""
    if at < 0 or len(data) - at < _LISTED.size or data[at : at + 4] != LISTED:
        return None
    _, _, _, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, attributes, offset = _LISTED.unpack_from(data, at)
    return _header(data, at, _LISTED.size, lengths, flags, method, crc, packed, size, offset, attributes, disk)


def local(data: memoryview, at: int) -> Header | None:
    """The local header at ``at``, or None where there is none."""
    if at < 0 or len(data) - at < _LOCAL.size or data[at : at + 4] != LOCAL:
        return None
    _, _, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack_from(data, at)
    return _header(data, at, _LOCAL.size, (name, extra, 0), flags, method, crc, packed, size)


def _header(
    data: memoryview,
    at: int,
    fixed: int,
    lengths: Sequence[int],
    flags: int,
    method: int,
    crc: int,
    packed: int,
    size: int,
    offset: int | None = None,
    attributes: int = 0,
    disk: int = 0,
) -> Header:
    name_at = at + fixed
    extra_at = name_at + lengths[0]
    comment_at = extra_at + lengths[1]
    stop = comment_at + lengths[2]
    raw = bytes(data[name_at:extra_at])
    flawed = "ends with the file" if stop > len(data) else ""
    other = ""
    wide = [value == _FULL32 for value in (size, packed, offset)]
    for kind, field in _extra(bytes(data[extra_at:comment_at])):
        if kind == 0x0001:
            # Only the values that are all ones in the header are here, in this order (4.5.3).
            values = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            try:
                size = next(values) if wide[0] else size
                packed = next(values) if wide[1] else packed
                offset = next(values) if wide[2] else offset
            except StopIteration:
                flawed = "has a zip64 field that is too short"
        elif kind == 0x7075 and len(field) > 5 and field[0] == 1 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
            other = field[5:].decode("utf-8", "backslashreplace")
    try:
        name = raw.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        name = raw.decode("utf-8", "backslashreplace")
        flawed = "has a name that is not UTF-8, as it should be"
    comment = (comment_at, min(stop, len(data)))
    return Header(at, stop, name, other, flags, method, crc, packed, size, offset or 0, attributes, disk, comment, flawed)


def _extra(field: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(field):
        kind, length = struct.unpack_from("<2H", field, at)
        yield kind, field[at + 4 : at + 4 + length]
        at += 4 + length


def descriptor(data: memoryview, at: int, crc: int, packed: int, size: int) -> tuple[int, bool]:
    """The length of the data descriptor at ``at`` (4.3.9), and whether it says the same; (0, True) where none is recognised."""
    for wide in (False, True):
        try:
            values = struct.pack("<L2Q" if wide else "<3L", crc, packed, size)
        except struct.error:
            continue
        for expected in (DESCRIPTOR + values, values):
            if data[at : at + len(expected)] == expected:
                return len(expected), True
    if data[at : at + 4] == DESCRIPTOR:
        return (24 if bytes(data[at + 24 : at + 26]) == b"PK" != bytes(data[at + 16 : at + 18]) else 16), False
    return 0, True
