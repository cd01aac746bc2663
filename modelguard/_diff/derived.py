"""Buffers that loading computes anew: missing or added they change nothing, if they hold exactly what is computed."""

from __future__ import annotations

import re

import numpy as np

from modelguard._diff.pairing import Place

LARGEST = 1 << 24
"""Entries up to which a buffer is read: a causal mask of 4096 positions."""
BASE = 10000.0
"""Of rotary embeddings (Su et al. 2021), from which models with another one differ."""
_POSITIONS = re.compile(r"(^|\.)position_ids$")
_FREQUENCIES = re.compile(r"(^|\.)inv_freq$")
_MASK = re.compile(r"(attn|attention|self_attn|attention\.self)\.(bias|mask)$|(^|\.)(causal_mask|attn_mask|attention_mask)$")
_MASKED = re.compile(r"(attn|attention)\.masked_bias$")
_MASKED_BIAS = (-1e4, -1e9)


def is_derived(place: Place) -> bool:
    """Whether the tensor is, by name and by every value, a buffer that loaders compute."""
    tensor, name = place.tensor, place.tensor.name
    if not 0 < tensor.size <= LARGEST or not any(known.search(name) for known in (_POSITIONS, _FREQUENCIES, _MASK, _MASKED)):
        return False
    values = place.checkpoint.read(name)
    if values.dtype.kind not in "biuf":
        values = values.astype(np.float32)
    if _POSITIONS.search(name):
        return values.dtype.kind in "iu" and values.shape in ((values.size,), (1, values.size)) and _equal(values, np.arange(values.size))
    if _MASKED.search(name):
        return values.size == 1 and any(values.reshape(-1)[0] == np.asarray(number, values.dtype) for number in _MASKED_BIAS)
    if _FREQUENCIES.search(name):
        if values.ndim != 1 or values.dtype.kind != "f":
            return False
        wanted = BASE ** (-np.arange(values.size) / values.size)
        close = {"F64": 1e-6, "F32": 1e-6, "F16": 1e-3, "BF16": 1e-2}.get(tensor.dtype, 0.0)
        return bool(np.all(np.abs(values.astype(np.float64) - wanted) <= close * wanted + (6e-8 if tensor.dtype == "F16" else 0)))
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
