"""Buffers that loading computes anew: missing or added they change nothing, if they hold exactly what is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, pi
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from modelguard._diff.pairing import Place

LARGEST = 1 << 24
"""Entries up to which a buffer is read: a causal mask of 4096 positions."""
BASE = 10000.0
"""Of rotary embeddings (Su et al. 2021), where config.json says no other."""
_BASES = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "global_rope_theta", "local_rope_theta")
_DEEPEST = 4
"""Objects of config.json inside each other that are looked at."""
_POSITIONS = re.compile(r"(^|\.)position_ids$")
_FREQUENCIES = re.compile(r"(^|\.)inv_freq$")
_MASK = re.compile(r"(attn|attention|self_attn|attention\.self)\.(bias|mask)$|(^|\.)(causal_mask|attn_mask|attention_mask)$")
_MASKED = re.compile(r"(attn|attention)\.masked_bias$")
_MASKED_BIAS = (-1e4, -1e9)
_ZEROS = re.compile(r"(^|\.)token_type_ids$")


@dataclass(frozen=True)
class Rotary:
    """How a model's rotary embeddings turn: their base, and how they are stretched for longer texts (transformers' ``rope_scaling``)."""

    base: float = BASE
    scaling: Mapping[str, Any] = field(default_factory=dict)

    def frequencies(self, count: int) -> npt.NDArray[np.float64] | None:
        """``inv_freq`` of ``count`` numbers; None where it is stretched in a way that is not computed here."""
        plain: npt.NDArray[np.float64] = self.base ** (-np.arange(count) / count)
        said = self.scaling
        kind = said.get("rope_type", said.get("type", "default"))
        if kind == "default":
            return plain
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, length = (float(value) if _is_number(value := said.get(name)) else 0.0 for name in names)
        if kind == "linear" and factor > 0:
            return plain / factor
        if kind == "llama3" and factor > 0 and 0 < low < high and length > 0:
            # Llama 3.1: short waves stay, long ones are stretched, and between them it is one mixed with the other.
            share = np.clip((length * plain / (2 * pi) - low) / (high - low), 0, 1)
            return (1 - share) * plain / factor + share * plain
        return None


def rotaries(config: Mapping[str, Any]) -> tuple[Rotary, ...]:
    """What config.json says of rotary embeddings, for the model and each part of it; the usual where it says nothing."""
    found, scalings = list[Rotary](), list[Mapping[str, Any]]()
    for part in _objects(config, _DEEPEST):
        scaling = part if "rope_type" in part else part.get("rope_scaling")
        scaling = scaling if isinstance(scaling, Mapping) else {}
        scalings += [scaling] if scaling else []
        bases = [float(value) for name in _BASES if _is_number(value := part.get(name)) and value > 1]
        found += [Rotary(base, scaling) for base in bases]
    return tuple(found or [Rotary(BASE, scaling) for scaling in scalings] or [Rotary()])


def _objects(value: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    yield value
    if depth:
        for inner in value.values():
            if isinstance(inner, Mapping):
                yield from _objects(inner, depth - 1)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and isfinite(value)


def is_derived(place: Place, turning: Sequence[Rotary] = (Rotary(),)) -> bool:
    """Whether the tensor is, by name and by every value, a buffer that loaders compute; rotary embeddings in one of the ways given."""
    tensor, name = place.tensor, place.tensor.name
    if not 0 < tensor.size <= LARGEST or not any(known.search(name) for known in (_POSITIONS, _FREQUENCIES, _MASK, _MASKED, _ZEROS)):
        return False
    values = place.checkpoint.read(name)
    if values.dtype.kind not in "biuf":
        values = values.astype(np.float32)
    if _POSITIONS.search(name):
        return values.dtype.kind in "iu" and values.shape in ((values.size,), (1, values.size)) and _equal(values, np.arange(values.size))
    if _ZEROS.search(name):
        return values.dtype.kind in "iu" and values.shape in ((values.size,), (1, values.size)) and not values.any()
    if _MASKED.search(name):
        return values.size == 1 and any(values.reshape(-1)[0] == np.asarray(number, values.dtype) for number in _MASKED_BIAS)
    if _FREQUENCIES.search(name):
        if values.ndim != 1 or values.dtype.kind != "f":
            return False
        close = {"F64": 1e-6, "F32": 1e-6, "F16": 1e-3, "BF16": 1e-2}.get(tensor.dtype, 0.0)
        least = 6e-8 if tensor.dtype == "F16" else 0.0
        computed = (way.frequencies(values.size) for way in turning)
        return any(
            wanted is not None and bool(np.all(np.abs(values.astype(np.float64) - wanted) <= close * np.abs(wanted) + least))
            for wanted in computed
        )
    return _is_causal(values)


def _is_causal(values: np.ndarray) -> bool:
    """Ones up to the diagonal and zeros after it, or zeros up to it and the lowest number after it."""
    n = values.shape[-1] if values.ndim >= 2 else 0
    if n < 2 or values.size != n * n or values.shape[-2] != n:
        return False
    square, lower = values.reshape(n, n), np.tri(n, dtype=bool)
    if _equal(square, lower):
        return True
    if values.dtype.kind != "f":
        return False
    after = square[~lower]
    return bool(np.all(square[lower] == 0) and np.all(after == after[0]) and after[0] <= -1e4)


def _equal(values: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.array_equal(values.reshape(wanted.shape), wanted))
