"""Files hidden in the bits of weights: byte streams read from the low bits, and headers that are checked, not only matched.

No stream is ever written out. The bytes that streams are made of (the bytes of each weight, and its low bits packed with its followers')
are looked up once each, as the first and as the second byte of a magic number; two in a row that fit are rare, and only there are the
bytes of a stream put together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from modelguard_rome._bits import Counts, Words

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


_BY_START = {magic[:2]: [item for item in MAGICS if item[1][:2] == magic[:2]] for _, magic, _ in MAGICS}
_LATER = (2, 3, 62, 63)
"""Places after the first two bytes that are looked up before a header is read: two more, and two that are zero in a Windows
executable (the higher half of where its PE header lies), whose magic number is too short to be rare."""
_ALONE = (b"MZ", b"<?php")
_OTHERS = [magic for _, magic, _ in MAGICS if magic not in _ALONE]
_GROUPS = (*([magic] for magic in _ALONE), _OTHERS[: len(_OTHERS) // 2], _OTHERS[len(_OTHERS) // 2 :])
"""Magic numbers in four groups, a bit each. Alone are the shortest, and the one that begins as the highest byte of many weights does:
0x3c is the first of float32 numbers around 0.015."""


def _table(place: int) -> Bytes:
    """For each byte, which groups have a magic number that may have it at ``place``."""
    table = np.zeros(256, np.uint8)
    for bit, group in enumerate(_GROUPS):
        for magic in group:
            if place < len(magic):
                table[magic[place]] |= 1 << bit
            else:
                table[: 1 if magic == b"MZ" and place in (62, 63) else 256] |= 1 << bit
    return table


_FIRST_TWO = (_table(0) << 4 | _table(1)).tobytes()
"""For each byte the groups it may be the first byte of (high four bits), and those it may be the second of (low four bits)."""
_AT_LATER = np.stack([_table(place) for place in _LATER])
_LOW = (1, 2, 4)
"""Bits per weight of the streams in which several weights make a byte, highest bit first."""


@dataclass(frozen=True)
class Stream:
    """One way to read bytes out of weights. ``planes`` are the bytes of one step, in order: byte 0, 1, ... of a weight, or for the streams
    of ``_LOW`` the byte that begins at each weight, numbered from the width on; ``step`` is the weights from one step to the next."""

    bits: int
    planes: tuple[int, ...]
    step: int = 1

    def on(self, place: int, by: int) -> tuple[int, int]:
        """The plane of the byte ``by`` bytes after the one at ``place``, and how many weights on it is."""
        steps, at = divmod(place + by, len(self.planes))
        return self.planes[at], steps * self.step

    def read(self, words: Words, element: int, place: int, first: int, last: int) -> bytes:
        """Bytes ``first`` to ``last`` from the one at ``place`` of ``element`` on; fewer at the end of the weights."""
        begin, skip = divmod(place + first, len(self.planes))
        begin, count = element + begin * self.step, last - first
        part = words[begin : begin + (-(-(skip + count) // len(self.planes))) * self.step]
        if self.bits in _LOW:
            low = part.astype(np.uint8)[: len(part) // self.step * self.step, None]
            return np.packbits((low >> np.arange(self.bits - 1, -1, -1, dtype=np.uint8)) & 1).tobytes()
        stored, stream = part.astype(words.dtype.newbyteorder("<"), copy=False).tobytes(), bytearray(len(part) * len(self.planes))
        for at, plane in enumerate(self.planes):
            stream[at :: len(self.planes)] = stored[plane :: words.dtype.itemsize]
        return bytes(stream[skip : skip + count])


@dataclass(frozen=True)
class Places:
    """Every place a header may begin at, stream by stream: the ``stream``, the ``place`` in its planes, and for the bytes of a header that
    are looked up (places, 2 and ``_LATER``) the ``planes`` they lie in and how many ``weights`` on they are."""

    streams: tuple[Stream, ...]
    stream: Counts
    place: Counts
    planes: Counts
    weights: Counts


@cache
def _places(width: int) -> Places:
    """The places of the streams a payload is usually written to in weights of ``width`` bytes: the low 1, 2 and 4 bits packed, and the
    low one, two, three or all bytes of each weight, in both orders."""
    low = [Stream(bits, (width + at,), 8 // bits) for at, bits in enumerate(_LOW)]
    whole = [Stream(8 * n, order) for n in range(1, width + 1) for order in dict.fromkeys((tuple(range(n)), tuple(range(n - 1, -1, -1))))]
    streams = (*low, *whole)
    every = [(at, place) for at, stream in enumerate(streams) for place in range(len(stream.planes))]
    looked_up = np.array([[streams[at].on(place, by) for by in (0, 1, *_LATER)] for at, place in every])
    stream, place = np.array(every).T
    return Places(streams, stream, place, looked_up[:, :, 0], looked_up[:, :, 1])


REACH = 8 * (max(_LATER) + 1)
"""Weights after the last one a header may begin at that are looked at: as many as 64 bytes take at a bit each."""


def _planes(words: Words, count: int) -> bytearray:
    """The bytes that the streams' ``planes`` number, one plane of ``count`` elements after another; zeros past the end of ``words``.

    A byte of low bits is not full for the last weights; no header ends there.
    """
    width, n = words.dtype.itemsize, len(words)
    written = bytearray((width + len(_LOW)) * count)
    planes = np.frombuffer(written, np.uint8).reshape(-1, count)
    for at in range(width):
        np.right_shift(words, words.dtype.type(8 * at), out=planes[at, :n], casting="unsafe")
    for packed, low in zip(planes[width:], _LOW, strict=True):
        bits, reach = low, 1
        np.bitwise_and(planes[0], np.uint8((1 << bits) - 1), out=packed)
        while bits < 8:
            # A product, for numpy shifts bytes one at a time.
            packed[:-reach] = packed[:-reach] * np.uint8(1 << bits) | packed[reach:]
            bits, reach = 2 * bits, 2 * reach
    return written


def find_hidden(words: Words, first: int = 0, last: int | None = None) -> Hidden | None:
    """The first file that begins in elements ``first`` to ``last`` (all) of ``words``, in any of the streams; it may go on past them."""
    count = (len(words) if last is None else min(last, len(words))) - first
    places = _places(words.dtype.itemsize)
    near = np.require(words[first : first + count + REACH], requirements="A")
    for place, element in _candidates(places, near, count):
        stream = places.streams[places.stream[place]]
        found = _checked(stream, words, first + element, int(places.place[place]))
        if found is not None:
            return found
    return None


def _candidates(places: Places, words: Words, count: int) -> list[tuple[int, int]]:
    """Where among the first ``count`` words a header may begin, as indices of ``places`` and elements: by stream, then in order."""
    count = -(-count // 8) * 8
    length = count + REACH
    written = _planes(words, length)
    planes, groups = np.frombuffer(written, np.uint8), np.frombuffer(written.translate(_FIRST_TWO), np.uint8)
    begins = groups >> np.uint8(4)
    offsets = length * places.planes + places.weights
    both = np.zeros(count, np.uint8)
    for one, two in {*zip(offsets[:, 0].tolist(), offsets[:, 1].tolist(), strict=True)}:
        both |= begins[one : one + count] & groups[two : two + count]
    # Eight at a time: most are zero.
    eights = np.flatnonzero(both.view(np.uint64) != 0)
    rows, columns = np.nonzero(both.reshape(-1, 8)[eights])
    element = 8 * eights[rows] + columns
    fits = begins.take(element + offsets[:, :1]) & groups.take(element + offsets[:, 1:2])
    place, at = np.nonzero(fits)
    element, fits = element[at], fits[place, at]
    for byte, table in enumerate(_AT_LATER, start=2):
        fits = fits & table[planes.take(offsets[place, byte] + element)]
        left = np.flatnonzero(fits)
        place, element, fits = place[left], element[left], fits[left]
    order = np.lexsort((places.place[place], element, places.stream[place]))
    return list(zip(place[order].tolist(), element[order].tolist(), strict=True))


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
