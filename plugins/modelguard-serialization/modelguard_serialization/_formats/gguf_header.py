"""The header of a GGUF file: metadata and what it says of each tensor, checked before anything is believed.

A file is the magic ``GGUF``, a version, how many tensors and metadata there are, the metadata, the tensors' descriptions, and their
bytes. Source: the specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and, for what is rejected, llama.cpp's reader
(``ggml/src/gguf.cpp``). Nothing here is laxer than that reader, but for big-endian files and nested arrays, which the specification
allows and it refuses. Bytes that are neither header nor tensor, which it ignores, are refused.

The checks, numbered as in the code. Each is made before anything is allocated from the number it checks:

 (1) the file has the 24 bytes of magic, version and counts, and the version is 2 or 3
 (2) as many metadata and tensors as are counted fit into the bytes that follow
 (3) keys and tensor names are valid UTF-8 without NUL, at most 65535 and 64 bytes long, and not empty
 (4) no key and no tensor name occurs twice
 (5) a value has a type that the format lists, and lies within the file; a boolean is 0 or 1
 (6) strings, items, nesting and the metadata as a whole stay within the limits
 (7) ``general.alignment`` is a 32-bit power of two, and at least 8
 (8) a tensor has at most 4 dimensions, and its size fits 64 bits
 (9) its type is one the format lists, and its rows are whole blocks of that type
(10) its offset is a multiple of the alignment, and its bytes lie within the file
(11) no two tensors overlap
(12) no byte lies between two tensors or after the last one, but for zeros up to the alignment
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NoReturn

from modelguard import FormatError, LimitError
from modelguard_serialization import limits
from modelguard_serialization._formats.gguf_quants import REMOVED, TYPES, Kind

ALIGNMENT = 32
MAX_KEY = 65535
MAX_NAME = 64
MAX_DIMENSIONS = 4
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""struct codes of the value types that are one number."""
_AGAIN = "download or export it again, and do not load it as it is"
_SIZES = {code: struct.calcsize(f"<{letter}") for code, letter in SCALARS.items()}


@dataclass(frozen=True, slots=True)
class Value:
    """One metadata value: ``at`` and ``end`` are where it lies in the file, type and key not counted.

    ``scalar`` is the number, boolean or text (bytes that are no UTF-8 replaced); None for an array, which has ``count`` items of ``item``.
    """

    kind: int
    at: int
    end: int
    scalar: str | int | float | bool | None = None
    item: int = -1
    count: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: ``shape`` in the order of numpy and torch, ``offset`` from the beginning of the file, ``length`` in bytes."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the tensors' bytes. ``order`` is ``<`` or ``>``; ``tensors`` are in the order in which the file lists them."""

    version: int
    order: str
    values: Mapping[str, Value]
    tensors: tuple[Entry, ...]

    def text(self, key: str) -> str:
        """The text of ``key``; empty where it is absent or no text."""
        value = self.values.get(key)
        return value.scalar if value is not None and isinstance(value.scalar, str) else ""

    def number(self, key: str) -> int | None:
        """The whole number of ``key``, or None."""
        value = self.values.get(key)
        return value.scalar if value is not None and type(value.scalar) is int else None


def read_header(view: memoryview, path: str) -> Header:
    """Check a whole file's header. Raises :class:`FormatError` or :class:`LimitError` naming the check that failed and where."""
    return _Reader(view, path).header()


def texts(view: memoryview, value: Value, order: str) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each item of an array of strings that :func:`read_header` has checked."""
    at = value.at + 12
    for _ in range(value.count):
        (length,) = struct.unpack_from(f"{order}Q", view, at)
        yield at + 8, bytes(view[at + 8 : at + 8 + length])
        at += 8 + length


class _Reader:
    def __init__(self, view: memoryview, path: str) -> None:
        self._view, self._path, self._at, self._end = view, path, 0, len(view)
        self._order, self._items = "<", 0

    def header(self) -> Header:
        if self._end < 24:  # (1)
            self._fail(f"has {self._end} bytes, too few for the header of a GGUF file")
        version = int.from_bytes(self._view[4:8], "little")
        if version and version & 0xFFFF == 0:
            self._order, version = ">", int.from_bytes(self._view[4:8], "big")
        if version == 1:  # (1)
            self._fail("is GGUF version 1, which no present loader reads", remedy="convert it again with a present llama.cpp")
        if version not in (2, 3):  # (1)
            self._fail(f"claims GGUF version {version}, and there are 2 and 3")
        self._at = 8
        tensors, keys = self._number("Q"), self._number("Q")
        values = self._values(keys)
        alignment = self._alignment(values)
        return Header(version, self._order, values, self._tensors(tensors, alignment))

    def _values(self, count: int) -> dict[str, Value]:
        if count > limits.GGUF_KEYS:  # (6)
            self._limit(f"lists {count} metadata, and {limits.GGUF_KEYS} are the limit")
        if count * 13 > self._end - self._at:  # (2)
            self._fail(f"counts {count} metadata, and {self._end - self._at} bytes follow")
        values: dict[str, Value] = {}
        for _ in range(count):
            key = self._name(MAX_KEY, "a metadata key")
            if key in values:  # (4)
                self._fail(f"has the metadata key {shown(key)} twice, so loaders disagree on its value", "MG0107")
            values[key] = self._value(key)
            if self._at > limits.GGUF_METADATA:  # (6)
                self._limit(f"has more than {limits.GGUF_METADATA} bytes of metadata, which is the limit")
        return values

    def _value(self, key: str) -> Value:
        kind = self._number("I")
        at = self._at
        if kind == STRING:
            raw = self._string(limits.GGUF_STRING, f"the value of {shown(key)}")
            return Value(kind, self._at - len(raw), self._at, raw.decode("utf-8", "replace"))
        if kind == ARRAY:
            item, count = self._array(key, 1)
            return Value(kind, at, self._at, None, item, count)
        if kind not in SCALARS:  # (5)
            self._fail(f"the value of {shown(key)} has type {kind}, which the format does not have")
        number = self._number(SCALARS[kind])
        if kind == BOOL and number > 1:  # (5)
            self._fail(f"the value of {shown(key)} is the boolean {number}, and 0 and 1 are the only ones")
        return Value(kind, at, self._at, bool(number) if kind == BOOL else number)

    def _array(self, key: str, depth: int) -> tuple[int, int]:
        """Passes over one array, and returns the type and the number of its items."""
        if depth > limits.GGUF_NESTING:  # (6)
            self._limit(f"the value of {shown(key)} has more than {limits.GGUF_NESTING} arrays in each other, which is the limit")
        item, count = self._number("I"), self._number("Q")
        if item in _SIZES:
            if count * _SIZES[item] > self._end - self._at:  # (5)
                self._fail(f"the value of {shown(key)} has {count} items, and {self._end - self._at} bytes follow")
            if item == BOOL and self._view[self._at : self._at + count].tobytes().strip(b"\0\1"):  # (5)
                self._fail(f"the value of {shown(key)} has booleans that are neither 0 nor 1")
            self._at += count * _SIZES[item]
            return item, count
        if item not in (STRING, ARRAY):  # (5)
            self._fail(f"the value of {shown(key)} has items of type {item}, which the format does not have")
        self._items += count
        if self._items > limits.GGUF_ITEMS:  # (6)
            self._limit(f"has more than {limits.GGUF_ITEMS} strings and arrays in its metadata, which is the limit")
        if count * (8 if item == STRING else 12) > self._end - self._at:  # (5)
            self._fail(f"the value of {shown(key)} has {count} items, and {self._end - self._at} bytes follow")
        if item == STRING:
            self._strings(count, key)
        else:
            for _ in range(count):
                self._array(key, depth + 1)
        return item, count

    def _strings(self, count: int, key: str) -> None:
        """Passes over ``count`` strings; vocabularies have hundreds of thousands."""
        unpack, view, at, end = struct.Struct(f"{self._order}Q").unpack_from, self._view, self._at, self._end
        for _ in range(count):
            length = unpack(view, at)[0] if at + 8 <= end else end
            if length > limits.GGUF_STRING or at + 8 + length > end:  # (5) (6)
                self._at = at
                self._string(limits.GGUF_STRING, f"an item of {shown(key)}")
            at += 8 + length
        self._at = at

    def _alignment(self, values: Mapping[str, Value]) -> int:
        value = values.get("general.alignment")
        if value is None:
            return ALIGNMENT
        found = value.scalar
        if value.kind != 4 or not isinstance(found, int) or found < 8 or found & (found - 1):  # (7)
            self._fail(f"general.alignment is {found!r:.40}, and must be a 32-bit power of two that is at least 8")
        return found

    def _tensors(self, count: int, alignment: int) -> tuple[Entry, ...]:
        if count > limits.GGUF_TENSORS:  # (6)
            self._limit(f"lists {count} tensors, and {limits.GGUF_TENSORS} are the limit")
        if count * 25 > self._end - self._at:  # (2)
            self._fail(f"counts {count} tensors, and {self._end - self._at} bytes follow")
        found: dict[str, Entry] = {}
        for _ in range(count):
            entry = self._tensor(alignment)
            if entry.name in found:  # (4)
                self._fail(f"has the tensor {shown(entry.name)} twice, so loaders disagree on its values", "MG0107")
            found[entry.name] = entry
        start = -(-self._at // alignment) * alignment
        entries = tuple(Entry(item.name, item.kind, item.shape, item.offset + start, item.length) for item in found.values())
        self._layout(entries, alignment)
        return entries

    def _tensor(self, alignment: int) -> Entry:
        name = self._name(MAX_NAME, "a tensor name")
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:  # (8)
            self._limit(f"tensor {shown(name)} has {dimensions} dimensions, and {MAX_DIMENSIONS} are the most that the format has")
        ne = [self._number("Q") for _ in range(dimensions)]
        code, offset = self._number("I"), self._number("Q")
        if code not in TYPES:  # (9)
            why = "was taken out of the format" if code in REMOVED else "the format does not have"
            self._fail(f"tensor {shown(name)} has type {code}, which {why}")
        kind = TYPES[code]
        shape = tuple(reversed(ne))
        total = 1
        for size in shape:  # the partial products too: readers multiply in this order and check each
            total *= max(1, size)
            if total * kind.size >= 2**63:  # (8)
                self._fail(f"the size of tensor {shown(name)}, {list(shape)}, overflows 64 bits", "MG0105")
        if (ne[0] if ne else 1) % kind.block:  # (9)
            row = ne[0] if ne else 1
            self._fail(
                f"tensor {shown(name)} has rows of {row} entries, no multiple of the {kind.block} of a block of {kind.name}", "MG0105"
            )
        if offset % alignment:  # (10)
            self._fail(f"tensor {shown(name)} begins at {offset} of the data, which is no multiple of {alignment}", "MG0105")
        return Entry(name, kind, shape, offset, prod(shape) // kind.block * kind.size)

    def _layout(self, entries: tuple[Entry, ...], alignment: int) -> None:
        position, previous = self._at, ""
        for entry in sorted(entries, key=lambda item: (item.offset, item.length)):
            if entry.offset + entry.length > self._end:  # (10)
                self._fail(
                    f"tensor {shown(entry.name)} ends at byte {entry.offset + entry.length} of {self._end}: it is truncated", "MG0105"
                )
            if entry.offset < position:  # (11)
                self._fail(f"tensor {shown(entry.name)} overlaps {shown(previous)}", "MG0105")
            self._padding(position, entry.offset, alignment, f"before tensor {shown(entry.name)}")
            position, previous = entry.offset + entry.length, entry.name
        self._padding(position, self._end, alignment, "after its last tensor")

    def _padding(self, begin: int, end: int, alignment: int, where: str) -> None:
        if end - begin >= alignment or self._view[begin:end].tobytes().strip(b"\0"):  # (12)
            self._fail(f"{end - begin} bytes {where} belong to none and are no padding", "MG0106")

    def _number(self, letter: str) -> int:
        size = struct.calcsize(f"<{letter}")
        if self._at + size > self._end:  # (5)
            self._fail(f"ends within its header, at byte {self._end}")
        (found,) = struct.unpack_from(self._order + letter, self._view, self._at)
        self._at += size
        return found  # type: ignore[no-any-return]

    def _name(self, most: int, what: str) -> str:
        raw = self._string(most, what)
        if not raw or b"\0" in raw:  # (3)
            self._fail(f"{what} at byte {self._at - len(raw)} is empty or has a NUL byte, where loaders would cut it")
        try:
            return raw.decode()
        except UnicodeDecodeError:  # (3)
            self._fail(f"{what} at byte {self._at - len(raw)} is not valid UTF-8")

    def _string(self, most: int, what: str) -> bytes:
        length = self._number("Q")
        if length > self._end - self._at:  # (5)
            self._fail(f"{what} at byte {self._at} claims {length} bytes, and {self._end - self._at} follow")
        if length > most:  # (3) (6)
            self._limit(f"{what} at byte {self._at} has {length} bytes, and {most} are the limit")
        self._at += length
        return bytes(self._view[self._at - length : self._at])

    def _fail(self, cause: str, rule: str = "MG0102", remedy: str = _AGAIN) -> NoReturn:
        raise FormatError(self._path, cause, remedy, rule=rule)

    def _limit(self, cause: str) -> NoReturn:
        raise LimitError(self._path, cause, _AGAIN, rule="MG0104")


def shown(text: str) -> str:
    """``text`` for a message: in quotes, everything invisible escaped, cut when long."""
    safe = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:120])
    return f"'{safe}'" if len(text) <= 120 else f"'{safe}...' ({len(text)} characters)"
