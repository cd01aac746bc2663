"""Tar archives, which NeMo models and old torch files are."""

from __future__ import annotations

import posixpath

from modelguard import Severity
from modelguard_serialization import _tar as tar
from modelguard_serialization import limits
from modelguard_serialization._archive_rules import ESCAPE, RULES, TRICK
from modelguard_serialization._names import escapes, leads_out, shown
from modelguard_serialization._readers._archive import put
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader


class Tars(Reader):
    """Every member goes on to the other readers, and so does what lies between them. Nothing is unpacked."""

    what = "a tar archive"
    rules = RULES

    def recognise(self, blob: Blob) -> bool:
        return tar.is_tar(blob.data)

    def read(self, blob: Blob, look: Look) -> None:
        seen: set[str] = set()
        links: set[str] = set()
        for count, item in enumerate(tar.walk(blob.data, look.check)):
            if count > limits.MEMBERS:
                raise NotReadError(f"has more than {limits.MEMBERS} members")
            part = blob.data[item.begin : item.begin + item.size] if isinstance(item, tar.Entry) else blob.data[item.begin : item.end]
            if isinstance(item, tar.Stray):
                message = f"has {len(part)} bytes {item.why}, which some readers pass over"
                look.find(TRICK.id, blob, message, at=item.begin, key=f"stray:{item.why}")
                put(look, blob, "(between)", part, item.begin)
                continue
            self._entry(blob, item, look)
            if any(parent in links for parent in _parents(item.name)):
                message = f"its member {shown(item.name)} is written through a link in the archive"
                look.find(TRICK.id, blob, message, at=item.header, key=f"through:{item.name}")
            if item.name in seen and item.kind == tar.FILE:
                message = f"has several members {shown(item.name)}, of which readers take one or another"
                look.find(TRICK.id, blob, message, severity=Severity.LOW, at=item.header, key=f"twice:{item.name}")
            seen.add(item.name)
            if item.kind == tar.SOFT:
                links.add(posixpath.normpath(item.name))
            if item.holes:
                look.miss(blob, f"its member {shown(item.name)} is stored with holes, which are not filled here")
            put(look, blob, item.name, part, item.begin)

    def _entry(self, blob: Blob, item: tar.Entry, look: Look) -> None:
        name = shown(item.name)
        for flaw in item.flaws:
            look.find(TRICK.id, blob, f"its member {name} {flaw}", at=item.header, key=f"{flaw.partition(' by ')[0][:40]}:{item.name}")
        if why := escapes(item.name):
            look.find(ESCAPE.id, blob, f"its member {name} {why}", at=item.header, key=f"escape:{item.name}")
        folder = posixpath.dirname(item.name) if item.kind == tar.SOFT else ""
        if item.kind in (tar.SOFT, tar.HARD) and (why := leads_out(folder, item.target)):
            message = f"its link {name} leads out of it: the target {shown(item.target)} {why}"
            look.find(ESCAPE.id, blob, message, at=item.header, key=f"link:{item.name}")
        if item.kind in (tar.CHARACTER, tar.BLOCK_DEVICE, tar.FIFO):
            look.find(ESCAPE.id, blob, f"its member {name} is a device", at=item.header, key=f"device:{item.name}")


def _parents(name: str) -> list[str]:
    parts = posixpath.normpath(name).split("/")[:64]
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
