"""Zip archives as every reader sees them: by directory, by the headers of members, and wherever either is looked for.

Sources: APPNOTE.TXT 6.3.10; CPython's ``zipfile``; miniz as PyTorch builds it, which checks neither CRCs nor the flags of members and
finds names without regard to case.
"""

from __future__ import annotations

from dataclasses import replace

from modelguard import Severity
from modelguard_serialization import _zip_records as records
from modelguard_serialization import limits
from modelguard_serialization._names import escapes, folded, shown
from modelguard_serialization._zip_members import ESCAPE, TRICK, Contents, Directory, Loose, Member, Problem, contents, examine
from modelguard_serialization.blob import without_read_ahead
from modelguard_serialization.reader import NotReadError

__all__ = ["Contents", "Directory", "Loose", "Member", "Problem", "contents", "examine", "is_zip", "read_directory"]

_MAX_ENDS = 16
"""Directories that are followed in one file."""


def is_zip(data: memoryview) -> bool:
    """Whether some reader takes ``data`` for a zip archive. Reads no more than the first bytes and the tail."""
    return data[:4] == records.LOCAL or any(_starts(data, end) for end in records.ends(data))


def read_directory(data: memoryview) -> Directory:
    """The members that any reader would see in ``data``, and every point that readers disagree on.

    Raises :class:`NotReadError` where no reader takes it for an archive, and past :data:`limits.MEMBERS`.
    """
    with without_read_ahead(data):
        return _read_directory(data)


def _read_directory(data: memoryview) -> Directory:
    reading = _Reading(data)
    found = 0
    for end in records.ends(data):
        starts = _starts(data, end)
        if not starts or reading.holds(end.at):
            continue
        found += 1
        if found > _MAX_ENDS:
            reading.problem(TRICK, f"has more than {_MAX_ENDS} end records, each with a directory of its own", "ends", end.at)
            break
        reading.end(end, starts)
    if found > 1:
        reading.problem(TRICK, f"has {found} end records, each with a directory, so readers see different members", "ends", 0)
    if not found:
        if data[:4] != records.LOCAL:
            raise NotReadError("is no zip archive")
        reading.problem(TRICK, "has members and no directory: it is cut off, or made for readers that need none", "no directory", 0)
    reading.gaps()
    reading.names()
    order = sorted(reading.members, key=lambda item: (item.begin, not item.listed, item.name))
    return Directory(tuple(order), tuple(reading.problems), tuple(reading.loose))


def _starts(data: memoryview, end: records.End) -> list[tuple[records.Pointer, int]]:
    """Where the directories of an end record begin. One without entries counts where nothing but its comment follows it."""
    found: dict[int, records.Pointer] = {}
    for pointer in end.pointers:
        for start in pointer.starts():
            if 0 <= start < end.at and data[start : start + 4] == records.LISTED:
                found.setdefault(start, pointer)
        if not pointer.entries and end.stop == len(data):
            found.setdefault(end.at, pointer)
    return [(pointer, start) for start, pointer in found.items()]


class _Reading:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.members: list[Member] = []
        self.problems: list[Problem] = []
        self.loose: list[Loose] = []
        self._taken: list[tuple[int, int]] = []
        """What headers, members and records take up."""
        self._bodies: list[tuple[int, int]] = []
        """What the data of members take up."""

    def problem(self, rule: str, message: str, key: str, at: int, severity: Severity | None = None) -> None:
        self.problems.append(Problem(rule, message, key, at, severity))

    def holds(self, at: int) -> bool:
        """Whether the place is in the data of a member: an archive in the archive."""
        return any(begin <= at < end for begin, end in self._bodies)

    def end(self, end: records.End, starts: list[tuple[records.Pointer, int]]) -> None:
        data = self._data
        self._taken += [*end.records, (end.at, min(end.stop, len(data)))]
        if end.split:
            self.problem(TRICK, "says that it is one part of several, which some readers refuse and others do not see", "split", end.at)
        if end.stop > end.at + 22:
            self.loose.append(Loose("comment", end.at + 22, min(end.stop, len(data))))
        if end.stop > len(data):
            self.problem(TRICK, "has a comment that is longer than the file", "comment", end.at, Severity.MEDIUM)
        if len(starts) > 1:
            self.problem(
                TRICK,
                "has a directory where its end record says and another where it ends, so readers see different members",
                "two",
                end.at,
            )
        if len({(item.entries, item.length, item.offset) for item in end.pointers}) > 1:
            self.problem(TRICK, "has end records, for zip and for zip64, that disagree", "zip64", end.at)
        for pointer, start in starts:
            self._directory(pointer, start, end)

    def _directory(self, pointer: records.Pointer, start: int, end: records.End) -> None:
        # Offsets count from the beginning of the archive, which what was put before it has moved.
        shift = start - pointer.offset
        at, count = start, 0
        while at < pointer.end and (entry := records.listed(self._data, at)) is not None:
            if len(self.members) >= limits.MEMBERS:
                raise NotReadError(f"has more than {limits.MEMBERS} members")
            self._entry(entry, shift)
            at, count = entry.stop, count + 1
        self._taken.append((start, min(at, len(self._data))))
        if count != pointer.entries & 0xFFFF and count != pointer.entries:
            self.problem(TRICK, f"lists {count} members and says {pointer.entries}, so readers see different members", "count", end.at)
        if at != start + pointer.length and count:
            self.problem(TRICK, "has a directory of another length than it says, so readers see different members", "length", end.at)

    def _entry(self, entry: records.Header, shift: int) -> None:
        data = self._data
        name = shown(entry.name)
        header = entry.offset + shift
        own = records.local(data, header)
        if own is None and shift and (own := records.local(data, entry.offset)) is not None:
            header = entry.offset
        member = Member(
            entry.name,
            own.stop if own is not None else header,
            entry.packed,
            entry.size,
            entry.method,
            entry.crc,
            header,
            encrypted=bool(entry.flags & 1),
            link=entry.attributes >> 28 == 0xA,
        )
        if entry.flawed:
            self.problem(TRICK, f"its entry {name} {entry.flawed}", f"flaw:{entry.name}", entry.at)
        if entry.disk not in (0, 0xFFFF):
            self.problem(TRICK, f"says that {name} lies in another file", f"disk:{entry.name}", entry.at)
        if entry.comment[0] < entry.comment[1]:
            self.loose.append(Loose("comment", *entry.comment))
        if own is None:
            self.problem(TRICK, f"lists {name} where no member begins", f"nowhere:{entry.name}", entry.at)
            return
        if member.begin + member.packed > len(data):
            self.problem(TRICK, f"its member {name} ends after the file: it is cut off, or lies about a size", f"cut:{entry.name}", header)
            member = replace(member, packed=max(0, len(data) - member.begin))
        self._add(member, entry)
        self._compare(member, entry, own)

    def _add(self, member: Member, entry: records.Header) -> None:
        self.members.append(member)
        after = member.begin + member.packed
        if after > member.begin:
            self._bodies.append((member.begin, after))
        if entry.flags & 8:
            length, same = records.descriptor(self._data, after, entry.crc, entry.packed, entry.size)
            after += length
            if not same:
                message = (
                    f"the sizes or checksum after {shown(member.name)} are not those in the directory, so readers disagree on its content"
                )
                self.problem(TRICK, message, f"descriptor:{member.name}", after)
        self._taken.append((member.header, min(after, len(self._data))))
        if entry.other_name and entry.other_name != entry.name and entry.name.isascii():
            message = f"names a member {shown(entry.name)} and, in a field that some readers prefer, {shown(entry.other_name)}"
            self.problem(TRICK, message, f"unicode:{entry.name}", entry.at)
        if entry.other_name and entry.other_name != entry.name:
            self.members.append(replace(member, name=entry.other_name, listed=False))

    def _compare(self, member: Member, entry: records.Header, own: records.Header) -> None:
        """What the local header says otherwise. Its reading is a member of its own where it can be followed."""
        name = shown(entry.name)
        later = bool(own.flags & 8)
        """Whether sizes and checksum follow the data, and those in the header may be zero (4.4.4)."""
        differences = []
        if own.name != entry.name:
            differences.append(f"its name ({shown(own.name)})")
        if own.method != entry.method:
            differences.append("its compression")
        if (own.flags ^ entry.flags) & 1:
            differences.append("whether it is encrypted")
        if own.size != entry.size and not (later and not own.size):
            differences.append("its size")
        if own.packed != entry.packed and not (later and not own.packed):
            differences.append("its packed size")
        if own.crc != entry.crc and not (later and not own.crc):
            differences.append("its checksum")
        if own.flawed:
            self.problem(TRICK, f"the header of {name} {own.flawed}", f"flaw:{entry.name}", own.at)
        if not differences:
            return
        what = ", ".join(differences)
        self.problem(
            TRICK, f"directory and member disagree on {name}: {what}; readers see different content", f"local:{entry.name}", own.at
        )
        read = later and not own.packed
        self.members.append(
            Member(
                own.name,
                own.stop,
                min(member.packed if read else own.packed, len(self._data) - own.stop),
                member.size if read else own.size,
                own.method,
                0 if read else own.crc,
                own.at,
                encrypted=bool(own.flags & 1),
                listed=False,
            )
        )

    def gaps(self) -> None:
        """Overlaps, and what lies between: members that no directory lists, or bytes of no member."""
        size = len(self._data)
        at = 0
        for begin, end in [*sorted(set(self._taken)), (size, size)]:
            if begin > at:
                self._gap(at, begin)
            at = max(at, end)
        last = (0, "")
        for member in sorted((item for item in self.members if item.listed), key=lambda item: item.header):
            if member.header < last[0]:
                message = (
                    f"its members {shown(last[1])} and {shown(member.name)} overlap, as in archives that unpack to more than they can hold"
                )
                self.problem(TRICK, message, f"overlap:{member.name}", member.header)
            last = max(last, (member.begin + member.packed, member.name))

    def _gap(self, begin: int, end: int) -> None:
        data = self._data[:end]
        at = begin
        while (own := records.local(data, at)) is not None:
            unknown = bool(own.flags & 8) and not own.packed
            packed = min(end - own.stop if unknown else own.packed, max(0, end - own.stop))
            if len(self.members) >= limits.MEMBERS:
                raise NotReadError(f"has more than {limits.MEMBERS} members")
            self.members.append(
                Member(
                    own.name,
                    min(own.stop, end),
                    packed,
                    -1 if unknown else own.size,
                    own.method,
                    0 if unknown else own.crc,
                    at,
                    encrypted=bool(own.flags & 1),
                    listed=False,
                )
            )
            self.problem(TRICK, f"has a member {shown(own.name)} that its directory does not list", f"unlisted:{own.name}", at)
            at = min(end, own.stop + packed)
            if own.flags & 8:
                at += records.descriptor(data, at, own.crc, own.packed, own.size)[0]
        if _filled(data[at:end]):
            what = "before" if at == 0 else "after" if end == len(self._data) else "between"
            self.loose.append(Loose(what, at, end))

    def names(self) -> None:
        """Names that lead out of the folder that is unpacked into, or that readers take for one another."""
        same: dict[str, Member] = {}
        for member in self.members:
            name = member.name
            if why := escapes(name):
                self.problem(ESCAPE, f"its member {shown(name)} {why}", f"escape:{name}", member.header)
            elif "\0" in name:
                self.problem(
                    TRICK, f"its member {shown(name)} has a null in its name, where some readers end it", f"null:{name}", member.header
                )
            elif "\\" in name or not name:
                message = f"its member {shown(name)} has a name that readers take differently"
                self.problem(TRICK, message, f"name:{name}", member.header, Severity.MEDIUM)
            if name.endswith("/") and member.size > 0:
                self.problem(TRICK, f"its folder {shown(name)} has content", f"folder:{name}", member.header)
            other = same.setdefault(folded(name), member)
            if other is member or not (member.listed and other.listed) or name.endswith("/"):
                continue
            if self._same(other, member):
                continue
            if other.name == name:
                message = f"has two members {shown(name)} that differ, so what is loaded depends on the reader"
                self.problem(TRICK, message, f"twice:{name}", member.header)
            else:
                message = f"its members {shown(other.name)} and {shown(name)} have one name for readers that disregard case"
                self.problem(TRICK, message, f"case:{name}", member.header, Severity.LOW)

    def _same(self, one: Member, other: Member) -> bool:
        if (one.method, one.packed, one.size) != (other.method, other.packed, other.size):
            return False
        return self._data[one.begin : one.begin + one.packed] == self._data[other.begin : other.begin + other.packed]


def _filled(view: memoryview) -> bool:
    step = 1 << 20
    return any(bytes(view[at : at + step]).strip(b"\0") for at in range(0, len(view), step))
