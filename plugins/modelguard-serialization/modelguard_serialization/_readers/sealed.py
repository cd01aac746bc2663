"""Archives that are recognised so that they are named, and not read: a file of one is not looked at."""

from __future__ import annotations

import re

from modelguard_serialization._text import begins_as_text
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, Reader

_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"MSCF\0\0\0\0", "a Cabinet archive"),
    (0, b"hsqs", "a SquashFS image"),
    (0, b"sqsh", "a SquashFS image"),
    (0, b"\x04\x22\x4d\x18", "LZ4 data"),
    (0, b"\x02\x21\x4c\x18", "LZ4 data"),
    (0, b"\xff\x06\0\0sNaPpY", "Snappy data"),
    (0, b"\x89LZO\0\r\n\x1a\n", "lzop data"),
    (0, b"LZIP\x01", "lzip data"),
    (0, b"!<arch>\n", "an ar archive, as Debian packages and static libraries are"),
    (0, b"070701", "a cpio archive"),
    (0, b"070702", "a cpio archive"),
    (0, b"070707", "a cpio archive"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"xar!\0", "a xar archive"),
    (0, b"MSWIM\0\0\0", "a Windows image"),
    (0, b"ZPQ\x01", "a ZPAQ archive"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0x8801, b"CD001", "an ISO 9660 image"),
    (0x9001, b"CD001", "an ISO 9660 image"),
)
_SHORT = re.compile(rb"\x60\xea.{2}[\x1e-\x40]|..-lh[0-9a-z]-|\x1f[\x9d\xa0][\x80-\xff]|\xc7\x71|\x71\xc7", re.DOTALL)
"""Marks so short that text may begin with them: ARJ, LHA, compress, and binary cpio."""


class Sealed(Reader):
    what = "an archive of a kind that is not read here"

    def recognise(self, blob: Blob) -> bool:
        return bool(_kind(blob))

    def read(self, blob: Blob, look: Look) -> None:
        look.miss(blob, f"is {_kind(blob)}, which is not read here; unpack it, and scan what is in it")


def _kind(blob: Blob) -> str:
    for at, mark, kind in _MARKS:
        if blob.data[at : at + len(mark)] == mark:
            return kind
    head = blob.head(4096)
    return "an ARJ, LHA, compress or cpio archive" if _SHORT.match(head) and not begins_as_text(head) else ""
