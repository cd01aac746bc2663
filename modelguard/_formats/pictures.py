"""Where pictures, recordings, documents and tables end by their own structure: what lies behind is something else.

Only lengths and marks are followed; nothing is decoded. Sources: PNG (ISO/IEC 15948), JPEG (ITU-T T.81, annex B), GIF89a, RIFF, BMP, ICO,
Ogg (RFC 3533), FLAC (RFC 9639), ID3v2.4, ISO/IEC 14496-12 (MP4), PDF (ISO 32000), Parquet and Arrow file formats, SentencePiece's
``sentencepiece_model.proto``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_CHUNK = re.compile(rb"[A-Za-z]{4}")
_BOX = re.compile(rb"[ -~\xa9]{4}")
_TAIL = 1024
"""Bytes at the end of a PDF in which readers look for its last mark, and at the beginning for its first."""


def _int(data: memoryview, at: int, length: int, order: str = "little") -> int:
    return int.from_bytes(data[at : at + length], "little" if order == "little" else "big")


def png(data: memoryview) -> int | None:
    at = 8
    if bytes(data[12:16]) != b"IHDR":
        return None
    while at + 12 <= len(data):
        kind = bytes(data[at + 4 : at + 8])
        at += 12 + _int(data, at, 4, "big")
        if not _CHUNK.fullmatch(kind):
            return None
        if kind == b"IEND":
            return at if at <= len(data) else None
    return None


def jpeg(data: memoryview) -> int | None:
    at = 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        if kind == 0xD9:
            return at + 2
        if kind == 0xFF:
            at += 1
            continue
        at += 2 if kind == 1 or 0xD0 <= kind <= 0xD8 else 2 + max(2, _int(data, at + 2, 2, "big"))
        if kind == 0xDA:
            found = _MARKER.search(data, at)
            if found is None:
                return None
            at = found.start()
    return None


def gif(data: memoryview) -> int | None:
    if bytes(data[:6]) not in (b"GIF87a", b"GIF89a") or len(data) < 14:
        return None
    at = 13 + _palette(data[10])
    while at < len(data):
        kind = data[at]
        if kind == 0x3B:
            return at + 1
        if kind == 0x21:
            at += 2
        elif kind == 0x2C and at + 10 < len(data):
            at += 11 + _palette(data[at + 9])
        else:
            return None
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return None


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def riff(data: memoryview) -> int | None:
    if bytes(data[:4]) not in (b"RIFF", b"RF64"):
        return None
    size = _int(data, 4, 4)
    # Who writes to a pipe does not know the size, and says so this way.
    end = len(data) if size in (0, 0xFFFFFFFF) else 8 + size
    at = 12
    while at + 8 <= min(end, len(data)):
        if not re.fullmatch(rb"[ -~]{4}", bytes(data[at : at + 4])):
            return None
        length = _int(data, at + 4, 4)
        at += 8 + length + (length & 1)
    end = max(end, at) if at <= len(data) else end  # some writers leave later chunks out of the sum
    return min(end + (end & 1), len(data)) if end <= len(data) + 1 else None


def bmp(data: memoryview) -> int | None:
    size = _int(data, 2, 4)
    return size if 26 < size <= len(data) and _int(data, 10, 4) <= size and _int(data, 14, 4) in (12, 40, 52, 56, 64, 108, 124) else None


def ico(data: memoryview) -> int | None:
    count = _int(data, 4, 2)
    end = 6 + 16 * count
    if not 0 < count < 256 or end > len(data):
        return None
    for at in range(6, end, 16):
        begin, size = _int(data, at + 12, 4), _int(data, at + 8, 4)
        if begin < 6 + 16 * count or not size:
            return None
        end = max(end, begin + size)
    return end if end <= len(data) else None


def ogg(data: memoryview) -> int | None:
    at = 0
    while bytes(data[at : at + 5]) == b"OggS\0" and at + 27 <= len(data):
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return at if 0 < at <= len(data) else None


def flac(data: memoryview) -> int | None:
    """Frames say nothing of their length, so they are taken to reach to the end."""
    at, last = 4, False
    while not last and at + 4 <= len(data):
        last = bool(data[at] & 0x80)
        at += 4 + _int(data, at + 1, 3, "big")
    return len(data) if last and bytes(data[at : at + 2]) in (b"\xff\xf8", b"\xff\xf9") else None


def mp3(data: memoryview) -> int | None:
    """The same holds of these."""
    size = bytes(data[6:10])
    if len(size) < 4 or any(byte > 127 for byte in size):
        return None
    at = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    return len(data) if len(data) > at + 2 and data[at] == 0xFF and data[at + 1] >> 5 == 7 else None


def mp4(data: memoryview) -> int | None:
    at = 0
    while at + 8 <= len(data) and _BOX.fullmatch(bytes(data[at + 4 : at + 8])):
        size = _int(data, at, 4, "big")
        if size == 1:
            size = _int(data, at + 8, 8, "big")
        if size == 0:
            return len(data)
        if size < 8:
            break
        at += size
    return at if 0 < at <= len(data) else None


def pdf(data: memoryview) -> int | None:
    at = bytes(data[-_TAIL:]).rfind(b"%%EOF")
    return len(data) if at >= 0 else None


def parquet(data: memoryview) -> int | None:
    return len(data) if len(data) >= 12 and bytes(data[-4:]) == b"PAR1" and _int(data, len(data) - 8, 4) <= len(data) - 12 else None


def arrow(data: memoryview) -> int | None:
    return len(data) if len(data) > 22 and bytes(data[-6:]) == b"ARROW1" and 0 < _int(data, len(data) - 10, 4) <= len(data) - 18 else None


def sentencepiece(data: memoryview) -> int | None:
    """Pieces (field 1), and the trainer's and normaliser's settings (2 to 5), each a message; nothing else up to the end."""
    at = 0
    while at < len(data):
        if data[at] not in (0x0A, 0x12, 0x1A, 0x22, 0x2A):
            return None
        at += 1
        size = shift = 0
        while at < len(data) and shift < 35:
            size |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 0x80:
                break
        at += size
    return at if at == len(data) else None


ENDS: dict[str, Callable[[memoryview], int | None]] = {
    "a PNG image": png,
    "a JPEG image": jpeg,
    "a GIF image": gif,
    "a WebP image": riff,
    "a WAV recording": riff,
    "a BMP image": bmp,
    "an icon": ico,
    "an Ogg recording": ogg,
    "a FLAC recording": flac,
    "an MP3 recording": mp3,
    "an MP4 video": mp4,
    "a PDF document": pdf,
    "a Parquet table": parquet,
    "an Arrow table": arrow,
}
"""For each kind of file that is looked at or listened to: where one ends, or None where it is broken or cut off."""
