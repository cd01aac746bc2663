"""Serialised ONNX messages as field numbers and contents, and digests of them.

Field numbers are those of onnx.proto; the core has checked the messages on the way to tensors before it hands out a skeleton.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import prod

from modelguard.errors import FormatError

Message = dict[int, list[bytes]]
"""Contents by field number, in the order of the file; varints and fixed-width numbers as they are encoded."""

STRING = 8
"""TensorProto.DataType of text, which checkpoints do not list."""
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8,
    20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6,
}  # fmt: skip
"""Bits of an element by TensorProto.DataType."""
_SIX = {27, 28}
"""Those whose typed field is not their raw bytes: one entry each instead of four in three bytes."""


def parse(data: bytes, path: str) -> Message:
    """The fields of a message. Raises :class:`FormatError` naming ``path``."""
    found: Message = {}
    for number, content in _fields(data, path):
        found.setdefault(number, []).append(content)
    return found


def last(message: Message, number: int) -> bytes:
    return message[number][-1] if number in message else b""


def text(message: Message, number: int) -> str:
    return shown(last(message, number))


def shown(name: bytes) -> str:
    """A name as the core spells it."""
    return name.decode("utf-8", "backslashreplace")


def numbers(contents: Sequence[bytes], path: str) -> list[int]:
    """The values of a repeated varint field, packed or not."""
    found = []
    for content in contents:
        at = 0
        while at < len(content):
            value, at = _varint(content, at, path)
            found.append(value)
    return found


def number(message: Message, field: int, path: str) -> int:
    """The value of a varint field, 0 where it is not there."""
    return (numbers(message.get(field, []), path) or [0])[-1]


def tensor_bytes(tensor: Message, path: str) -> int:
    """Bytes that the values of a TensorProto take by its dims (field 1) and data_type (field 2)."""
    return -(-prod(numbers(tensor.get(1, []), path)) * _BITS.get(number(tensor, 2, path), 0) // 8)


def tensor_values(tensor: Message, path: str) -> bytes:
    """Digest of type, shape and values of a TensorProto that holds them itself, in raw_data (field 9) or in a typed field."""
    kind = number(tensor, 2, path)
    values = b"".join(tensor.get(9, []))
    if kind == STRING or kind in _SIX:
        values = digest(*(digest(str(at), *tensor[at]) for at in (5, 6, 9) if at in tensor))
    else:
        values += b"".join(content for at in (4, 10) for content in tensor.get(at, []))
        width = max(8, _BITS.get(kind, 0)) // 8
        entries = (value for at in (5, 7, 11) for value in numbers(tensor.get(at, []), path))
        values += b"".join((value & (1 << 8 * width) - 1).to_bytes(width, "little") for value in entries)
    return digest("values", str(kind), str(numbers(tensor.get(1, []), path)), values)


def digest(*parts: bytes | str) -> bytes:
    """The digest of ``parts``, each with its length in front."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.digest()


def _fields(data: bytes, path: str) -> Iterator[tuple[int, bytes]]:
    """Number and content of every field of a protobuf message (https://protobuf.dev/programming-guides/encoding/)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, path)
        start, wire = at, tag & 7
        if wire == 0:
            _, at = _varint(data, at, path)
        elif wire == 2:
            length, start = _varint(data, at, path)
            at = start + length
        else:
            at += {1: 8, 5: 4}.get(wire, len(data) + 1)
        if at > len(data):
            raise _broken(path)
        yield tag >> 3, data[start:at]


def _varint(data: bytes, at: int, path: str) -> tuple[int, int]:
    value = 0
    for shift in range(10):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << 7 * shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise _broken(path)


def _broken(path: str) -> FormatError:
    return FormatError(path, "its graph holds a message that is no protobuf", "export the model again")
