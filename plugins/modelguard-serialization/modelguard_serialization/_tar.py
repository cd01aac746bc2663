"""Tar archives, header by header: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU, where readers of them differ each way.

Source: the file format sections of POSIX ``pax``, GNU tar's ``tar.h``, and CPython's ``tarfile``, which most Python loaders use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from modelguard_serialization.reader import NotReadError

BLOCK = 512
_MAX_TEXT = 1 << 20
"""Bytes of a pax header or a long name."""
_SKIPPED = 1 << 16
"""Blocks after a broken header among which another one is looked for, as GNU tar does."""
_CHECKSUM = re.compile(rb" *[0-7]+[ \0]*")
_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]+)=")
_LONG_SIZE = 0o100000000000
"""The first size that an octal field of 11 digits cannot hold, so that another place has to."""

FILE, HARD, SOFT, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_WITHOUT_DATA = frozenset({HARD, SOFT, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO})


@dataclass(slots=True)
class Entry:
    """A member, whose data are ``size`` bytes at ``begin`` by its header. ``kind`` is its type flag; ``target`` that of a link."""

    name: str
    kind: bytes
    header: int
    begin: int
    size: int
    target: str = ""
    holes: bool = False
    """Whether data are stored without the zeros in between (sparse)."""
    flaws: list[str] = field(default_factory=list)
    """What is wrong with it: each completes "its member NAME ..."."""


@dataclass(frozen=True, slots=True)
class Stray:
    """Bytes that belong to no member; ``why`` completes "has N bytes ..."."""

    begin: int
    end: int
    why: str


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a header whose checksum holds, with unsigned or, as old systems did, signed bytes."""
    if len(block) < BLOCK or not _CHECKSUM.fullmatch(block[148:156]):
        return False
    stated = int(block[148:156].strip(b" \0"), 8)
    rest = block[:148] + block[156:]
    plain = sum(rest) + 256
    return block[0] != 0 and stated in (plain, plain - 256 * sum(byte >= 128 for byte in rest))


def is_tar(data: memoryview) -> bool:
    head = bytes(data[:BLOCK])
    return head.startswith(b"ustar", 257) or is_header(head)


def walk(data: memoryview, check: Callable[[], None]) -> Iterator[Entry | Stray]:
    """What is in an archive, in order. ``check`` is called for each header, and may raise."""
    at, ended = 0, False
    general: dict[str, str] = {}
    special: dict[str, str] = {}
    while at < len(data):
        check()
        block = bytes(data[at : at + BLOCK])
        if not block.strip(b"\0"):
            at, ended = _zeros(data, at), True
            continue
        if not is_header(block):
            after = _next(data, at + BLOCK, check)
            yield Stray(at, after, "behind its end" if ended else "where a member should begin")
            at = after
            continue
        entry = _entry(block, at)
        if ended:
            entry.flaws.append("lies behind the end of the archive, where some readers stop")
        at += BLOCK
        if entry.kind in (b"x", b"X", b"g", b"L", b"K"):
            if entry.size > min(_MAX_TEXT, len(data) - at):
                raise NotReadError(f"has a header of {entry.size} bytes for a member")
            text = bytes(data[at : at + entry.size])
            at = _padded(at + entry.size)
            if entry.kind == b"L":
                special["path"] = _text(text)
            elif entry.kind == b"K":
                special["linkpath"] = _text(text)
            else:
                (general if entry.kind == b"g" else special).update(_pax(text))
            continue
        at = _applied(entry, {**general, **special}, data, at)
        special = {}
        yield entry


def _entry(block: bytes, at: int) -> Entry:
    name = _text(block[:100])
    kind = block[156:157]
    prefix = _text(block[345:500]) if block.startswith(b"ustar\0", 257) else ""
    entry = Entry(f"{prefix}/{name}" if prefix else name, kind, at, at + BLOCK, 0, _text(block[157:257]))
    size = _number(block[124:136])
    if size is None:
        entry.flaws.append("has a size that is no number")
    elif size < 0:
        entry.flaws.append("has a size below zero")
    else:
        entry.size = size
    if kind in (b"\0", b"7"):
        entry.kind = FOLDER if kind == b"\0" and name.endswith("/") else FILE
    if kind == b"S":
        entry.kind, entry.holes = FILE, True
    return entry


def _applied(entry: Entry, pax: dict[str, str], data: memoryview, at: int) -> int:
    """Change an entry by the headers that came before it, and say where the next one begins."""
    if entry.holes:
        more = data[entry.header + 482]
        while more and at + BLOCK <= len(data):
            more = data[at + 504]
            at += BLOCK
    entry.begin = at
    entry.name = pax.get("GNU.sparse.name", pax.get("path", entry.name))
    entry.target = pax.get("linkpath", entry.target)
    entry.holes = entry.holes or any(key.startswith("GNU.sparse.") for key in pax)
    if "size" in pax:
        stated = pax["size"]
        size = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else -1
        if size < 0 or (size != entry.size and (entry.size or size < _LONG_SIZE)):
            # Parsers that go by either size lose step with the others (TARmageddon, CVE-2025-62518).
            entry.flaws.append(f"has {entry.size} bytes by one header and {stated[:30]} by another, so readers see different members")
        entry.size = max(size, 0)
    if entry.kind in _WITHOUT_DATA:
        if entry.size and entry.kind != HARD:
            entry.flaws.append("is no file and has content")
        # CPython looks for the next header here, whatever the size; others pass over the data.
        if not entry.size or _begins(data, at):
            return at
    end = _padded(at + entry.size)
    if at + entry.size > len(data):
        entry.flaws.append("ends after the file: it is cut off, or lies about its size")
        entry.size = max(0, len(data) - at)
    return end


def _begins(data: memoryview, at: int) -> bool:
    block = bytes(data[at : at + BLOCK])
    return not block.strip(b"\0") or is_header(block)


def _zeros(data: memoryview, at: int) -> int:
    """The first block from ``at`` on that is not all zeros."""
    step = 1 << 20
    while at < len(data):
        block = bytes(data[at : at + step])
        filled = len(block) - len(block.lstrip(b"\0"))
        if filled < len(block):
            return at + filled // BLOCK * BLOCK
        at += step
    return len(data)


def _next(data: memoryview, at: int, check: Callable[[], None]) -> int:
    for place in range(at, min(len(data), at + _SKIPPED * BLOCK), BLOCK):
        check()
        if is_header(bytes(data[place : place + BLOCK])):
            return place
    return len(data)


def _padded(at: int) -> int:
    return -(-at // BLOCK) * BLOCK


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's numbers to the base of 256, which the first bit announces."""
    if field[0] & 0x80:
        return (
            int.from_bytes(field, "big", signed=True) if field[0] == 0xFF else int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        )
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _pax(text: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while (match := _RECORD.match(text, at)) is not None:
        length = int(match[1])
        if length <= match.end() - at:
            break
        found[match[2].decode("utf-8", "backslashreplace")] = text[match.end() : at + length - 1].decode("utf-8", "backslashreplace")
        at += length
    if text[at:].strip(b"\0"):
        raise NotReadError("has a pax header that is broken")
    return found
