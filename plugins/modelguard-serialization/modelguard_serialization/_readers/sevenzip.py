"""7z archives: opened with py7zr where that is installed, else not looked at."""

from __future__ import annotations

import importlib
import io
import zlib
from typing import Any

from modelguard import DeadlineExceeded
from modelguard_serialization import limits
from modelguard_serialization._archive_rules import ESCAPE, RULES, TRICK
from modelguard_serialization._names import escapes, shown
from modelguard_serialization._readers._archive import bomb, put
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_MAGIC = b"7z\xbc\xaf\x27\x1c"
_AES = b"\x06\xf1\x07\x01"
"""The coder that encrypts (7zFormat.txt and Methods.txt of the LZMA SDK)."""
_HEADER = 1 << 24
"""Bytes of the header at the end."""


class SevenZips(Reader):
    what = "a 7z archive"
    rules = RULES

    def recognise(self, blob: Blob) -> bool:
        return blob.head(6) == _MAGIC

    def read(self, blob: Blob, look: Look) -> None:
        _check(blob, look)
        try:
            library = importlib.import_module("py7zr")
        except ImportError:
            raise NotReadError("is a 7z archive, which needs py7zr to be read; install modelguard-serialization[archives]") from None
        _unpack(blob, look, library)


def _check(blob: Blob, look: Look) -> None:
    """Raises :class:`NotReadError` where the header says that there is nothing to be had."""
    head = blob.head(32)
    begin, size = 32 + int.from_bytes(head[12:20], "little"), int.from_bytes(head[20:28], "little")
    if len(head) < 32 or begin + size > len(blob.data) or size > _HEADER:
        raise NotReadError("has a 7z header that is cut off or broken")
    header = bytes(blob.data[begin : begin + size])
    if zlib.crc32(header) != int.from_bytes(head[28:32], "little"):
        raise NotReadError("has a 7z header with a wrong checksum")
    if _AES in header:
        raise NotReadError("is encrypted")
    if begin + size < len(blob.data):
        rest = blob.data[begin + size :]
        look.find(TRICK.id, blob, f"has {len(rest)} bytes behind its end", at=begin + size, key="after")
        put(look, blob, "(after)", rest, begin + size)


def _unpack(blob: Blob, look: Look, library: Any) -> None:
    made = _Members(look.room, look)
    try:
        with library.SevenZipFile(io.BufferedReader(_View(blob.data))) as archive:
            if archive.needs_password():
                raise NotReadError("is encrypted")
            listed = archive.list()
            if len(listed) > limits.MEMBERS:
                raise NotReadError(f"has more than {limits.MEMBERS} members")
            for item in listed:
                if why := escapes(item.filename):
                    look.find(ESCAPE.id, blob, f"its member {shown(item.filename)} {why}", key=f"escape:{item.filename}")
            archive.extractall(factory=made)
    except _FullError as error:
        bomb(look, blob, look.room, len(blob.data))
        raise NotReadError(f"unpacks to more than the {look.room} bytes that are looked at") from error
    except (NotReadError, DeadlineExceeded, MemoryError):
        raise
    except Exception as error:  # a library that was not written for hostile input raises whatever it comes upon
        raise NotReadError(f"is a 7z archive that py7zr cannot read ({type(error).__name__})") from error
    finally:
        for name, content in made.members:
            look.unpacked += len(content)
            put(look, blob, name, bytes(content))


class _FullError(Exception):
    """More was unpacked than is looked at."""


class _Members:
    """What py7zr writes members to: a factory of its kind, which keeps them in memory and stops at the limit."""

    def __init__(self, room: int, look: Look) -> None:
        self._room = room
        self._look = look
        self.members: list[tuple[str, bytearray]] = []

    def create(self, filename: str) -> _Member:
        self.members.append((filename, bytearray()))
        return _Member(self, self.members[-1][1])

    def take(self, size: int) -> None:
        self._look.check()
        self._room -= size
        if self._room < 0:
            raise _FullError


class _Member:
    def __init__(self, owner: _Members, content: bytearray) -> None:
        self._owner = owner
        self._content = content

    def write(self, data: bytes | bytearray) -> int:
        self._owner.take(len(data))
        self._content += data
        return len(data)

    def read(self, size: int | None = None) -> bytes:
        return bytes(self._content if size is None or size < 0 else self._content[:size])

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def flush(self) -> None:
        return None

    def close(self) -> None:
        return None

    def size(self) -> int:
        return len(self._content)


class _View(io.RawIOBase):
    """A blob as the file that py7zr reads, without a copy of it."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        if start + offset < 0:
            raise OSError("a place before the beginning")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at
