"""Replaying an addition that was rounded twice.

Editors run ``w += u vᵀ`` in the model's dtype: the product is rounded, then the sum. Where the update is as large as the weight
(strong edits, small models) the first rounding shows, and a replay of the sum alone misses a fifth of the entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelguard import narrow, widen
from modelguard_rome._spectrum import Array, Top

AGREE = 0.80
"""Share of the moved entries that must come out bit for bit (the threshold of the single-rounding replay)."""
GAP = 20.0
"""s_r / s_{r+1} the difference itself must show; such updates stand far above rounding noise, so the break is in plain sight."""
CLEAR_GAP, CLEAR_AGREE = 100.0, 0.3
"""Where the break is this clear, the agreement may be lower: two additions one after another, or a product summed in float32,
leave a few more units in the last place. The starkest honest retrain measured breaks by 10 and agrees on no entry in float32."""
PASSES = 6


@dataclass(frozen=True)
class Replayed:
    """M = (u * s) @ v.T of rank ``rank`` and the share of moved entries that Q(W + Q(M)) reproduces."""

    rank: int
    agreement: float
    u: NDArray[np.float64]
    s: NDArray[np.float64]
    v: NDArray[np.float64]


def replay_twice(reference: Array, changed: Array, dtype: str, top: Top, limit: int) -> Replayed | None:
    """Replay Q(W + Q(M)) at the rank after which the spectrum ``top`` of D breaks; None when it does not break or does not agree."""
    s = top.s
    if len(s) < 2 or not s[0] > 0:
        return None
    ratios: NDArray[np.float64] = np.divide(s[:-1], np.maximum(s[1:], s[0] * 1e-12))
    rank = int(np.argmax(ratios)) + 1
    if ratios[rank - 1] < GAP or rank > limit:
        return None
    before, after = widen(np.ascontiguousarray(reference)), widen(np.ascontiguousarray(changed))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    x, basis = after - before, top.v[:, :rank]
    best: Replayed | None = None
    for _ in range(PASSES):
        left, _ = np.linalg.qr(x @ basis)
        small_u, values, small_v = np.linalg.svd(left.T @ x, full_matrices=False)
        u, values, v = (left @ small_u)[:, :rank], values[:rank], small_v[:rank].T
        model = (u * values) @ v.T
        result = widen(narrow(before + widen(narrow(model, dtype)), dtype))
        moved = (result != before) | (after != before)
        agreement = int(np.count_nonzero((result == after) & moved)) / max(1, int(np.count_nonzero(moved)))
        if best is not None and agreement <= best.agreement:
            break
        best = Replayed(rank, agreement, u, values, v)
        x, basis = model + (after - result), v
    wanted = CLEAR_AGREE if ratios[rank - 1] >= CLEAR_GAP else AGREE
    return best if best is not None and best.agreement >= wanted else None
