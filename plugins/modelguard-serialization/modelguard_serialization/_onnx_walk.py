"""An ONNX file's operators, functions and notes, by walking its protobuf without decoding a tensor.

Field numbers are those of onnx.proto (IR version 13). Messages are visited with a stack, so their nesting costs no recursion, and
every byte range is visited once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


class BrokenError(ValueError):
    """The bytes are no protobuf; the text says where."""


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Wire types of ModelProto's fields."""


@dataclass
class Notes:
    """What is told of one file."""

    operators: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(domain, op_type) of every node, in subgraphs, functions and training graphs too."""
    functions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(domain, name, overload) of functions the model defines."""
    opsets: Counter[str] = field(default_factory=Counter)
    texts: list[tuple[str, memoryview]] = field(default_factory=list)
    """(what it is, value) of metadata and of documentation."""


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) of one message. Raises :class:`BrokenError`."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise BrokenError("a field has the number 0")
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire in (_BYTES, _FIXED64, _FIXED32):
            size, at = _varint(data, at) if wire == _BYTES else (8 if wire == _FIXED64 else 4, at)
            if size > end - at:
                raise BrokenError("a field is longer than what is left")
            value, at = data[at : at + size], at + size
        else:
            raise BrokenError(f"a field has the wire type {wire}")
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise BrokenError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BrokenError("a number has more than 10 bytes")


def is_model(data: memoryview, lenient: bool) -> bool:
    """Whether the bytes are a ModelProto with a graph. ``lenient``: fields that the format does not have are allowed."""
    if len(data) < 4 or data[0] not in (0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72):
        return False
    seen = set()
    try:
        for count, (number, wire, _) in enumerate(fields(data)):
            if (_MODEL.get(number) != wire and not (lenient and number not in _MODEL)) or count > 1_000_000:
                return False
            seen.add(number)
    except BrokenError:
        return False
    return 7 in seen and bool(seen & {1, 8})


def walk(data: memoryview, found: Notes) -> Iterator[None]:
    """Fills ``found``. Pauses every few thousand fields, so that the caller can look at the time.

    Raises :class:`BrokenError`; what was noted before stays.
    """
    stack: list[tuple[str, memoryview]] = [("model", data)]
    steps = 0
    while stack:
        kind, message = stack.pop()
        own = _Own()
        for number, wire, value in fields(message):
            steps += 1
            if not steps % 4096:
                yield
            if wire == _BYTES and isinstance(value, memoryview):
                _field(kind, number, value, found, stack, own)
        if kind == "node":
            found.operators[own.domain, own.op] += 1
        elif kind == "function":
            found.functions[own.domain, own.name, own.overload] += 1
        elif kind == "opset":
            found.opsets[own.domain] += 1
        elif kind == "entry":
            found.texts.append((f"the metadata {own.name!r}", own.value))


@dataclass
class _Own:
    domain: str = ""
    op: str = ""
    name: str = ""
    overload: str = ""
    value: memoryview = field(default_factory=lambda: memoryview(b""))


_BELOW: dict[tuple[str, int], str] = {
    ("model", 7): "graph",
    ("model", 8): "opset",
    ("model", 14): "entry",
    ("model", 20): "training",
    ("model", 25): "function",
    ("training", 1): "graph",
    ("training", 2): "graph",
    ("graph", 1): "node",
    ("graph", 16): "entry",
    ("node", 5): "attribute",
    ("node", 9): "entry",
    ("attribute", 6): "graph",
    ("attribute", 11): "graph",
    ("function", 7): "node",
    ("function", 11): "attribute",
    ("function", 14): "entry",
}
_DOCS = {
    ("model", 6): "the documentation of the model",
    ("graph", 10): "the documentation of a graph",
    ("function", 8): "the documentation of a function",
}
_OWN = {
    ("node", 4): "op",
    ("node", 7): "domain",
    ("function", 1): "name",
    ("function", 10): "domain",
    ("function", 13): "overload",
    ("opset", 1): "domain",
    ("entry", 1): "name",
}


def _field(kind: str, number: int, value: memoryview, found: Notes, stack: list[tuple[str, memoryview]], own: _Own) -> None:
    place = (kind, number)
    if place in _BELOW:
        stack.append((_BELOW[place], value))
    elif place in _OWN:
        setattr(own, _OWN[place], str(value[:300], "utf-8", "backslashreplace"))
    elif place == ("entry", 2):
        own.value = value
    elif place in _DOCS or (kind in ("node", "attribute") and number in (6, 13) and len(value) > 256):
        found.texts.append((_DOCS.get(place, "the documentation of a node"), value))
