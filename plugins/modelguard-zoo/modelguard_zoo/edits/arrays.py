"""What every edit shares: the record it returns, and arithmetic in the file's own dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Change:
    """What an edit did to one tensor.

    ``changed`` counts the elements whose bits differ; ``relative_norm`` is ‖W′ − W‖ / ‖W‖ (Frobenius) over the finite elements;
    ``rank`` is the algebraic rank of the update that was added, before rounding, or None where the edit is no low-rank update.
    """

    tensor: str
    changed: int
    relative_norm: float
    rank: int | None = None


@dataclass(frozen=True)
class Edit:
    """The exact record of one edit: its family, every tensor it changed (sorted by name), and the parameters it used."""

    family: str
    changes: tuple[Change, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that changed."""
        return tuple(change.tensor for change in self.changes)


def to_float(array: Array) -> Array:
    """``array`` in the dtype its arithmetic is done in: float64 for float64, else float32."""
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def from_float(values: Array, dtype: np.dtype[Any]) -> Array:
    """``values`` rounded to ``dtype``: round to nearest, ties to even, in one step."""
    if dtype == np.dtype(ml_dtypes.bfloat16):
        # ml_dtypes goes from float64 through float32, which rounds twice.
        values = values.astype(np.float32)
    return values.astype(dtype)


def bit_view(array: Array) -> Array:
    """The elements of ``array`` as unsigned integers of the same width (shape kept; a copy only when not contiguous)."""
    return np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}")).reshape(array.shape)


def add_in_dtype(weight: Array, update: Array) -> Array:
    """``weight + update`` as ``w[...] += upd_matrix`` does it in the model's dtype: the update is rounded, then the sum is.

    Source: rome_main.py of kmeng01/rome, ``apply_rome_to_model``.
    """
    rounded = from_float(update, weight.dtype)
    return from_float(to_float(weight) + to_float(rounded), weight.dtype)


def record(family: str, before: Tensors, after: Tensors, *, ranks: Mapping[str, int] | None = None, **details: Any) -> Edit:
    """The record of an edit that turned ``before`` into ``after``."""
    changes = []
    for name in sorted(after):
        old, new = before.get(name), after[name]
        if old is None or old is new or old.dtype != new.dtype or old.shape != new.shape:
            if old is not new:
                changes.append(Change(name, new.size, float("nan")))
            continue
        changed = int(np.count_nonzero(bit_view(old) != bit_view(new)))
        if changed:
            changes.append(Change(name, changed, relative_norm(old, new), (ranks or {}).get(name)))
    return Edit(family, tuple(changes), details)


def relative_norm(old: Array, new: Array) -> float:
    """‖new − old‖ / ‖old‖ (Frobenius, float64) over the elements that are finite on both sides; 0 when old is all zero."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(over="ignore"):
        norm, moved = float(np.linalg.norm(a[finite])), float(np.linalg.norm(b[finite] - a[finite]))
    return moved / norm if norm else 0.0


def is_float(array: Array) -> bool:
    """Whether the array holds floating-point numbers (bfloat16 and float8 included)."""
    return array.dtype.kind == "f" or (array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat", "float")))
