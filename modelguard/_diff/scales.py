"""Quantised tensors whose scales lie beside them as tensors of their own: seen as the values they stand for, and how they are stored.

Layouts, as published:

- FP8 with ``weight_scale_inv`` per block of 128 x 128 (DeepSeek-V3), one by one or stacked;
- FP8 and INT8 with ``weight_scale`` per tensor or row (compressed-tensors), ``SCB`` per row (bitsandbytes' LLM.int8), ``_data`` with
  ``_scale`` (optimum-quanto);
- MXFP4 ``_blocks`` and ``_scales`` (gpt-oss; OCP Microscaling Formats specification 1.0);
- onnxruntime's ``_quantized``, ``_scale`` and ``_zero_point``;
- those that pack several entries into one element (:mod:`modelguard._diff.packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelguard._diff.packed import PACKED
from modelguard._diff.stored import FLOATS, FP4, Read, Shape, Stored, Tensors, blocks, floats, spread
from modelguard.checkpoint import Checkpoint, Quantization, TensorInfo

if TYPE_CHECKING:
    from modelguard.onnx_graph import OnnxModel

_FP8 = {"F8_E4M3": (448.0, 2.0**-9, 2.0**-3), "F8_E5M2": (57344.0, 2.0**-16, 2.0**-2)}
"""Largest value, smallest step, and the widest step as a share of the value."""
_INTEGERS = {"I8": (-128.0, 127.0), "U8": (0.0, 255.0)}


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
        return Quantization(
            item.type, item.bits, group, np.float32(item.step) * scales, low, high, item.reach, item.relative, item.together, item.inputs
        )

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
        for look in (_scaled, _microscaled, _onnx, *PACKED):
            item = look(info, checkpoint.tensors, checkpoint)
            if item is None or used & set(item.parts) or item.name in found:
                continue
            if item.name in checkpoint.tensors and item.name not in item.parts:
                continue
            found[item.name] = item
            used |= set(item.parts)
            break
    return list(found.values())


def _scaled(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
    """FP8 and INT8 weights, under their own name or as optimum-quanto's ``_data``."""
    if len(info.shape) < 2 or not info.size or (info.dtype not in _FP8 and info.dtype != "I8"):
        return None
    name = info.name.removesuffix("._data")
    stem = name.removesuffix("weight") if name.endswith("weight") else f"{name}_"
    for ending in (f"{name}_scale_inv", f"{name}_scale", f"{name}.SCB", f"{stem}SCB", f"{name}._scale"):
        scale = tensors.get(ending)
        block = None if scale is None or scale.dtype not in FLOATS else blocks(scale.shape, info.shape)
        if scale is None or block is None:
            continue
        read, parts = _reader(info, scale, block, 1 / 127 if ending.endswith("SCB") else 1.0), (info.name, scale.name)
        if info.dtype == "I8":
            return Stored(name, info.shape, parts, "INT8 with scales", 8, read, *_INTEGERS["I8"])
        top, step, relative = _FP8[info.dtype]
        return Stored(name, info.shape, parts, f"{info.dtype} with scales", 8, read, -top, top, step, relative)
    return None


def _reader(info: TensorInfo, scale: TensorInfo, block: Shape, factor: float) -> Callable[[Checkpoint], Read]:
    def read(checkpoint: Checkpoint) -> Read:
        return spread(floats(checkpoint, info.name), floats(checkpoint, scale.name) * np.float32(factor), block)

    return read


def _microscaled(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
    """MXFP4: 32 values of two bits of exponent and one of mantissa to a power of two; rows are columns of the unquantised tensor."""
    stem = info.name.removesuffix("_blocks")
    scale = tensors.get(f"{stem}_scales")
    if stem == info.name or scale is None or (info.dtype, scale.dtype) != ("U8", "U8") or not info.size:
        return None
    if len(info.shape) != 4 or info.shape[-1] != 16 or scale.shape != info.shape[:-1]:
        return None
    experts, rows, groups, _ = info.shape

    def read(checkpoint: Checkpoint) -> Read:
        pairs = checkpoint.read(info.name)
        values = np.stack([FP4[pairs & 15], FP4[pairs >> 4]], axis=-1).reshape(experts, rows, groups, 32)
        scales = np.ldexp(np.float32(1), checkpoint.read(scale.name).astype(np.int32) - 127)
        turned = (values * scales[..., None]).reshape(experts, rows, -1).transpose(0, 2, 1)
        each = np.repeat(scales, 32, axis=-1).transpose(0, 2, 1)
        return np.ascontiguousarray(turned), np.ascontiguousarray(each).reshape(-1), 1

    return Stored(stem, (experts, 32 * groups, rows), (info.name, scale.name), "MXFP4", 4, read, -6.0, 6.0, 0.5, 0.5)


def _onnx(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
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

    def read(checkpoint: Checkpoint) -> Read:
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
