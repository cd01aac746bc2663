"""Whether bytes are a pickle to some loader, whatever they are called."""

from __future__ import annotations

import io
import re
from typing import IO, cast

from modelguard import runs_as_pickle

HEADER = re.compile(rb"\x80[\x02-\x05][\x95\x8a}\](cX\x8c.\x4e\x4b\x28]")
MAGIC = 0x1950A86A20F9469CFC6C
"""The number a legacy torch file begins with (``torch/serialization.py``)."""
_LEGACY = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a" + re.escape(MAGIC.to_bytes(10, "little")) + rb"(?:\x94|q.)?\.", re.DOTALL)
_LEGACY_TEXT = re.compile(rb"L119547037146038801333356L?\n(?:p[0-9]+\n)?\.")


class _Cursor:
    """As much of a file object as is needed to read a view in order, without copying it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        begin = self._at
        self._at = len(self._view) if size < 0 else min(begin + size, len(self._view))
        return bytes(self._view[begin : self._at])

    def readline(self, limit: int) -> bytes:
        begin, end, step = self._at, min(self._at + limit, len(self._view)), 256
        while True:
            block = bytes(self._view[begin : min(begin + step, end)])
            found = block.find(b"\n")
            if found >= 0 or begin + step >= end:
                block = block[: found + 1] if found >= 0 else block
                self._at = begin + len(block)
                return block
            step *= 8

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (self._at if whence == 1 else 0)
        return self._at

    def tell(self) -> int:
        return self._at


def runs(data: memoryview | bytes) -> bool:
    """Whether an unpickler would import or call something in it before it meets an error, or read all of it."""
    if len(data) < 2:
        return False
    handle = io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], _Cursor(data))
    return runs_as_pickle(handle, len(data))


def is_pickle(data: memoryview | bytes) -> bool:
    """Whether it begins as picklers begin, or runs."""
    return HEADER.match(bytes(data[:3])) is not None or runs(data)


def is_legacy_torch(data: memoryview) -> bool:
    """Whether it begins with the pickle of torch's magic number, in any protocol."""
    head = bytes(data[:64])
    return _LEGACY.match(head) is not None or _LEGACY_TEXT.match(head) is not None
