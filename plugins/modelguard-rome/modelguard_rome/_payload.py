"""Files hidden in the bits of weights: byte streams read from the low bits, and headers that are checked, not only matched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from modelguard_rome._bits import Words

HEADER = 96
"""Bytes that must follow for a header to be checked."""


@dataclass(frozen=True)
class Hidden:
    """A header found in a stream: its ``kind``, the stream's ``bits`` per weight, and the ``element`` it begins at."""

    kind: str
    bits: int
    element: int


Check = Callable[[bytes, int], bool]
"""Whether the file that seems to begin at a position of a stream is one."""


def _elf(stream: bytes, at: int) -> bool:
    head = stream[at : at + 20]
    return head[4] in (1, 2) and head[5] in (1, 2) and head[6] == 1 and head[8:16].count(0) >= 7 and 1 <= max(head[16:18]) <= 4


def _pe(stream: bytes, at: int) -> bool:
    offset = int.from_bytes(stream[at + 60 : at + 64], "little")
    return 64 <= offset <= 4096 and stream[at + offset : at + offset + 4] == b"PE\0\0"


def _zip(stream: bytes, at: int) -> bool:
    head = stream[at : at + 62]
    length = int.from_bytes(head[26:28], "little")
    printable = all(32 <= byte < 127 for byte in head[30 : 30 + min(length, 32)])
    return head[4] <= 63 and head[5] == 0 and head[8] in (0, 8, 9, 12, 14, 93) and head[9] == 0 and 0 < length < 512 and printable


def _text(stream: bytes, at: int) -> bool:
    return sum(byte in b"\t\r\n" or 32 <= byte < 127 for byte in stream[at : at + 64]) >= 62


def _pickle(stream: bytes, at: int) -> bool:
    """Protocol 4 or 5 whose frame begins with a short string, as a pickled global does."""
    head = stream[at : at + 64]
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
    ("7z archive", b"7z\xbc\xaf\x27\x1c\x00", lambda stream, at: stream[at + 7] <= 4),
    ("SQLite database", b"SQLite format 3\x00", lambda stream, at: True),
)
"""Kind, magic number, and the check of what follows it."""
_ANY = re.compile(b"|".join(re.escape(magic) for _, magic, _ in MAGICS))


def find_hidden(words: Words) -> Hidden | None:
    """The first file that begins in the elements ``words``, in any of the streams a payload is usually written to."""
    for bits, start, stream in _streams(words):
        for match in _ANY.finditer(stream):
            at = match.start()
            for kind, magic, holds in MAGICS:
                if at + HEADER <= len(stream) and stream.startswith(magic, at) and holds(stream, at):
                    return Hidden(kind, bits, start + (8 * at) // bits)
    return None


def _streams(words: Words) -> Iterator[tuple[int, int, bytes]]:
    """(bits per weight, first element, bytes): the low 1, 2 and 4 bits packed, and the low one, two, three or all bytes of each."""
    for bits in (1, 2, 4):
        planes = [((words >> words.dtype.type(plane)) & words.dtype.type(1)).astype(np.uint8) for plane in range(bits - 1, -1, -1)]
        stacked = np.stack(planes, axis=1)
        for start in range(8 // bits):
            yield bits, start, np.packbits(stacked[start:].reshape(-1)).tobytes()
    width = words.dtype.itemsize
    little = words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, width)
    for count in range(1, width):
        yield 8 * count, 0, little[:, :count].tobytes()
        if count > 1:
            yield 8 * count, 0, little[:, count - 1 :: -1].tobytes() if count < width else b""
    yield 8 * width, 0, little.tobytes()
    yield 8 * width, 0, little[:, ::-1].tobytes()
