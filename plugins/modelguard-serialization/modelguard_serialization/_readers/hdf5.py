"""HDF5: configurations of Keras wherever they lie in the file, and what of it lies in other files.

Source: HDF5 File Format Specification 3.0, https://docs.hdfgroup.org/hdf5/develop/_f_m_t3.html, by section below. Attributes are stored
whole and uncompressed (IV.A.2.m; variable-length text in global heaps, III.E), so a text that h5py can hand to Keras stands in the bytes as
it is. The whole file is looked through for such texts, whatever the structures around say: what only other parsers find cannot hide.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._documents import parse_json
from modelguard_serialization._embedded import PICKLED
from modelguard_serialization._format_rules import KERAS_CLASS, KERAS_CODE, METADATA_CODE, OUTSIDE_FILE
from modelguard_serialization._keras_config import is_keras, judge
from modelguard_serialization._paths import outside
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

MAGIC = b"\x89HDF\r\n\x1a\n"
_OBJECT = re.compile(rb'\{\s*"(?:[^"\\\x00-\x1f]|\\.){1,200}"\s*:\s*[\[{"tfn0-9-]')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]|\x00', re.DOTALL)
_LINK = re.compile(rb"\x01[\x08-\x0f\x18-\x1f]\x40", re.DOTALL)
_HEAP = re.compile(rb"HEAP\x00")
_COLLECTION = re.compile(rb"GCOL\x01")
_PYTABLES = (re.compile(rb"PYTABLES_FORMAT_VERSION"), re.compile(rb"pandas_type"), re.compile(rb"CLASS\x00"))
_STEP = 1 << 20
_WINDOW = 1 << 25
_OVERLAP = 4096
"""Bytes searched at once, by numpy and by patterns, and those beyond, in which what begins before may go on."""
_VALUES = re.compile(
    r"numpy\.(?:dtype|ndarray|(?:core|_core)\.multiarray\.(?:scalar|_reconstruct))|collections\.OrderedDict|datetime\.\w+|_codecs\.encode"
)
"""What PyTables' own attributes import."""
_FRACTAL = re.compile(rb"FRHP\x00..(..)", re.DOTALL)


def superblock(blob: Blob) -> int | None:
    """Where the superblock is: at 0, or at a power of two from 512 on, behind whatever stands before it (II.A)."""
    at = 0
    while at + len(MAGIC) <= len(blob.data):
        if blob.data[at : at + len(MAGIC)] == MAGIC:
            return at
        at = at * 2 or 512
    return None


class Hdf5(Reader):
    what = "an HDF5 file"
    rules = (KERAS_CODE, KERAS_CLASS, OUTSIDE_FILE, METADATA_CODE)
    format = "hdf5"

    def recognise(self, blob: Blob) -> bool:
        return superblock(blob) is not None

    def read(self, blob: Blob, look: Look) -> None:
        base = superblock(blob)
        assert base is not None
        version = bytes(blob.data[base + 8 : base + 9])
        sizes = bytes(blob.data[base + 13 : base + 15] if version < b"\x02" else blob.data[base + 9 : base + 11])
        if version > b"\x03" or sizes != b"\x08\x08":
            raise NotReadError("is HDF5 with a superblock of an unknown kind, or with addresses that have not 8 bytes")
        self._configurations(blob, look)
        self._links(blob, look)
        self._storage(blob, look, base)
        self._pickles(blob, look)
        if any(match[1] != b"\0\0" for match in _all(_FRACTAL, blob.data, look)):
            look.miss(blob, "has compressed attributes or links, which are not unpacked")

    def _configurations(self, blob: Blob, look: Look) -> None:
        for begin, text in json_objects(blob.data, look):
            try:
                trees = parse_json(text)
            except NotReadError as error:
                if "class_name" in text or "\\u00" in text:
                    look.miss(blob, f"holds a configuration at byte {begin} that {error}")
                continue
            for tree in trees:
                if is_keras(tree):
                    judge(tree, blob, look)

    def _pickles(self, blob: Blob, look: Look) -> None:
        """PyTables and pandas unpickle attributes, as they read them (tables/attributeset.py)."""
        if not any(True for mark in _PYTABLES for _ in _all(mark, blob.data, look)):
            return
        for match in islice(_all(PICKLED, blob.data, look), 100):
            name = b".".join(part for part in match.groups() if part is not None).decode("ascii", "replace")
            if _VALUES.fullmatch(name):
                continue
            message = f"PyTables unpickles an attribute that imports {name}"
            look.find("MG0338", blob, message, severity=Severity.HIGH, at=match.start(), key=name)

    def _links(self, blob: Blob, look: Look) -> None:
        """External links (IV.A.2.g, link type 64): the file and the object in it that a name stands for."""
        for match in _all(_LINK, blob.data, look):
            if name := _external(blob.data, match.start()):
                severity = Severity.CRITICAL if outside(name) else None
                look.find(
                    "MG0336", blob, f"a name in it stands for an object of {name[:200]!r}", severity=severity, at=match.start(), key=name
                )

    def _storage(self, blob: Blob, look: Look, base: int) -> None:
        """Data sets whose bytes lie in other files (IV.A.2.h), and virtual ones (IV.A.2.i, layout class 3).

        Both are messages that hold the address of a heap in which the names are: a message is told by its first bytes and by that address.
        """
        data, told = blob.data, set[str]()
        for heap, first, gap, what, names_in in (
            (_HEAP, b"\x01", 8, "a data set takes its bytes from other files", _local_names),
            (_COLLECTION, b"\x04\x03", 2, "a data set is put together from other files", _global_names),
            (_COLLECTION, b"\x05\x03", 2, "a data set is put together from other files", _global_names),
        ):
            places = [match.start() for match in _all(heap, data, look)]
            heaps = {place: place for place in places} | {place - base: place for place in places if place >= base}
            for at, address in _addressed(data, first, gap, sorted(heaps), look):
                shown = ", ".join(names := names_in(data, heaps[address], base))[:200]
                if shown and shown not in told:
                    told.add(shown)
                    severity = Severity.CRITICAL if any(map(outside, names)) else None
                    look.find("MG0336", blob, f"{what}: {shown}", severity=severity, at=at, key=shown)


def _addressed(data: memoryview, first: bytes, gap: int, addresses: list[int], look: Look) -> Iterator[tuple[int, int]]:
    """(place, address) wherever ``first`` stands and, ``gap`` bytes on from its beginning, one of the addresses."""
    import numpy as np

    raw = np.frombuffer(data, np.uint8)
    places = max(0, len(raw) - gap - 7) if addresses else 0
    wanted, members = np.array(addresses, np.uint64), set(addresses)
    for begin in range(0, places, _STEP):
        look.check()
        count = min(_STEP, places - begin)
        numbers = np.ndarray((count,), "<u8", data, begin + gap, (1,))
        hits = np.flatnonzero(raw[begin : begin + count] == first[0])
        for byte in range(1, len(first)):
            hits = hits[raw[begin + byte + hits] == first[byte]]
        near = numbers[hits]
        for hit in hits[(near >= wanted[0]) & (near <= wanted[-1])]:
            if (address := int(numbers[hit])) in members:
                yield begin + int(hit), address


def _all(pattern: re.Pattern[bytes], data: memoryview, look: Look) -> Iterator[re.Match[bytes]]:
    """Every match that begins in the data, a window at a time, so that the time is looked at in between."""
    for begin in range(0, len(data), _WINDOW):
        look.check()
        for number, match in enumerate(pattern.finditer(data, begin, begin + _WINDOW + _OVERLAP)):
            if number % 4096 == 0:
                look.check()
            if match.start() < begin + _WINDOW:
                yield match


def json_objects(data: memoryview, look: Look) -> Iterator[tuple[int, str]]:
    """(place, text) of every JSON object that stands in the bytes, not within another one, and ends."""
    at = 0
    while at < len(data):
        look.check()
        match = _OBJECT.search(data, at, at + _WINDOW + _OVERLAP)
        if match is None:
            at += _WINDOW
            continue
        begin, depth, end = match.start(), 0, 0
        for token in _TOKEN.finditer(data, begin, min(len(data), begin + limits.DOCUMENT)):
            mark = token[0]
            if mark in b"{[":
                depth += 1
            elif mark in b"}]":
                depth -= 1
            if mark == b"\0":
                break
            if depth == 0:
                end = token.end()
                break
        at = end or begin + 1
        if end:
            try:
                yield begin, bytes(data[begin:end]).decode()
            except UnicodeDecodeError:
                at = begin + 1
        elif re.search(rb"class_name", bytes(data[begin : begin + 4096])):
            look.missed.append("holds a configuration that has no end")


def _external(data: memoryview, at: int) -> str:
    """The file that the link message at ``at`` names, as ``H5L__extern_traverse`` reads it; empty when the bytes are no such message."""
    flags = data[at + 1]
    place = at + 3 + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(data[place : place + width], "little")
    place += width + length
    if not 0 < length < 1 << 20 or place + 2 > len(data):
        return ""
    size = int.from_bytes(data[place : place + 2], "little")
    # A version and flags byte of 0 comes first, then the file and the object, each closed by a zero.
    parts = bytes(data[place + 2 : place + 2 + size]).split(b"\0")
    if len(parts) < 3 or parts[0] or not parts[1] or not parts[2]:
        return ""
    text = parts[1] + parts[2]
    likely = min(text) >= 0x20 and sum(0x20 <= byte < 0x7F for byte in text) * 5 >= len(text) * 4
    return parts[1].decode("utf-8", "replace") if likely else ""


def _local_names(data: memoryview, heap: int, base: int) -> list[str]:
    """The texts of a local heap (III.D): the size of its data segment, its free list, and where the segment is."""
    size, _, segment = struct.unpack("<QQQ", bytes(data[heap + 8 : heap + 32]).ljust(24, b"\0"))
    raw = bytes(data[segment + base : segment + base + min(size, 1 << 16)]) if segment < len(data) else b""
    return _readable(raw.split(b"\0"))


def _global_names(data: memoryview, heap: int, base: int) -> list[str]:
    """The texts at the beginning of a global heap collection (III.E)."""
    return [name for name in _readable(bytes(data[heap + 16 : heap + 4096]).split(b"\0")) if len(name) > 1]


def _readable(names: list[bytes]) -> list[str]:
    texts = [name.decode(errors="replace") for name in names if name]
    return [text[:200] for text in texts if text.isprintable() and "\ufffd" not in text][:8]
