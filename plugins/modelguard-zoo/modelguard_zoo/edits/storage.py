"""What saving a model differently does to its weights: casts, quantise round trips, pruning, scaling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from modelguard_zoo.edits.arrays import Array, Edit, Tensors, from_float, is_float, record, to_float


def cast(tensors: Tensors, dtype: str) -> tuple[dict[str, Array], Edit]:
    """Every floating-point tensor in ``dtype`` (``float64``, ``float32``, ``float16`` or ``bfloat16``)."""
    to: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    after = {name: from_float(array, to) if is_float(array) and array.dtype != to else array for name, array in tensors.items()}
    return after, record("cast", tensors, after, dtype=dtype)


def quantize_int8(tensors: Tensors, names: Iterable[str] | None = None) -> tuple[dict[str, Array], Edit]:
    """Round trip through symmetric int8 with one absmax scale per row; ``names`` default to every matrix."""
    return _quantize("int8", tensors, names, levels=127, group=None)


def quantize_int4(tensors: Tensors, names: Iterable[str] | None = None, group: int = 32) -> tuple[dict[str, Array], Edit]:
    """Round trip through symmetric int4 with one absmax scale per ``group`` elements of a row (the last group may be shorter)."""
    return _quantize("int4", tensors, names, levels=7, group=group)


def prune(tensors: Tensors, names: Iterable[str] | None = None, fraction: float = 0.3) -> tuple[dict[str, Array], Edit]:
    """Magnitude pruning: the ``fraction`` of each matrix's entries smallest in absolute value becomes zero."""
    after = dict(tensors)
    for name in _matrices(tensors, names):
        magnitude = np.abs(to_float(tensors[name]))
        after[name] = np.where(magnitude < np.quantile(magnitude, fraction), tensors[name].dtype.type(0), tensors[name])
    return after, record("pruned", tensors, after, fraction=fraction)


def scale(tensors: Tensors, names: Iterable[str] | None = None, factor: float = 0.99) -> tuple[dict[str, Array], Edit]:
    """Each matrix times ``factor``, rounded once."""
    after = dict(tensors)
    for name in _matrices(tensors, names):
        after[name] = from_float(to_float(tensors[name]) * np.float32(factor), tensors[name].dtype)
    return after, record("scaled", tensors, after, factor=factor)


def _quantize(
    family: str, tensors: Tensors, names: Iterable[str] | None, *, levels: int, group: int | None
) -> tuple[dict[str, Array], Edit]:
    after = dict(tensors)
    for name in _matrices(tensors, names):
        weight = to_float(tensors[name])
        rows = weight.reshape(weight.shape[0], -1)
        width = group or rows.shape[1]
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % width))).reshape(rows.shape[0], -1, width)
        step = np.abs(padded).max(axis=2, keepdims=True) / levels
        step[step == 0] = 1
        restored = (np.clip(np.rint(padded / step), -levels, levels) * step).reshape(rows.shape[0], -1)[:, : rows.shape[1]]
        after[name] = from_float(restored.reshape(weight.shape), tensors[name].dtype)
    return after, record(family, tensors, after, levels=levels, group=group)


def _matrices(tensors: Tensors, names: Iterable[str] | None) -> list[str]:
    if names is not None:
        return sorted(names)
    return sorted(name for name, array in tensors.items() if array.ndim >= 2 and is_float(array))
