"""Pickles and code hidden in the bytes and texts of a pickle: as they are, compressed, or in base64 or hex."""

from __future__ import annotations

import base64
import binascii
import bz2
import lzma
import re
import zlib
from dataclasses import dataclass

from modelguard_serialization import limits
from modelguard_serialization._pickle.recognise import is_pickle, runs

MAX_HIDDEN = 1 << 24
"""Bytes that are taken out of an encoding or a compression."""

_STARTS = frozenset(b"\x80cg(\x1fBx\xfdP}]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]{32,}={0,2}\s*")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")
_CODE = re.compile(
    rb"\b(?:exec|eval|compile|__import__)\s*\(|\bimport\s+(?:os|sys|subprocess|socket|base64|ctypes|requests|pty)\b|os\.(?:system|popen)\s*\(|\bsubprocess\."
)


@dataclass(frozen=True, slots=True)
class Nested:
    """What was found: ``pickle`` with its bytes, ``stored`` when they lie there as they are; ``hidden`` says what else an encoding hid."""

    pickle: memoryview | bytes | None = None
    stored: bool = False
    hidden: str = ""


def nested(data: memoryview | str) -> Nested | None:
    """What is hidden in ``data``, or None. Numbers and ordinary texts cost no more than a look at their beginning."""
    if isinstance(data, str):
        if not data.isascii():
            return None
        raw: memoryview | bytes = data.encode()
    else:
        if not len(data) or (data[0] not in _STARTS and not _textual(data)):
            return None
        raw = data
    if runs(raw):
        return Nested(raw, stored=isinstance(data, memoryview))
    for _ in range(limits.NESTED):
        inner = _peel(raw)
        if inner is None:
            return None
        raw = inner
        if is_pickle(raw) and (is_binary(raw) or runs(raw)):
            return Nested(raw, hidden="a pickle in an encoding")
        if _CODE.search(raw):
            return Nested(hidden="Python code in an encoding")
    return None


def is_binary(raw: memoryview | bytes) -> bool:
    return len(raw) > 2 and raw[0] == 0x80 and raw[1] <= 5


def _textual(data: memoryview) -> bool:
    head = bytes(data[:64])
    return len(data) >= 32 and (_BASE64.fullmatch(head) is not None or _HEX.fullmatch(head) is not None)


def _peel(raw: memoryview | bytes) -> bytes | None:
    """One layer less, or None where there is none. What is longer than the limit is cut."""
    head = bytes(raw[:64])
    try:
        if head[:1] == b"x" and len(head) > 2 and int.from_bytes(head[:2], "big") % 31 == 0:
            return zlib.decompressobj().decompress(raw, MAX_HIDDEN)
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(raw, MAX_HIDDEN)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(raw, MAX_HIDDEN)
        if head.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor(memlimit=1 << 26).decompress(raw, MAX_HIDDEN)
        whole = bytes(raw[:MAX_HIDDEN]).strip()
        if _HEX.fullmatch(head) is not None and _HEX.fullmatch(whole) is not None:
            return binascii.unhexlify(whole)
        if _BASE64.fullmatch(head) is not None and _BASE64.fullmatch(whole) is not None:
            text = b"".join(whole.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
            return base64.b64decode(text + b"=" * (-len(text) % 4))
    except (ValueError, zlib.error, OSError, EOFError, lzma.LZMAError):
        return None
    return None
