"""As what else a file can be loaded: kinds whose readers do not begin at its first byte, or do not mind what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelguard._formats.pickled import runs_as_pickle, view

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP_TAIL = 22 + 0xFFFF
"""Bytes before the end of a file in which the last record of a zip archive must begin."""
_PDF = 1024
"""Bytes at the beginning in which readers look for the first mark of a PDF, and at the end for its last (ISO 32000-1, annex H)."""
_CHECKSUM = re.compile(rb" *[0-7]+[ \0]*")


def other_readings(data: memoryview) -> Iterator[str]:
    """Everything that ``data`` is to a loader of that kind, whatever it begins like: completes "it is also ..."."""
    if trailing_zip(data):
        yield "a zip archive"
    if is_tar(data):
        yield "a tar archive"
    if hdf5_at(data):
        yield "an HDF5 file"
    if b"%PDF-" in bytes(data[: _PDF + 5]) and b"%%EOF" in bytes(data[-_PDF:]):
        yield "a PDF document"
    if is_pe(data):
        yield "a Windows program"
    if runs_as_pickle(view(data), len(data)):
        yield "a Python pickle"


def hdf5_at(data: memoryview) -> int | None:
    """Where an HDF5 file begins in ``data``: at 0, 512, 1024 and so on, each twice as far (HDF5 file format 3.0, II.A)."""
    at = 0
    while at + len(HDF5) <= len(data):
        if bytes(data[at : at + len(HDF5)]) == HDF5:
            return at
        at = at * 2 or 512
    return None


def is_tar(data: memoryview) -> bool:
    """Whether a tar archive begins here: by its mark at 257, or by the checksum of its first header, which is all that old ones have."""
    block = bytes(data[:512])
    if block.startswith(b"ustar", 257):
        return True
    if len(block) < 512 or not block[0] or not _CHECKSUM.fullmatch(block[148:156]):
        return False
    stated = int(block[148:156].strip(b" \0"), 8)
    rest = block[:148] + block[156:]
    plain = sum(rest) + 256
    return stated in (plain, plain - 256 * sum(byte >= 128 for byte in rest))


def is_pe(data: memoryview) -> bool:
    """Whether Windows would run it: ``MZ``, and ``PE`` where the header says."""
    at = int.from_bytes(data[60:64], "little")
    return bytes(data[:2]) == b"MZ" and at >= 4 and bytes(data[at : at + 4]) == b"PE\0\0"


def trailing_zip(data: memoryview) -> bool:
    """Whether ``data`` is a zip archive to readers that begin at its end.

    APPNOTE 4.3.16 lets nothing but a comment follow the end of central directory record; readers (CPython's zipfile, PyTorch's miniz)
    take the last record in :data:`ZIP_TAIL` bytes whatever follows it, and go by a zip64 record where its locator stands before (4.3.15).
    """
    start = max(0, len(data) - ZIP_TAIL)
    tail = bytes(data[start:])
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        record = tail[at : at + 22]
        if len(record) == 22:
            entries = int.from_bytes(record[10:12], "little")
            length, offset = int.from_bytes(record[12:16], "little"), int.from_bytes(record[16:20], "little")
            if at >= 20 and tail.startswith(b"PK\x06\x07", at - 20):
                return True
            # zipfile counts back from the record by the directory's length, miniz goes to its offset.
            places = (start + at - length, offset)
            if entries and any(place >= 0 and bytes(data[place : place + 4]) == b"PK\x01\x02" for place in places):
                return True
            if not entries and at + 22 + int.from_bytes(record[20:], "little") == len(tail):
                return True
        at = tail.rfind(b"PK\x05\x06", 0, at)
    return False
