"""An ONNX file taken apart: the graph without its weights as one small protobuf message, and the weights as arrays beside it.

``onnx.load`` would hold every weight twice (in the message, and in the array made of it), follow paths the file names for external
data, and find out about limits when it is too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import TensorProto

from modelguard._runtime.onnx.types import EXTERNAL_KEY
from modelguard.artifact import ArtifactFile
from modelguard.checkpoint import Checkpoint
from modelguard.errors import ArtifactError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

STRIP_FROM = 1024
"""Bytes from which a weight is taken out of the message."""
MAX_MESSAGE = 1 << 28
"""Bytes the message may have without its weights."""

# Field numbers of onnx.proto3.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2", TensorProto.INT8: "i1", TensorProto.INT16: "<i2",
    TensorProto.INT32: "<i4", TensorProto.INT64: "<i8", TensorProto.UINT8: "u1", TensorProto.UINT16: "<u2", TensorProto.UINT32: "<u4",
    TensorProto.UINT64: "<u8", TensorProto.BOOL: "?",
}  # fmt: skip


@dataclass(frozen=True)
class OnnxFile:
    """``model`` names, for each weight that was taken out, its entry in ``weights`` (external_data with the one key ``modelguard``).

    No other external data is left in the graph's initializers.
    """

    model: onnx.ModelProto
    weights: dict[str, npt.NDArray[Any]]

    @classmethod
    def load(cls, file: ArtifactFile, checkpoint: Checkpoint) -> OnnxFile:
        """Read ``file``; external weights come from ``checkpoint``, which resolves them inside the artifact.

        Raises :class:`ModelError` when the file is no ONNX model, is too large, or refers to data that is not there.
        """
        data = file.map()
        reader = _Reader(file, data)
        try:
            parts = list(reader.model())
        except (IndexError, ValueError) as error:
            raise ModelError(file.path, f"is no valid ONNX file ({error})", "export it again") from None
        if sum(map(len, parts)) > MAX_MESSAGE:
            raise ModelError(
                file.path, f"has a graph of more than {MAX_MESSAGE >> 20} MiB without its weights", "it is malformed or hostile"
            )
        model = onnx.ModelProto()
        try:
            model.ParseFromString(b"".join(parts))
        except DecodeError as error:
            raise ModelError(file.path, f"is no valid ONNX file ({error})", "export it again") from None
        weights = reader.weights
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL or (tensor.external_data and tensor.name not in weights):
                weights[tensor.name] = _external(checkpoint, tensor)
                del tensor.external_data[:]
                tensor.ClearField("data_location")
                tensor.external_data.add(key=EXTERNAL_KEY, value=tensor.name)
        return cls(model, weights)

    def weight(self, name: str) -> npt.NDArray[Any]:
        """The weight that was taken out under ``name``. Raises :class:`ModelError` when there is none."""
        if name not in self.weights:
            raise ModelError(f"tensor {name[:80]!r}", "refers to data outside the graph", "the graph is malformed")
        return self.weights[name]


def _external(checkpoint: Checkpoint, tensor: TensorProto) -> npt.NDArray[Any]:
    if tensor.name not in checkpoint.tensors:
        raise ModelError(f"tensor {tensor.name[:80]!r}", "has external data that could not be opened", "add the data file to the artifact")
    return checkpoint.read(tensor.name)


class _Reader:
    """Walks the protobuf wire format of a model and takes the weights out. ``data`` is mapped; payloads are read, not mapped, so that
    each weight is in memory once, and aligned."""

    def __init__(self, file: ArtifactFile, data: memoryview) -> None:
        self._file = file
        self._data = data
        self.weights: dict[str, npt.NDArray[Any]] = {}

    def model(self) -> Iterator[bytes]:
        """The message, in parts, without the weights."""
        for number, kind, start, body, end in self._fields(0, len(self._data)):
            if (number, kind) == (_GRAPH, _BYTES):
                inner = b"".join(self._graph(body, end))
                yield _key(_GRAPH, _BYTES) + _varint(len(inner)) + inner
            else:
                yield bytes(self._data[start:end])

    def _graph(self, start: int, stop: int) -> Iterator[bytes]:
        for number, kind, first, body, end in self._fields(start, stop):
            stripped = self._tensor(body, end) if (number, kind) == (_INITIALIZER, _BYTES) and end - body > STRIP_FROM else None
            if stripped is None:
                yield bytes(self._data[first:end])
            else:
                yield _key(_INITIALIZER, _BYTES) + _varint(len(stripped)) + stripped

    def _tensor(self, start: int, stop: int) -> bytes | None:
        """The tensor's message without its payload, which goes to ``weights``; None when it is to stay as it is."""
        kept: list[bytes] = []
        dims: list[int] = []
        data_type, name, payload, plain = 0, None, None, True
        for number, kind, first, body, end in self._fields(start, stop):
            if number == _RAW_DATA and kind == _BYTES:
                plain = plain and payload is None
                payload = (body, end)
                continue
            if number == _DIMS and kind == _VARINT:
                dims.append(self._read_varint(body)[0])
            elif number == _DIMS and kind == _BYTES:
                while body < end:
                    value, body = self._read_varint(body)
                    dims.append(value)
            elif number == _DATA_TYPE and kind == _VARINT:
                data_type = self._read_varint(body)[0]
            elif number == _NAME and kind == _BYTES:
                name = bytes(self._data[body:end])
            elif number in (_EXTERNAL, _LOCATION):
                plain = False
            kept.append(bytes(self._data[first:end]))
        text = (name or b"").decode("utf-8", "replace")
        dtype = _DTYPES.get(data_type)
        if not plain or payload is None or not text or text in self.weights or dtype is None:
            return None
        offset, end = payload
        if prod(dims) * np.dtype(dtype).itemsize != end - offset or end - offset < STRIP_FROM:
            return None
        self.weights[text] = self._payload(offset, end - offset, dtype).reshape(dims)
        entry = b"".join(_key(i, _BYTES) + _varint(len(item)) + item for i, item in ((1, EXTERNAL_KEY.encode()), (2, text.encode())))
        return b"".join(kept) + _key(_EXTERNAL, _BYTES) + _varint(len(entry)) + entry

    def _payload(self, offset: int, length: int, dtype: str) -> npt.NDArray[Any]:
        buffer = np.empty(length, np.uint8)
        with self._file.open() as handle:
            handle.seek(offset)
            if handle.readinto(buffer.data) != length:  # type: ignore[attr-defined]
                raise ArtifactError(self._file.path, "became shorter while it was read", "scan a copy that nothing writes to")
        buffer.flags.writeable = False
        return buffer.view(dtype)

    def _fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int, int]]:
        """(number, wire type, first byte of the field, first byte of its value, one past it) of each field of a message."""
        position = start
        while position < stop:
            first = position
            key, position = self._read_varint(position)
            number, kind = key >> 3, key & 7
            body = position
            if kind == _VARINT:
                position = self._read_varint(position)[1]
            elif kind == _BYTES:
                length, body = self._read_varint(position)
                position = body + length
            elif kind in (_FIXED64, _FIXED32):
                position += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {kind}")
            if number == 0 or position > stop:
                raise ValueError("a field runs past its message")
            yield number, kind, first, body, position

    def _read_varint(self, position: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._data[position]
            value |= (byte & 0x7F) << shift
            position += 1
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                raise ValueError("a number is longer than 64 bits")


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
