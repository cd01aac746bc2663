"""Single compressed streams: gzip, bzip2, xz, lzma, Zstandard and zlib, as joblib, tar and people pack models."""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Callable
from functools import partial

from modelguard import Severity
from modelguard_serialization._archive_rules import ESCAPE, RULES, TRICK
from modelguard_serialization._names import escapes, shown
from modelguard_serialization._readers._archive import put, within
from modelguard_serialization._text import begins_as_text
from modelguard_serialization._unpack import Decompressor, Unpacked, bzip2, deflate, unpack, xz, zlibbed, zstd
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_ENDINGS = {".tgz": ".tar", ".tbz2": ".tar", ".tbz": ".tar", ".txz": ".tar", ".tzst": ".tar"}
_PACKED = frozenset({".gz", ".bz2", ".xz", ".lzma", ".zst", ".z", ".zlib", ".gzip"})
_STREAMS = 10_000
"""Streams one after another in one file."""
_TRIED = 4096
"""Bytes of a stream without magic number that are unpacked to see whether it is one."""


class _Compressed(Reader):
    """One stream or several after another; what they unpack to goes on to the other readers as one."""

    rules = RULES

    def streams(self) -> Callable[[], Decompressor]:
        """Makes what unpacks one stream. Raises :class:`NotReadError` where there is nothing for it."""
        raise NotImplementedError

    def marked(self, head: bytes) -> bool:
        """Whether a stream begins so."""
        raise NotImplementedError

    def recognise(self, blob: Blob) -> bool:
        return self.marked(blob.head(32))

    def one(self, blob: Blob, at: int, look: Look) -> Unpacked:
        """The stream at ``at``."""
        part = blob.data[at:]
        return within(look, blob, len(part), lambda room: unpack(self.streams(), part, room, look.check))

    def read(self, blob: Blob, look: Look) -> None:
        data = blob.data
        parts: list[bytes] = []
        at = 0
        for _ in range(_STREAMS):
            made = self.one(blob, at, look)
            parts.append(made.data)
            at += made.used
            if not made.ended:
                look.miss(blob, "is cut off or broken")
                break
            # Readers pass over zeros behind a stream, which tapes leave.
            while at < len(data) and not data[at]:
                at += 1
            if not self.marked(bytes(data[at : at + 32])):
                break
        else:
            look.miss(blob, f"has more than {_STREAMS} streams")
        put(look, blob, _inner(blob.name), b"".join(parts))
        if at < len(data):
            look.find(TRICK.id, blob, f"has {len(data) - at} bytes behind the end of its compressed data", at=at, key="behind")
            put(look, blob, "(after)", data[at:], at)


class Gzips(_Compressed):
    """RFC 1952. The checksum is compared afterwards: who unpickles a stream has run it before its end is reached."""

    what = "gzip data"

    def marked(self, head: bytes) -> bool:
        return head.startswith(b"\x1f\x8b\x08")

    def one(self, blob: Blob, at: int, look: Look) -> Unpacked:
        begin, name = _gzip_header(blob.data, at)
        if name and (why := escapes(name)):
            look.find(ESCAPE.id, blob, f"names its content {shown(name)}, which {why}", at=at, key=f"escape:{name}")
        part = blob.data[begin:]
        made = within(look, blob, len(part), lambda room: unpack(deflate, part, room, look.check))
        end = begin + made.used
        if made.ended:
            trailer = bytes(blob.data[end : end + 8])
            if trailer != zlib.crc32(made.data).to_bytes(4, "little") + (len(made.data) & 0xFFFFFFFF).to_bytes(4, "little"):
                message = "has a wrong checksum or length behind its data: it is damaged, or made for readers that do not check"
                look.find(TRICK.id, blob, message, severity=Severity.MEDIUM, at=end, key="checksum")
            end += len(trailer)
        return Unpacked(made.data, end - at, made.ended)


def _gzip_header(data: memoryview, at: int) -> tuple[int, str]:
    """Where the compressed data begin, and the name of what they are, if the header says. Raises :class:`NotReadError`."""
    head = bytes(data[at : at + (1 << 18)])
    place, flags, name = 10, head[3] if len(head) > 3 else 0, ""
    if flags & 4:
        place += 2 + int.from_bytes(head[place : place + 2], "little")
    for flag in (8, 16):
        if flags & flag:
            end = head.find(b"\0", place)
            if end < 0:
                raise NotReadError("has a gzip header without an end")
            if flag == 8:
                name = head[place:end].decode("latin-1")
            place = end + 1
    return at + place + (2 if flags & 2 else 0), name


class Bzip2s(_Compressed):
    what = "bzip2 data"

    def marked(self, head: bytes) -> bool:
        # A block, or the end of a stream without any.
        return head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")

    def streams(self) -> Callable[[], Decompressor]:
        return bzip2


class Xzs(_Compressed):
    """xz, and the older lzma, which has no magic number: its first byte and the two sizes after it have to make sense."""

    what = "xz or lzma data"

    def marked(self, head: bytes) -> bool:
        if head.startswith(b"\xfd7zXZ\0"):
            return True
        if len(head) < 14 or head[0] != 0x5D or head[13]:
            return False
        dictionary, size = int.from_bytes(head[1:5], "little"), int.from_bytes(head[5:13], "little")
        return dictionary.bit_count() in (1, 2) and dictionary >= 4096 and (size == (1 << 64) - 1 or size < 1 << 38)

    def streams(self) -> Callable[[], Decompressor]:
        return xz


class Zstds(_Compressed):
    what = "Zstandard data"

    def marked(self, head: bytes) -> bool:
        # RFC 8878, 3.1: a frame, or one that is skipped.
        return head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5)

    def streams(self) -> Callable[[], Decompressor]:
        if (made := zstd()) is None:
            raise NotReadError(
                "is compressed with Zstandard, and no library for that is installed; install modelguard-serialization[archives]"
            )
        return made

    def one(self, blob: Blob, at: int, look: Look) -> Unpacked:
        head = bytes(blob.data[at : at + 8])
        if head[0] >> 4 == 5:
            end = min(at + 8 + int.from_bytes(head[4:8], "little"), len(blob.data))
            put(look, blob, "(skipped)", blob.data[at + 8 : end], at + 8)
            return Unpacked(b"", end - at, ended=True)
        return super().one(blob, at, look)


class Zlibs(_Compressed):
    """RFC 1950, as joblib writes with compress=True: two bytes of header that hold together, behind which something unpacks."""

    what = "zlib data"

    def marked(self, head: bytes) -> bool:
        return len(head) > 2 and head[0] & 15 == 8 and head[0] >> 4 < 8 and int.from_bytes(head[:2], "big") % 31 == 0 and not head[1] & 32

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(_TRIED)
        if not self.marked(head):
            return False
        try:
            made = unpack(zlibbed, memoryview(head), 1 << 24)
        except NotReadError:
            return False
        # Words may begin like zlib, and their letters unpack to some bytes.
        return made.ended or (made.used >= len(head) and bool(made.data) and not begins_as_text(head))

    def streams(self) -> Callable[[], Decompressor]:
        return zlibbed

    def one(self, blob: Blob, at: int, look: Look) -> Unpacked:
        # Without the checksum at its end, for the reason that Gzips gives.
        part = blob.data[at + 2 :]
        made = within(look, blob, len(part), lambda room: unpack(deflate, part, room, look.check))
        trailer = bytes(part[made.used : made.used + 4]) if made.ended else b""
        if made.ended and trailer != zlib.adler32(made.data).to_bytes(4, "big"):
            message = "has a wrong checksum behind its data: it is damaged, or made for readers that do not check"
            look.find(TRICK.id, blob, message, severity=Severity.MEDIUM, at=at, key="checksum")
        return Unpacked(made.data, 2 + made.used + len(trailer), made.ended)


class OldJoblibs(Reader):
    """What joblib before 0.10 wrote with compression: ``ZF``, the length in hexadecimal, filled up with spaces, and zlib data."""

    what = "a compressed joblib file"
    rules = RULES
    format = "pickle"

    def recognise(self, blob: Blob) -> bool:
        return blob.head(4) == b"ZF0x"

    def read(self, blob: Blob, look: Look) -> None:
        begin = blob.head(32).find(b"x", 8)
        if begin < 0:
            raise NotReadError("has a header that is broken")
        part = blob.data[begin:]
        made = within(look, blob, len(part), partial(unpack, deflate, part[2:], check=look.check))
        put(look, blob, _inner(blob.name), made.data)
        if not made.ended:
            look.miss(blob, "is cut off or broken")


def _inner(name: str) -> str:
    """The name without what the compression added to it: readers take it for a hint."""
    stem, ending = posixpath.splitext(posixpath.basename(name))
    if ending.lower() in _ENDINGS:
        return stem + _ENDINGS[ending.lower()]
    return stem if ending.lower() in _PACKED and stem else posixpath.basename(name)
