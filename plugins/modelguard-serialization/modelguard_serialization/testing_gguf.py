"""For tests: GGUF files written byte by byte, right or wrong, and plain quantisers of a few types."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard_serialization._formats.gguf_quants import TYPES

CODES = {kind.name: code for code, kind in TYPES.items()}
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Raw:
    """A metadata value by its bytes: ``kind`` is the number of its type."""

    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor by its bytes. ``shape`` is in numpy's order; ``offset`` overrides where the header says that it begins."""

    type: str | int
    shape: tuple[int, ...]
    data: bytes
    offset: int | None = None


def gguf_bytes(
    tensors: Mapping[str, Any] | Iterable[tuple[str | bytes, Any]] = (),
    metadata: Mapping[str, Any] | Iterable[tuple[str | bytes, Any]] = (),
    *,
    version: int = 3,
    order: str = "<",
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
    tail: bytes | None = None,
) -> bytes:
    """A GGUF file. Tensors are arrays or :class:`Stored`; metadata are text, numbers, lists of one of them, or :class:`Raw`.

    ``counts`` are the numbers of tensors and metadata that the header claims; ``tail`` replaces the padding after the last tensor.
    """
    named = [(name, _stored(item, order)) for name, item in _pairs(tensors)]
    values = _pairs(metadata)
    claimed = counts or (len(named), len(values))
    head = bytearray(b"GGUF" + struct.pack(f"{order}IQQ", version, *claimed))
    for key, value in values:
        kind, data = _value(value, order)
        head += _string(key, order) + struct.pack(f"{order}I", kind) + data
    body = bytearray()
    for name, item in named:
        offset = len(body) if item.offset is None else item.offset
        code = CODES[item.type] if isinstance(item.type, str) else item.type
        dimensions = struct.pack(f"{order}I{len(item.shape)}Q", len(item.shape), *reversed(item.shape))
        head += _string(name, order) + dimensions + struct.pack(f"{order}IQ", code, offset)
        body += item.data + bytes(-len(item.data) % alignment)
    if tail is not None and named:
        body = body[: len(body) - (-len(named[-1][1].data) % alignment)] + tail
    return bytes(head) + bytes(-len(head) % alignment) * bool(named) + bytes(body)


def quantise(values: F32, type: str) -> Stored:
    """Float32 ``values`` as ``Q8_0``, ``Q4_0`` or ``Q4_K``, each entry rounded to the level nearest to it; the simplest scales."""
    return Stored(type, values.shape, _QUANTISERS[type](values.astype(np.float32)))


def rotate(values: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows as llama.cpp's converter orders those of ``q_proj`` and ``k_proj``."""
    return np.ascontiguousarray(values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape))


def _q8_0(values: F32) -> bytes:
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    levels = np.rint(blocks / _unit(scale)).clip(-127, 127).astype(np.int8)
    return np.hstack([scale.view(np.uint8), levels.view(np.uint8)]).tobytes()


def _q4_0(values: F32) -> bytes:
    blocks = values.reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = (largest / -8).astype(np.float16)
    levels = (np.rint(blocks / _unit(scale)) + 8).clip(0, 15).astype(np.uint8)
    return np.hstack([scale.view(np.uint8), levels[:, :16] | levels[:, 16:] << 4]).tobytes()


def _q4_k(values: F32) -> bytes:
    """Scales of six bits, to one scale of 256 entries; the minimum of every group is at most zero."""
    groups = values.reshape(-1, 8, 32)
    least = -np.minimum(groups.min(axis=2), 0)
    span = (groups.max(axis=2) + least) / 15
    units = [(np.maximum(part.max(axis=1, keepdims=True), 1e-30) / 63).astype(np.float16) for part in (span, least)]
    scales, offsets = (np.rint(part / _unit(unit)).clip(0, 63).astype(np.uint8) for part, unit in zip((span, least), units, strict=True))
    step, base = (_unit(unit) * part for unit, part in zip(units, (scales, offsets), strict=True))
    levels = np.rint((groups + base[..., None]) / np.where(step > 0, step, 1)[..., None]).clip(0, 15).astype(np.uint8)
    low = [part[:, :4] | (part[:, 4:] >> 4) << 6 for part in (scales, offsets)]
    packed = np.hstack([*low, (scales[:, 4:] & 15) | (offsets[:, 4:] & 15) << 4])
    pairs = levels.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(groups), -1)
    return np.hstack([units[0].view(np.uint8), units[1].view(np.uint8), packed, nibbles]).tobytes()


_QUANTISERS = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_K": _q4_k}


def _unit(scale: npt.NDArray[np.float16]) -> F32:
    return np.where(scale == 0, np.float16(1), scale).astype(np.float32)


def _pairs(items: Any) -> list[tuple[Any, Any]]:
    return list(items.items()) if isinstance(items, Mapping) else list(items)


def _stored(item: Any, order: str) -> Stored:
    if isinstance(item, Stored):
        return item
    array = np.asarray(item)
    name = {"bfloat16": "BF16"}.get(array.dtype.name) or {"f": "F", "i": "I"}[array.dtype.kind] + str(array.dtype.itemsize * 8)
    words = array.view(f"u{array.dtype.itemsize}") if array.ndim else array.reshape(1).view(f"u{array.dtype.itemsize}")
    return Stored(name, array.shape, words.astype(f"{order}u{array.dtype.itemsize}").tobytes())


def _string(text: str | bytes, order: str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(f"{order}Q", len(data)) + data


def _value(value: Any, order: str) -> tuple[int, bytes]:
    if isinstance(value, Raw):
        return value.kind, value.data
    if isinstance(value, str):
        return 8, _string(value, order)
    if isinstance(value, bool):
        return 7, bytes([value])
    if isinstance(value, int):
        return (4 if value >= 0 else 5), struct.pack(f"{order}{'I' if value >= 0 else 'i'}", value)
    if isinstance(value, float):
        return 6, struct.pack(f"{order}f", value)
    items = [_value(item, order) for item in value]
    return 9, struct.pack(f"{order}IQ", items[0][0] if items else 4, len(items)) + b"".join(data for _, data in items)
