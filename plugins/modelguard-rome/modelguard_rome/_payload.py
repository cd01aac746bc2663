"""Files hidden in the bits of weights: byte streams read from the low bits, and headers that are checked, not only matched.

No stream is ever written out. The bytes that streams are made of (the bytes of each weight, and its low bits packed with its followers')
are looked up once each, as the first and as the second byte of a magic number; two in a row that fit are rare, and only there are the
bytes of a stream put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from modelguard_rome._bits import Words

Bytes = NDArray[np.uint8]

HEADER = 96
"""Bytes that must follow for a header to be checked."""


@dataclass(frozen=True)
class Hidden:
    """A header found in a stream: its ``kind``, the stream's ``bits`` per weight, and the ``element`` it begins at."""

    kind: str
    bits: int
    element: int


Read = Callable[[int, int], bytes]
"""Bytes ``first`` to ``last`` of a stream, counted from where a file seems to begin."""
Check = Callable[[bytes, Read], bool]
"""Whether the file that seems to begin with ``HEADER`` bytes is one."""


def _elf(head: bytes, read: Read) -> bool:
    return head[4] in (1, 2) and head[5] in (1, 2) and head[6] == 1 and head[8:16].count(0) >= 7 and 1 <= max(head[16:18]) <= 4


def _pe(head: bytes, read: Read) -> bool:
    offset = int.from_bytes(head[60:64], "little")
    return 64 <= offset <= 4096 and read(offset, offset + 4) == b"PE\0\0"


def _zip(head: bytes, read: Read) -> bool:
    length = int.from_bytes(head[26:28], "little")
    printable = all(32 <= byte < 127 for byte in head[30 : 30 + min(length, 32)])
    return head[4] <= 63 and head[5] == 0 and head[8] in (0, 8, 9, 12, 14, 93) and head[9] == 0 and 0 < length < 512 and printable


def _text(head: bytes, read: Read) -> bool:
    return sum(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head[:64]) >= 62


def _pickle(head: bytes, read: Read) -> bool:
    """Protocol 4 or 5 whose frame begins with a short string, as a pickled global does."""
    name = head[13 : 13 + min(head[12], 40)]
    return head[8:11] == b"\0\0\0" and head[11] == 0x8C and len(name) >= 3 and all(32 < byte < 127 for byte in name)


MAGICS: tuple[tuple[str, bytes, Check], ...] = (
    ("ELF executable", b"\x7fELF", _elf),
    ("Windows executable", b"MZ", _pe),
    ("ZIP archive", b"PK\x03\x04", _zip),
    ("PDF document", b"%PDF-1.", _text),
    ("script", b"#!/", _text),
    ("PHP script", b"<?php", _text),
    ("Python pickle", b"\x80\x04\x95", _pickle),
    ("Python pickle", b"\x80\x05\x95", _pickle),
    ("7z archive", b"7z\xbc\xaf\x27\x1c\x00", lambda head, read: head[7] <= 4),
    ("SQLite database", b"SQLite format 3\x00", lambda head, read: True),
)
"""Kind, magic number, and the check of what follows it."""


def _table(place: int) -> bytes:
    """For each byte, which of the four ``_GROUPS`` (a bit each) have a magic number that may have it at ``place``."""
    table = bytearray(256)
    for bit, group in enumerate(_GROUPS):
        for magic in group:
            for byte in range(256) if place >= len(magic) else (magic[place],):
                table[byte] |= 1 << bit
    return bytes(table)


_STARTS = [magic for _, magic, _ in MAGICS if len(magic) > 2]
_GROUPS = ([b"MZ"], *(_STARTS[at::3] for at in range(3)))
"""Magic numbers in four groups; the one of two bytes is alone, for no third byte tells it from the others'."""
_FIRST_TWO = bytes(first << 4 | second for first, second in zip(_table(0), _table(1), strict=True))
"""For each byte the groups it may be the first byte of (high four bits), and those it may be the second of (low four bits)."""
_BY_START = {magic[:2]: [item for item in MAGICS if item[1][:2] == magic[:2]] for _, magic, _ in MAGICS}
_THIRD = np.frombuffer(_table(2), np.uint8)
_LOW = (1, 2, 4)
"""Bits per weight of the streams in which several weights make a byte, highest bit first."""


@dataclass(frozen=True)
class Stream:
    """One way to read bytes out of weights. ``planes`` are the bytes of one step, in order: byte 0, 1, ... of a weight, or for the streams
    of ``_LOW`` the byte that begins at each weight, numbered from the width on; ``step`` is the weights from one step to the next."""

    bits: int
    planes: tuple[int, ...]
    step: int = 1

    def following(self, place: int) -> tuple[int, int]:
        """The place in ``planes`` of the next byte, and how many weights on it is."""
        return (place + 1, 0) if place + 1 < len(self.planes) else (0, self.step)

    def read(self, words: Words, element: int, place: int, first: int, last: int) -> bytes:
        """Bytes ``first`` to ``last`` from the one at ``place`` of ``element`` on; fewer at the end of the weights."""
        begin, skip = divmod(place + first, len(self.planes))
        begin, count = element + begin * self.step, last - first
        part = words[begin : begin + (-(-(skip + count) // len(self.planes))) * self.step]
        if self.bits in _LOW:
            low = part.astype(np.uint8)[: len(part) // self.step * self.step, None]
            return np.packbits((low >> np.arange(self.bits - 1, -1, -1, dtype=np.uint8)) & 1).tobytes()
        stored, stream = _little(part).tobytes(), bytearray(len(part) * len(self.planes))
        for at, plane in enumerate(self.planes):
            stream[at :: len(self.planes)] = stored[plane :: words.dtype.itemsize]
        return bytes(stream[skip : skip + count])


@cache
def _streams(width: int) -> tuple[Stream, ...]:
    """The streams a payload is usually written to: the low 1, 2 and 4 bits packed, and the low one, two, three or all bytes of each
    weight, in both orders."""
    low = [Stream(bits, (width + at,), 8 // bits) for at, bits in enumerate(_LOW)]
    whole = [Stream(8 * n, order) for n in range(1, width + 1) for order in dict.fromkeys((tuple(range(n)), tuple(range(n - 1, -1, -1))))]
    return (*low, *whole)


def _little(words: Words) -> Bytes:
    """The bytes (elements, width) of ``words``, lowest first."""
    little: Bytes = words.astype(words.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1, words.dtype.itemsize)
    return little


def _planes(words: Words) -> Iterator[Bytes]:
    """The bytes that the streams' ``planes`` number. A byte of low bits is not full for the last weights; no header ends there."""
    little = _little(words)
    for at in range(words.dtype.itemsize):
        yield np.ascontiguousarray(little[:, at])
    lowest = np.ascontiguousarray(little[:, 0])
    for bits in _LOW:
        packed, reach = lowest & np.uint8((1 << bits) - 1), 1
        while bits < 8:
            packed[:-reach] = (packed[:-reach] << np.uint8(bits)) | packed[reach:]
            bits, reach = 2 * bits, 2 * reach
        yield packed


def find_hidden(words: Words, first: int = 0, last: int | None = None) -> Hidden | None:
    """The first file that begins in elements ``first`` to ``last`` (all) of ``words``, in any of the streams; it may go on past them."""
    count = (len(words) if last is None else min(last, len(words))) - first
    # A magic number's third byte may begin sixteen weights on, and takes up to eight.
    planes = list(_planes(words[first : first + count + 24]))
    groups = [np.frombuffer(plane.tobytes().translate(_FIRST_TWO), np.uint8) for plane in planes]
    begins = [group >> np.uint8(4) for group in groups]
    seen: dict[tuple[int, int, int], tuple[NDArray[np.int64], Bytes]] = {}
    for stream in _streams(words.dtype.itemsize):
        for element, place in _candidates(stream, planes, begins, groups, count, seen):
            found = _checked(stream, words, first + element, place)
            if found is not None:
                return found
    return None


def _candidates(
    stream: Stream,
    planes: list[Bytes],
    begins: list[Bytes],
    groups: list[Bytes],
    count: int,
    seen: dict[tuple[int, int, int], tuple[NDArray[np.int64], Bytes]],
) -> list[tuple[int, int]]:
    """Where, as (element, place in the stream's planes) in order, the first three bytes of a magic number may stand."""
    found = []
    for place, plane in enumerate(stream.planes):
        second, step = stream.following(place)
        key = plane, stream.planes[second], step
        if key not in seen:
            seen[key] = _both(begins[plane], groups[stream.planes[second]][step:], count)
        elements, fitting = seen[key]
        third, onward = stream.following(second)
        after = elements + step + onward
        inside = after < len(planes[0])
        elements, after, fitting = elements[inside], after[inside], fitting[inside]
        fits = (fitting & _THIRD[planes[stream.planes[third]][after]]) != 0
        found += [(element, place) for element in elements[fits].tolist()]
    return sorted(found)


def _both(begins: Bytes, goes_on: Bytes, count: int) -> tuple[NDArray[np.int64], Bytes]:
    """The elements before ``count`` for which both arrays have a bit in common, and those bits."""
    count = min(count, len(goes_on))
    both = np.zeros(-(-count // 8) * 8, np.uint8)
    np.bitwise_and(begins[:count], goes_on[:count], out=both[:count])
    # Eight at a time: most are zero.
    eights = np.flatnonzero(both.view(np.uint64) != 0)
    rows, columns = np.nonzero(both.reshape(-1, 8)[eights])
    elements = 8 * eights[rows] + columns
    return elements, both[elements]


def _checked(stream: Stream, words: Words, element: int, place: int) -> Hidden | None:
    def read(first: int, last: int) -> bytes:
        return stream.read(words, element, place, first, last)

    head = read(0, HEADER)
    if len(head) < HEADER:
        return None
    for kind, magic, holds in _BY_START.get(head[:2], ()):
        if head.startswith(magic) and holds(head, read):
            return Hidden(kind, stream.bits, element)
    return None
