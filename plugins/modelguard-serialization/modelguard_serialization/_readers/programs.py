"""Programs, programs hidden in data, and the little files that start something."""

from __future__ import annotations

import re

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._code import programs, rules, shell
from modelguard_serialization._file_names import PROGRAMS, SHORTCUTS
from modelguard_serialization._words import words
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, Reader

_WEAK_ENDINGS = words(".so .sys .drv .elf .ko .o .a .lib .class .wasm .node .bundle .dex .bc .cubin")
"""What other files are called too, so that text under them is none."""


class ProgramReader(Reader):
    """Machine code and byte code, by its header, or by an ending under which systems load it as that."""

    what = "a program"
    rules = (rules.PROGRAM,)

    def recognise(self, blob: Blob) -> bool:
        return programs.program(blob.data) is not None or blob.ending in PROGRAMS or bool(re.search(r"\.so\.\d", blob.base))

    def read(self, blob: Blob, look: Look) -> None:
        what = programs.program(blob.data)
        said = f"is {what}" if what else f"is named like a program ({blob.ending or '.so'}), and of no kind that is known"
        look.find("MG0351", blob, said, severity=Severity.HIGH if what else Severity.MEDIUM, key="program")
        look.miss(blob, f"{said}, which is not looked into")


class HiddenProgramReader(Reader):
    """Programs inside files that are none. Recognises only what holds one."""

    what = "data with a program in it"
    rules = (rules.HIDDEN,)

    def recognise(self, blob: Blob) -> bool:
        return (
            64 < len(blob.data) <= limits.SEARCHED and programs.program(blob.data) is None and any(True for _ in programs.inside(blob.data))
        )

    def read(self, blob: Blob, look: Look) -> None:
        for at, what in programs.inside(blob.data):
            look.find("MG0354", blob, f"holds {what} at byte {at}", at=at, key=what)
        look.miss(blob, "holds a program, which is not looked into")


class ShortcutReader(Reader):
    """Files that start a program or open an address when somebody clicks on them."""

    what = "a shortcut"
    rules = (rules.CODE,)

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(64)
        link = head.startswith(b"\x4c\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46")
        return link or blob.ending in SHORTCUTS or head.lstrip()[:15] in (b"[Desktop Entry]", b"[InternetShortc")

    def read(self, blob: Blob, look: Look) -> None:
        text = str(blob.data[: limits.FOLDED_CODE], "utf-8", "replace")
        if blob.head(4) == b"\x4c\0\0\0":
            text = " ".join(re.findall(r"[ -~]{6,}", str(blob.data[: limits.FOLDED_CODE], "utf-16-le", "replace")))
        target = re.search(r"^\s*(?:Exec|URL)\s*=\s*(.{1,200})", text, re.M)
        bad = max((severity for _, severity in shell.tricks(text)), default=Severity.MEDIUM)
        starts = f"{target[1].strip()[:100]!r}" if target else "a program or an address"
        look.find("MG0350", blob, f"is a shortcut that starts {starts}", severity=max(bad, Severity.MEDIUM), key="shortcut")
        if blob.head(4) == b"\x4c\0\0\0":
            look.miss(blob, "is a shortcut of Windows, which is not looked into")
