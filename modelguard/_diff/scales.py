"""Quantised tensors whose scales lie beside them as tensors of their own: seen as the values they stand for, and how they are stored.

Layouts, as published:

- FP8 with ``weight_scale_inv`` per block of 128 x 128 (DeepSeek-V3);
- FP8 and INT8 with ``weight_scale`` per tensor or row (compressed-tensors), ``SCB`` per row (bitsandbytes' LLM.int8);
- packed INT4 ``weight_packed`` with ``weight_scale`` per group and ``weight_shape`` (compressed-tensors, symmetric);
- MXFP4 ``_blocks`` and ``_scales`` (gpt-oss; OCP Microscaling Formats specification 1.0);
- onnxruntime's ``_quantized``, ``_scale`` and ``_zero_point``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelguard.checkpoint import Checkpoint, Quantization, TensorInfo

if TYPE_CHECKING:
    from modelguard.onnx_graph import OnnxModel

F32 = npt.NDArray[np.float32]

BLOCK = 128
"""Rows and columns that share a scale where a tensor of scales is smaller than both sides (DeepSeek-V3's ``weight_block_size``)."""
_FP8 = {"F8_E4M3": (448.0, 2.0**-9, 2.0**-3), "F8_E5M2": (57344.0, 2.0**-16, 2.0**-2)}
"""Largest value, smallest step, and the widest step as a share of the value."""
_INTEGERS = {"I8": (-128.0, 127.0), "U8": (0.0, 255.0)}
_FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class Stored:
    """One quantised tensor: the values' name and shape, the tensors it takes, and what kind it is.

    ``read`` gives the values (float32, of ``shape``) and the scale of every ``group`` consecutive entries, flat.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    type: str
    bits: int
    read: Callable[[Checkpoint], tuple[F32, F32, int]]
    low: float
    high: float
    step: float = 1.0
    relative: float = 0.0


class Unfolded(Checkpoint):
    """A checkpoint whose quantised tensors are seen as float32 values under the name that the unquantised tensor has."""

    def __init__(self, inner: Checkpoint, stored: Sequence[Stored]) -> None:
        self.inner = inner
        self.name, self.format, self.files = inner.name, inner.format, inner.files
        self._stored = {item.name: item for item in stored}
        gone = {part for item in stored for part in item.parts}
        tensors = {name: info for name, info in inner.tensors.items() if name not in gone}
        for item in stored:
            info = inner.tensors[item.parts[0]]
            tensors[item.name] = replace(
                info, name=item.name, dtype="F32", shape=item.shape, byte_offset=None, byte_length=4 * prod(item.shape)
            )
        self._tensors = MappingProxyType(dict(sorted(tensors.items())))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.inner.metadata

    def raw(self, name: str) -> memoryview:
        item = self._stored.get(name)
        return self.inner.raw(name) if item is None else np.ascontiguousarray(item.read(self.inner)[0]).data.cast("B").toreadonly()

    def read(self, name: str) -> npt.NDArray[Any]:
        item = self._stored.get(name)
        return self.inner.read(name) if item is None else item.read(self.inner)[0]

    def quantization(self, name: str) -> Quantization | None:
        item = self._stored.get(name)
        if item is None:
            return self.inner.quantization(name)
        _, scales, group = item.read(self.inner)
        scales = np.abs(scales)
        low, high = (np.float32(item.low) * scales, np.float32(item.high) * scales)
        return Quantization(item.type, item.bits, group, np.float32(item.step) * scales, low, high, 0.5, item.relative)

    def graph(self, check: Callable[[], None] = lambda: None) -> OnnxModel | None:
        return self.inner.graph(check)


def stored_as(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as it lies in its files."""
    return checkpoint.inner if isinstance(checkpoint, Unfolded) else checkpoint


def unfold(checkpoints: Sequence[Checkpoint], others: Sequence[Checkpoint]) -> list[Checkpoint]:
    """``checkpoints`` with every quantised tensor seen as its values, but for those that one of ``others`` stores in the same way."""
    alike = {(name, info.dtype) for item in others for name, info in item.tensors.items()}
    found = []
    for checkpoint in checkpoints:
        stored = [item for item in _find(checkpoint) if (item.parts[0], checkpoint.tensors[item.parts[0]].dtype) not in alike]
        found.append(Unfolded(checkpoint, stored) if stored else checkpoint)
    return found


def _find(checkpoint: Checkpoint) -> list[Stored]:
    found: dict[str, Stored] = {}
    used: set[str] = set()
    for info in checkpoint.tensors.values():
        for look in (_scaled, _packed, _microscaled, _onnx):
            item = look(info, checkpoint.tensors)
            if item is None or used & set(item.parts) or item.name in found:
                continue
            if item.name in checkpoint.tensors and item.name not in item.parts:
                continue
            found[item.name] = item
            used |= set(item.parts)
            break
    return list(found.values())


_Tensors = Mapping[str, TensorInfo]


def _scaled(info: TensorInfo, tensors: _Tensors) -> Stored | None:
    """FP8 and INT8 weights under their own name."""
    if len(info.shape) != 2 or not info.size or (info.dtype not in _FP8 and info.dtype != "I8"):
        return None
    stem = info.name.removesuffix("weight") if info.name.endswith("weight") else f"{info.name}_"
    for ending in (f"{info.name}_scale_inv", f"{info.name}_scale", f"{info.name}.SCB", f"{stem}SCB"):
        scale = tensors.get(ending)
        if scale is None or scale.dtype not in _FLOATS or _rows(scale.shape, info.shape) is None:
            continue
        factor = 1 / 127 if ending.endswith("SCB") else 1.0
        read = _reader(info, scale, factor)
        if info.dtype == "I8":
            return Stored(info.name, info.shape, (info.name, scale.name), "INT8 with scales", 8, read, *_INTEGERS["I8"])
        top, step, relative = _FP8[info.dtype]
        return Stored(info.name, info.shape, (info.name, scale.name), f"{info.dtype} with scales", 8, read, -top, top, step, relative)
    return None


def _rows(scale: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns that share one of ``scale``: the whole tensor, a row, or a block; None where it is none of these."""
    rows, columns = shape
    if prod(scale) == 1:
        return rows, columns
    if scale in ((rows,), (rows, 1)):
        return 1, columns
    if scale == (-(-rows // BLOCK), -(-columns // BLOCK)):
        return BLOCK, BLOCK
    if len(scale) == 2 and scale[0] == rows and columns % scale[1] == 0:
        return 1, columns // scale[1]
    return None


def _reader(info: TensorInfo, scale: TensorInfo, factor: float = 1.0) -> Callable[[Checkpoint], tuple[F32, F32, int]]:
    shared = _rows(scale.shape, info.shape)
    assert shared is not None

    def read(checkpoint: Checkpoint) -> tuple[F32, F32, int]:
        scales = checkpoint.read(scale.name).astype(np.float32) * np.float32(factor)
        return _spread(checkpoint.read(info.name).astype(np.float32), scales, shared)

    return read


def _spread(values: F32, scales: F32, shared: tuple[int, int]) -> tuple[F32, F32, int]:
    """``values`` times the scale of their block of ``shared`` rows and columns."""
    rows, columns = values.shape
    group = gcd(shared[1], columns)
    each = scales.reshape(-(-rows // shared[0]), -(-columns // shared[1]))
    each = np.repeat(np.repeat(each, shared[0], axis=0)[:rows], shared[1] // group, axis=1)[:, : columns // group]
    with np.errstate(all="ignore"):
        out = (values.reshape(rows, -1, group) * each[:, :, None]).reshape(rows, columns)
    return out, np.ascontiguousarray(each).reshape(-1), group


def _packed(info: TensorInfo, tensors: _Tensors) -> Stored | None:
    """Eight four-bit integers to an I32, lowest first, 8 more than they stand for."""
    stem = info.name.removesuffix("_packed")
    scale, shape = tensors.get(f"{stem}_scale"), tensors.get(f"{stem}_shape")
    if (
        stem == info.name
        or info.dtype != "I32"
        or len(info.shape) != 2
        or scale is None
        or shape is None
        or f"{stem}_zero_point" in tensors
    ):
        return None
    rows, columns = info.shape[0], 8 * info.shape[1]
    shared = _rows(scale.shape, (rows, columns))
    if scale.dtype not in _FLOATS or shape.shape != (2,) or shared is None or not info.size:
        return None

    def read(checkpoint: Checkpoint) -> tuple[F32, F32, int]:
        words = checkpoint.read(info.name).astype(np.uint32)
        values = np.stack([(words >> np.uint32(4 * at)) & np.uint32(15) for at in range(8)], axis=-1).reshape(rows, columns)
        return _spread(values.astype(np.float32) - 8, checkpoint.read(scale.name).astype(np.float32), shared)

    return Stored(stem, (rows, columns), (info.name, scale.name, shape.name), "INT4 packed, with scales", 4, read, -8.0, 7.0)


def _microscaled(info: TensorInfo, tensors: _Tensors) -> Stored | None:
    """MXFP4: 32 values of two bits of exponent and one of mantissa to a power of two; rows are columns of the unquantised tensor."""
    stem = info.name.removesuffix("_blocks")
    scale = tensors.get(f"{stem}_scales")
    if stem == info.name or scale is None or (info.dtype, scale.dtype) != ("U8", "U8") or not info.size:
        return None
    if len(info.shape) != 4 or info.shape[-1] != 16 or scale.shape != info.shape[:-1]:
        return None
    experts, rows, groups, _ = info.shape

    def read(checkpoint: Checkpoint) -> tuple[F32, F32, int]:
        pairs = checkpoint.read(info.name)
        values = np.stack([_FP4[pairs & 15], _FP4[pairs >> 4]], axis=-1).reshape(experts, rows, groups, 32)
        scales = np.ldexp(np.float32(1), checkpoint.read(scale.name).astype(np.int32) - 127)
        turned = (values * scales[..., None]).reshape(experts, rows, -1).transpose(0, 2, 1)
        each = np.repeat(scales, 32, axis=-1).transpose(0, 2, 1)
        return np.ascontiguousarray(turned), np.ascontiguousarray(each).reshape(-1), 1

    return Stored(stem, (experts, 32 * groups, rows), (info.name, scale.name), "MXFP4", 4, read, -6.0, 6.0, 0.5, 0.5)


def _onnx(info: TensorInfo, tensors: _Tensors) -> Stored | None:
    """onnxruntime's quantisers: one scale and zero point for the tensor, or for each entry of one axis."""
    stem = info.name.removesuffix("_quantized")
    scale, zero = tensors.get(f"{stem}_scale"), tensors.get(f"{stem}_zero_point")
    if stem == info.name or info.dtype not in _INTEGERS or not info.size or scale is None or scale.dtype != "F32":
        return None
    if zero is not None and (zero.dtype != info.dtype or zero.shape != scale.shape):
        return None
    # Of a square matrix the columns: onnxruntime takes the last axis of what MatMul reads, and the first of a convolution.
    order = [1, 0] if len(info.shape) == 2 else list(range(len(info.shape)))
    axis = next((at for at in order if scale.shape == (info.shape[at],)), None)
    if scale.size != 1 and axis is None:
        return None

    def read(checkpoint: Checkpoint) -> tuple[F32, F32, int]:
        values = checkpoint.read(info.name).astype(np.float32)
        place = (1,) * len(info.shape) if scale.size == 1 else tuple(-1 if at == axis else 1 for at in range(len(info.shape)))
        scales = checkpoint.read(scale.name).astype(np.float32).reshape(place)
        if zero is not None:
            values -= checkpoint.read(zero.name).astype(np.float32).reshape(place)
        if scale.size == 1:
            rows = info.shape[0] if len(info.shape) > 1 else 1
            return values * scales, np.repeat(scales.reshape(-1), rows), info.size // rows
        return values * scales, np.ascontiguousarray(np.broadcast_to(scales, info.shape)).reshape(-1), 1

    parts = (info.name, scale.name) + (() if zero is None else (zero.name,))
    # Levels lie around the zero point, which the values already have taken off.
    return Stored(stem, info.shape, parts, f"{info.dtype} with scales", 8, read, -255.0, 255.0)
