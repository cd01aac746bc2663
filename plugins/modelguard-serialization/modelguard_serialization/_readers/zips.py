"""Zip archives, and the torch files, NumPy archives, Keras models, wheels and applications that are ones."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from modelguard import Severity
from modelguard_serialization import _zip_records as records
from modelguard_serialization import limits
from modelguard_serialization._archive_rules import ESCAPE, POLYGLOT, RULES, TRICK
from modelguard_serialization._names import leads_out, shown
from modelguard_serialization._readers._archive import bomb, put
from modelguard_serialization._unpack import TooLargeError
from modelguard_serialization._zip import Directory, Member, examine, is_zip, read_directory
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_STORAGE = re.compile(r"/(?:data|constants|tensors)/[0-9]{1,10}")
"""Where torch keeps the bytes of tensors, after the archive's own folder (caffe2/serialize/inline_container.h, torch/serialization.py)."""
_PROGRAMS = (b"#!", b"\x7fELF", b"MZ")


class Zips(Reader):
    """Every member goes on to the other readers, under each name and with each content that some reader of archives gives it."""

    what = "a zip archive"
    rules = RULES

    def recognise(self, blob: Blob) -> bool:
        return is_zip(blob.data) and not _torch(blob)

    def read(self, blob: Blob, look: Look) -> None:
        directory = read_directory(blob.data)
        torch = _prefixes(directory)
        for problem in directory.problems:
            severity = problem.severity
            if torch and problem.key.startswith("case:"):
                severity = Severity.HIGH  # PyTorch finds members without regard to case
            look.find(problem.rule, blob, problem.message, severity=severity, at=problem.at, key=problem.key)
        self._loose(blob, directory, look)
        # Only an archive that all readers see alike has members of which the layout says what they are.
        clear = not any(problem.severity is None for problem in directory.problems)
        members = [item for item in directory.members if not (clear and _storage(item, torch))]
        packed = sum(item.packed for item in members if not item.stored)
        size = sum(item.size for item in members if not item.stored)
        if size > look.room:
            bomb(look, blob, size, packed)
        for member in members:
            look.check()
            self._member(blob, member, look, torch=bool(torch))

    def _member(self, blob: Blob, member: Member, look: Look, torch: bool) -> None:
        name = shown(member.name)
        try:
            found = examine(blob.data, member, look.room, look.check)
        except TooLargeError as error:
            bomb(look, blob, look.room, min(error.packed, member.packed))
            if 0 <= member.size <= look.room:
                message = f"says that {name} has {member.size} bytes, and it has more than {look.room}"
                look.find(TRICK.id, blob, message, at=member.header, key=f"size:{member.name}")
            look.miss(blob, f"its member {name} {error}")
            return
        except NotReadError as error:
            look.miss(blob, f"its member {name} {error}")
            return
        if not member.stored:
            look.unpacked += len(found.data)
        for problem in found.problems:
            # torch saves without checksums if told so, and loads such files (torch.serialization.set_crc32_options).
            severity = Severity.LOW if torch and problem.key.startswith("checksum") else problem.severity
            look.find(problem.rule, blob, problem.message, severity=severity, at=problem.at, key=problem.key)
        if found.missed:
            look.miss(blob, f"its member {name} {found.missed}")
        if member.link and (why := leads_out(posixpath.dirname(member.name), bytes(found.data[:4096]).decode("utf-8", "replace"))):
            look.find(ESCAPE.id, blob, f"its link {name} leads out of it: the target {why}", at=member.header, key=f"link:{member.name}")
        put(look, blob, member.name, found.data, member.begin if member.stored else None)

    def _loose(self, blob: Blob, directory: Directory, look: Look) -> None:
        for loose in directory.loose:
            part = blob.data[loose.begin : loose.end]
            if loose.what == "before":
                if not blob.head(4).startswith(_PROGRAMS):
                    message = f"is a zip archive, and begins with {len(part)} bytes of something else"
                    look.find(POLYGLOT.id, blob, message, key="zip at the end")
            elif loose.what != "comment":
                message = f"has {len(part)} bytes of no member {'behind its end' if loose.what == 'after' else 'between its members'}"
                look.find(TRICK.id, blob, message, at=loose.begin, key=loose.what)
            put(look, blob, f"({loose.what})", part, loose.begin)


class TorchZips(Zips):
    """What ``torch.save`` and ``torch.jit.save`` write. The bytes of tensors are not read: nothing runs them."""

    what = "a torch file"
    format = "torch-zip"

    def recognise(self, blob: Blob) -> bool:
        return _torch(blob) and is_zip(blob.data)


def _torch(blob: Blob) -> bool:
    """Whether it begins as torch writes: with the pickle. An archive that has it elsewhere is read alike, under the other name."""
    first = records.local(blob.data[: limits.NAME + 64], 0)
    return first is not None and first.name.endswith("/data.pkl")


def _prefixes(directory: Directory) -> frozenset[str]:
    """The folders of an archive that torch would take for its own."""
    return frozenset(item.name.removesuffix("/data.pkl") for item in directory.members if item.name.endswith("/data.pkl"))


def _storage(member: Member, prefixes: Collection[str]) -> bool:
    head, _, _ = member.name.partition("/")
    return member.listed and not member.link and head in prefixes and bool(_STORAGE.fullmatch(member.name, len(head)))
