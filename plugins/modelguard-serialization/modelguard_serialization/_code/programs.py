"""Programs of machine code and byte code by their headers, at the beginning of bytes or anywhere inside."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from modelguard_serialization._search import holds, places

_ELF_MACHINES = {
    3: "x86",
    40: "ARM",
    62: "x86-64",
    183: "AArch64",
    190: "CUDA",
    243: "RISC-V",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "S390",
}
_ELF_TYPES = {1: "object file", 2: "program", 3: "library or program", 4: "core dump"}
_PE_MACHINES = {0x14C, 0x8664, 0xAA64, 0x1C0, 0x1C4, 0x200}
_MACH_CPUS = {7, 12, 18, 0x01000007, 0x0100000C, 0x01000012, 0x0200000C}
_MACH = {b"\xfe\xed\xfa\xce": ">", b"\xce\xfa\xed\xfe": "<", b"\xfe\xed\xfa\xcf": ">", b"\xcf\xfa\xed\xfe": "<"}


def program(data: memoryview) -> str | None:
    """What kind of program the bytes begin with, or None."""
    head = bytes(data[:4096])
    if len(head) < 4:
        return None
    for check in (_elf, _mach):
        if found := check(head):
            return found
    if head[:2] == b"MZ" and len(head) >= 64:
        at = int.from_bytes(head[60:64], "little")
        if _pe(bytes(data[at : at + 26])):
            return "a program or library of Windows (PE)"
    return _small(head)


MAGICS = (
    (b"dex\n0", "a program for Android (DEX)"),
    (b"!<arch>\n", "an archive of object files or a Debian package (ar)"),
    (b"BC\xc0\xde", "bit code of LLVM"),
    (b"\x1bLua", "compiled Lua"),
    (b"\x1bLJ", "compiled Lua"),
    (b"\xed\xab\xee\xdb", "a package of programs (RPM)"),
    (b"\x50\xed\x55\xba", "kernels of CUDA (fatbin)"),
)


def _small(head: bytes) -> str | None:
    if head[:4] == b"\0asm" and head[4:8] in (b"\1\0\0\0", b"\2\0\0\0", b"\x0d\0\1\0"):
        return "WebAssembly"
    if head[:4] == b"\xca\xfe\xba\xbe" and len(head) >= 8:
        count = int.from_bytes(head[4:8], "big")
        if count < 30:
            return "a program or library of macOS for several processors (Mach-O)"
        return "a class of Java" if count & 0xFFFF >= 45 else None
    version, flags = int.from_bytes(head[:2], "little"), int.from_bytes(head[4:8], "little")
    if head[2:4] == b"\r\n" and 3000 <= version <= 3700 and len(head) > 16 and flags in (0, 1, 3) and head[16] & 0x7F == 0x63:
        return "compiled Python"  # the flags of PEP 552, then a code object
    if head[:4] == b"\x03\xf3\r\n" and head[8:9] == b"c":
        return "compiled Python 2"
    return next((name for magic, name in MAGICS if head.startswith(magic)), None)


def _elf(head: bytes) -> str | None:
    if head[:4] != b"\x7fELF" or len(head) < 52 or head[4] not in (1, 2) or head[5] not in (1, 2) or head[6] != 1:
        return None
    order = "<" if head[5] == 1 else ">"
    kind, machine, version = struct.unpack(order + "HHI", head[16:24])
    if version != 1 or kind not in (*_ELF_TYPES, 0xFE00, 0xFF00):
        return None
    (size,) = struct.unpack(order + "H", head[40:42] if head[4] == 1 else head[52:54] if len(head) >= 54 else b"\0\0")
    if size != (52 if head[4] == 1 else 64):
        return None
    return f"a {_ELF_TYPES.get(kind, 'program')} of Linux (ELF) for {_ELF_MACHINES.get(machine, f'processor {machine}')}"


def _mach(head: bytes) -> str | None:
    if head[:4] not in _MACH or len(head) < 28:
        return None
    cpu, _, kind, commands, size = struct.unpack(_MACH[head[:4]] + "5I", head[4:24])
    valid = cpu in _MACH_CPUS and 1 <= kind <= 12 and 0 < commands < 10_000 and commands * 8 <= size < 1 << 24
    return "a program or library of macOS (Mach-O)" if valid else None


def _pe(header: bytes) -> bool:
    if len(header) < 26 or header[:4] != b"PE\0\0":
        return False
    machine, sections = struct.unpack("<HH", header[4:8])
    optional, _, magic = struct.unpack("<HHH", header[20:26])
    return machine in _PE_MACHINES and 0 < sections <= 96 and optional < 1024 and (magic in (0x10B, 0x20B) or optional == 0)


_INSIDE = (b"\x7fELF", b"PE\0\0", b"\xfe\xed\xfa", b"\xfa\xed\xfe")
"""What is in every header: that of Mach-O is there in both orders of bytes, the one without its first and the other without its last."""


def suspected(data: memoryview) -> bool:
    """Whether anything in the bytes may be such a header. Fast."""
    return holds(data, *_INSIDE)


def inside(data: memoryview) -> Iterator[tuple[int, str]]:
    """(where, what) of the first valid headers of programs after the beginning. Headers, not magics: by chance none is there."""
    found = 0
    for place in places(data, *_INSIDE):
        at: int | None = place - 1 if data[place] == 0xFA and place else place
        head = bytes(data[at : place + 64])
        if head.startswith(b"PE\0\0"):
            at = _before(data, place)
            what = "a program or library of Windows (PE)" if at else None
        else:
            what = _elf(head) or _mach(head)
        if what and at:
            yield at, what
            found += 1
            if found == 8:
                return


def _before(data: memoryview, at: int) -> int | None:
    """Where the DOS header is that points to a PE header, when both are valid."""
    if not _pe(bytes(data[at : at + 26])):
        return None
    start = max(0, at - 1024)
    before = bytes(data[start:at])
    place = before.rfind(b"MZ")
    while place >= 0:
        if len(before) - place >= 64 and int.from_bytes(before[place + 60 : place + 64], "little") == at - start - place:
            return start + place
        place = before.rfind(b"MZ", 0, place)
    return None
