"""A model without its weights: the same protobuf message with the values of large tensors taken out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from modelguard._formats.onnx_schema import SCHEMA
from modelguard._formats.protobuf import LEN, VARINT, Field, Wire, encode_field, encode_varint

KEY = "modelguard"
"""The key of the ``external_data`` entry whose value is the tensor's name."""

_VALUES = frozenset({"float_data", "int32_data", "int64_data", "double_data", "uint64_data", "raw_data", "external_data", "data_location"})
_EXTERNAL = encode_varint(14 << 3 | VARINT) + b"\x01"


def skeleton(wire: Wire, removable: Mapping[int, str], message: str = "Model", begin: int = 0, end: int | None = None) -> bytes:
    """The ``message`` in ``[begin, end)`` of ``wire`` with the tensors whose messages begin at the keys of ``removable`` left empty.

    Only messages on the way to such a tensor are walked; all others are copied as they are.
    """
    return _Writer(wire, removable).rewrite(message, begin, len(wire.view) if end is None else end)


class _Writer:
    def __init__(self, wire: Wire, removable: Mapping[int, str]) -> None:
        self._wire = wire
        self._names = removable
        self._begins = sorted(removable)

    def rewrite(self, message: str, begin: int, end: int) -> bytes:
        """The message in ``[begin, end)``, copied up to what changes, field by field."""
        out = bytearray()
        kept = begin
        for field in self._wire.fields(begin, end):
            kind = SCHEMA[message].get(field.number)
            if field.wire != LEN or kind is None or not kind.message or not self._holds(field):
                continue
            new = self._tensor(field) if field.begin in self._names else self.rewrite(kind.message, field.begin, field.end)
            out += self._wire.view[kept : field.start]
            out += encode_field(field.number, new)
            kept = field.end
        out += self._wire.view[kept:end]
        return bytes(out)

    def _holds(self, field: Field) -> bool:
        index = bisect_left(self._begins, field.begin)
        return index < len(self._begins) and self._begins[index] < field.end

    def _tensor(self, tensor: Field) -> bytes:
        out = bytearray()
        for field in self._wire.fields(tensor.begin, tensor.end):
            kind = SCHEMA["Tensor"].get(field.number)
            if kind is None or kind.name not in _VALUES:
                out += self._wire.view[field.start : field.end]
        pair = encode_field(1, KEY.encode()) + encode_field(2, self._names[tensor.begin].encode())
        return bytes(out) + encode_field(13, pair) + _EXTERNAL
