"""The members of a zip archive, and their bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from modelguard import Severity
from modelguard_serialization._names import shown
from modelguard_serialization._unpack import Decompressor, TooLargeError, bzip2, deflate, raw_lzma, unpack, xz, zstd
from modelguard_serialization.reader import NotReadError

STORED, DEFLATED, BZIP2, LZMA, ZSTD, XZ = 0, 8, 12, 14, 93, 95
_OLD_ZSTD = 20
TRICK, ESCAPE = "MG0320", "MG0321"
CHECKED = 1 << 26
"""Bytes of a stored member up to which its checksum is computed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member as one reader sees it: ``packed`` bytes at ``begin``, which unpack by ``method`` to ``size`` bytes with checksum ``crc``.

    ``header`` is where its local header begins. ``size`` is -1 where only the data tell (and ``crc`` is 0 and checks nothing). ``listed``
    is False for what the directory does not say: a member that only a local header announces, or its reading of one that both know.
    """

    name: str
    begin: int
    packed: int
    size: int
    method: int
    crc: int
    header: int
    encrypted: bool = False
    link: bool = False
    listed: bool = True

    @property
    def stored(self) -> bool:
        """Whether the data lie in the archive as they are."""
        return self.method == STORED


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an archive: a rule, its severity where that is not the rule's own, and a message without the archive's name."""

    rule: str
    message: str
    key: str
    at: int
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Loose:
    """Bytes that belong to no member: ``what`` is "before", "between", "after" or "comment"."""

    what: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Directory:
    """All that is in an archive, in order of place."""

    members: tuple[Member, ...]
    problems: tuple[Problem, ...]
    loose: tuple[Loose, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """The bytes of a member, what is wrong with how they are stored, and why they may not be what a reader gets (empty: they are)."""

    data: memoryview | bytes
    problems: tuple[Problem, ...] = ()
    missed: str = ""


def contents(data: memoryview, member: Member, limit: int, check: Callable[[], None] | None = None) -> memoryview | bytes:
    """The bytes of a member: a stretch of ``data`` where it is stored, else unpacked into memory.

    Raises :class:`NotReadError` where nothing can be unpacked, and :class:`~modelguard_serialization._unpack.TooLargeError` past
    ``limit`` unpacked bytes. Checksums, sizes and the encryption flag are disregarded, as PyTorch does; :func:`examine` tells.
    """
    return _contents(data, member, limit, check)[0]


def examine(data: memoryview, member: Member, limit: int, check: Callable[[], None] | None = None) -> Contents:
    """The bytes of a member as :func:`contents` gives them, compared with what the headers say. Raises the same.

    The checksum of stored data past :data:`CHECKED` bytes is not computed: every reader gets these bytes or none.
    """
    try:
        made, used, ended = _contents(data, member, limit, check)
    except NotReadError as error:
        if member.encrypted and not isinstance(error, TooLargeError):
            raise NotReadError("is encrypted") from error
        raise
    name = shown(member.name)
    problems: list[Problem] = []

    def problem(message: str, key: str, severity: Severity | None = None) -> None:
        problems.append(Problem(TRICK, message, f"{key}:{member.name}", member.begin, severity))

    known = member.size >= 0
    checked = known and (len(made) <= CHECKED or not member.stored)
    sound = not checked or zlib.crc32(made) == member.crc
    if member.encrypted:
        if not checked or not sound:
            return Contents(made, missed="is encrypted")
        problem(f"says that {name} is encrypted, and it is not: readers that heed it skip what others load", "encrypted")
    if not ended:
        return Contents(made, tuple(problems), "is cut off or broken")
    if known and len(made) != member.size:
        problem(f"says that {name} has {member.size} bytes, and it has {len(made)}", "size")
    elif not sound:
        problem(f"has a wrong checksum for {name}: it is damaged, or made for readers that do not check", "checksum", Severity.MEDIUM)
    if member.listed and used < member.packed:
        problem(f"has {member.packed - used} bytes in {name} behind the end of its compressed data", "behind")
    return Contents(made, tuple(problems))


def _contents(data: memoryview, member: Member, limit: int, check: Callable[[], None] | None) -> tuple[memoryview | bytes, int, bool]:
    """The bytes, how many packed ones they came from, and whether the stream is complete."""
    packed = data[member.begin : member.begin + member.packed]
    if member.method == STORED:
        return packed, len(packed), True
    skipped = 0
    if member.method == LZMA:
        # Two bytes of version and two that say how many bytes of properties follow (APPNOTE 5.8.8).
        skipped = 4 + int.from_bytes(packed[2:4], "little")
    make = _method(member.method, bytes(packed[4:skipped]) if skipped < 64 else b"")
    made = unpack(make, packed[skipped:], limit, check)
    # LZMA says nowhere that it ends: its size does.
    return made.data, skipped + made.used, made.ended or (member.method == LZMA and len(made.data) == member.size)


def _method(method: int, properties: bytes) -> Callable[[], Decompressor]:
    if method == LZMA:
        return partial(raw_lzma, properties)
    if method in (ZSTD, _OLD_ZSTD):
        if (made := zstd()) is None:
            raise NotReadError(
                "is compressed with Zstandard, and no library for that is installed; install modelguard-serialization[archives]"
            )
        return made
    if method not in _METHODS:
        raise NotReadError(f"is compressed by method {method}, which is not read here")
    return _METHODS[method]


_METHODS: dict[int, Callable[[], Decompressor]] = {DEFLATED: deflate, BZIP2: bzip2, XZ: xz}
