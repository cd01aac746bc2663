"""Layouts that pack several entries into one element.

- ``weight_packed``, ``weight_scale`` and ``weight_shape``, with ``weight_zero_point`` where levels are not symmetric (compressed-tensors'
  ``pack_to_int32``: INT4 and INT8, lowest bits first);
- ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` (AutoGPTQ and GPTQModel: packed along the inputs, transposed; a stored zero is one less
  than it stands for, but in the format ``gptq_v2``), and without ``g_idx`` (AutoAWQ: packed along the outputs, in the order
  0 2 4 6 1 3 5 7);
- bitsandbytes' NF4 and FP4: ``weight`` in pairs, ``absmax``, ``quant_map`` and ``quant_state`` beside it, the scales quantised again
  or not;
- NVFP4: ``weight_packed``, ``weight_scale`` of sixteen entries in FP8 and ``weight_global_scale`` that divides (compressed-tensors), or
  ``weight``, ``weight_scale`` and ``weight_scale_2`` that multiplies (TensorRT Model Optimizer).
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard._diff.stored import FLOATS, FP4, Read, Stored, Tensors, blocks, floats, spread
from modelguard.checkpoint import Checkpoint, TensorInfo

Words = npt.NDArray[Any]
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
_SYMMETRIC = 8
"""The zero of symmetric levels of four bits as AutoGPTQ's second format stores it; the first stores 7."""
MOST = 0.75
"""Steps that a row of GPTQ's is off, root mean square. Rounding leaves 0.29; GPTQ on five kinds of inputs, from independent ones to those
of rank 4 (tests/unit/diff/test_packed.py), 0.29 to 0.48."""
_MAX_STATE = 1 << 12
"""Bytes of JSON that bitsandbytes' quant_state may have."""


def unpack(words: Words, bits: int, axis: int) -> Words:
    """The integers of ``bits`` bits in each I32, lowest first, side by side along ``axis``."""
    parts = np.arange(0, 32, bits, dtype=np.uint32)
    wide = np.moveaxis(words, axis, -1).astype(np.uint32)
    values = ((wide[..., None] >> parts) & np.uint32((1 << bits) - 1)).reshape(*wide.shape[:-1], -1)
    return np.moveaxis(values, -1, axis)


def compressed(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
    """compressed-tensors' ``pack-quantized``."""
    stem = info.name.removesuffix("_packed")
    scale, said = tensors.get(f"{stem}_scale"), tensors.get(f"{stem}_shape")
    if stem == info.name or info.dtype != "I32" or len(info.shape) != 2 or not info.size or scale is None or said is None:
        return None
    if scale.dtype not in FLOATS or said.size != 2:
        return None
    rows, columns = (int(size) for size in checkpoint.read(said.name).reshape(-1))
    bits = next((bits for bits in (4, 8) if -(-columns * bits // 32) == info.shape[1]), 0)
    block = blocks(scale.shape, (rows, columns))
    if rows != info.shape[0] or not bits or block is None:
        return None
    half = float(1 << (bits - 1))
    zero = tensors.get(f"{stem}_zero_point")
    if zero is not None and (zero.dtype != "I32" or len(zero.shape) != 2 or zero.shape[0] != -(-rows * bits // 32)):
        return None
    if zero is not None and zero.shape[1] * block[1] != columns:
        return None

    def read(checkpoint: Checkpoint) -> Read:
        values = unpack(checkpoint.read(info.name), bits, 1)[:, :columns].astype(np.float32) - half
        if zero is not None:
            zeros = unpack(checkpoint.read(zero.name), bits, 0)[:rows].astype(np.float32) - half
            values -= np.repeat(zeros, block[1], axis=1)
        return spread(values, floats(checkpoint, scale.name), block)

    parts = (info.name, scale.name, said.name) + (() if zero is None else (zero.name,))
    reach = (-half, half - 1) if zero is None else (1 - 2 * half, 2 * half - 1)
    return Stored(stem, (rows, columns), parts, f"INT{bits} packed, with scales", bits, read, *reach)


def gptq(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
    """GPTQ and AWQ. Their levels make up for each other's errors (Frantar et al. 2022), so none is the nearest to its weight."""
    stem = info.name.removesuffix("qweight")
    scale, zero, order = (tensors.get(f"{stem}{name}") for name in ("scales", "qzeros", "g_idx"))
    if stem == info.name or info.dtype != "I32" or len(info.shape) != 2 or not info.size or scale is None or zero is None:
        return None
    if scale.dtype not in FLOATS or len(scale.shape) != 2 or zero.dtype != "I32" or len(zero.shape) != 2:
        return None
    groups, outputs = scale.shape
    if order is None:
        inputs, bits = info.shape[0], 4
        fits = info.shape[1] * 8 == outputs and zero.shape == (groups, info.shape[1])
    else:
        inputs = order.size
        bits = 32 * info.shape[0] // max(1, inputs)
        fits = order.dtype == "I32" and bits in (2, 4, 8) and info.shape == (inputs * bits // 32, outputs)
        fits = fits and zero.shape == (groups, outputs * bits // 32)
    if not fits or not groups or inputs % groups:
        return None
    size = inputs // groups

    def read(checkpoint: Checkpoint) -> Read:
        words, zeros, scales = checkpoint.read(info.name), checkpoint.read(zero.name), floats(checkpoint, scale.name)
        if order is None:
            place = [8 * (at // 8) + _AWQ.index(at % 8) for at in range(outputs)]
            values, middle = unpack(words, 4, 1)[:, place], unpack(zeros, 4, 1)[:, place].astype(np.float32)
            group = np.arange(inputs) // size
        else:
            values, middle = unpack(words, bits, 0), unpack(zeros, bits, 1).astype(np.float32)
            middle += not (bits == 4 and (middle == _SYMMETRIC).all())
            group = np.clip(checkpoint.read(order.name).astype(np.int64), 0, groups - 1)
        with np.errstate(all="ignore"):
            weights = (values.astype(np.float32) - middle[group]) * scales[group]
        if (group == np.arange(inputs) // size).all():
            return np.ascontiguousarray(weights.T), np.ascontiguousarray(scales.T).reshape(-1), size
        return np.ascontiguousarray(weights.T), np.ascontiguousarray(scales[group].T).reshape(-1), 1

    parts = (info.name, scale.name, zero.name) + (() if order is None else (order.name,))
    most = float(1 << bits)
    shape, kind = (outputs, inputs), "AWQ" if order is None else "GPTQ"
    return Stored(
        f"{stem}weight", shape, parts, f"{kind} INT{bits}", bits, read, -most, most, reach=MOST, together=True, inputs=order is None
    )


def bitsandbytes(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
    """Four bits by a table of sixteen values (Dettmers et al. 2023, section 3), the first of a pair in the high bits."""
    name = info.name
    absmax, table = tensors.get(f"{name}.absmax"), tensors.get(f"{name}.quant_map")
    state = next((tensors[key] for kind in ("nf4", "fp4") if (key := f"{name}.quant_state.bitsandbytes__{kind}") in tensors), None)
    if info.dtype != "U8" or not info.size or absmax is None or table is None or state is None or state.size > _MAX_STATE:
        return None
    said = _state(checkpoint, state.name)
    shape, size = tuple(said.get("shape", ())), said.get("blocksize")
    if not (shape and all(isinstance(side, int) and side > 0 for side in shape) and isinstance(size, int) and size > 0):
        return None
    if table.shape != (16,) or prod(shape) != 2 * info.size or absmax.size * size != prod(shape):
        return None
    again = tensors.get(f"{name}.nested_absmax"), tensors.get(f"{name}.nested_quant_map")
    nested = all(again)
    if (absmax.dtype == "U8") != nested:
        return None
    lengths, offset = said.get("nested_blocksize", 256), said.get("nested_offset", 0.0)
    if again[0] is not None and again[1] is not None:
        if not (isinstance(lengths, int) and lengths > 0 and isinstance(offset, float | int)):
            return None
        if again[1].shape != (256,) or again[0].size != -(-absmax.size // lengths):
            return None

    def read(checkpoint: Checkpoint) -> Read:
        pairs, scales = checkpoint.read(name).reshape(-1), checkpoint.read(absmax.name)
        if again[0] is not None and again[1] is not None:
            each = np.repeat(floats(checkpoint, again[0].name), lengths)[: scales.size]
            scales = floats(checkpoint, again[1].name)[scales] * each + np.float32(offset)
        scales = scales.astype(np.float32).reshape(-1)
        values = floats(checkpoint, table.name)[np.stack([pairs >> 4, pairs & 15], axis=-1).reshape(-1)]
        with np.errstate(all="ignore"):
            return (values.reshape(-1, size) * scales[:, None]).reshape(shape), scales, size

    parts = tuple(part.name for part in (info, absmax, table, state, *again) if part is not None)
    # The widest gap of NF4 is that from -1 to -0.696, and of FP4 that from 2/3 to 1.
    kind = state.name[-3:]
    return Stored(name, shape, parts, f"{kind.upper()} of bitsandbytes", 4, read, -1.0, 1.0, 0.304 if kind == "nf4" else 0.334)


def _state(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    try:
        said = json.loads(bytes(checkpoint.read(name).astype(np.uint8)))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def nvfp4(info: TensorInfo, tensors: Tensors, checkpoint: Checkpoint) -> Stored | None:
    """NVFP4: small floats in pairs, the first in the low bits, a scale for sixteen, and one for all."""
    stem = info.name.removesuffix("_packed")
    whole = tensors.get(f"{stem}_global_scale" if stem != info.name else f"{stem}_scale_2")
    scale = tensors.get(f"{stem}_scale")
    if info.dtype != "U8" or len(info.shape) != 2 or not info.size or scale is None or whole is None:
        return None
    rows, columns = info.shape[0], 2 * info.shape[1]
    if scale.dtype != "F8_E4M3" or scale.shape != (rows, columns // 16) or columns % 16 or whole.size != 1 or whole.dtype not in FLOATS:
        return None
    divides = stem != info.name

    def read(checkpoint: Checkpoint) -> Read:
        pairs, factor = checkpoint.read(info.name), floats(checkpoint, whole.name).reshape(())
        values = np.stack([FP4[pairs & 15], FP4[pairs >> 4]], axis=-1).reshape(rows, columns)
        with np.errstate(all="ignore"):
            scales = floats(checkpoint, scale.name) / factor if divides else floats(checkpoint, scale.name) * factor
        return spread(values, scales, (1, 16))

    return Stored(stem, (rows, columns), (info.name, scale.name, whole.name), "NVFP4", 4, read, -6.0, 6.0, 0.5, 0.5)


PACKED = (compressed, gptq, bitsandbytes, nvfp4)
