"""The few largest singular values of a difference of weights, and whether they stand out of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
BLOCK = 1 << 22
"""Elements widened at a time."""
KRYLOV_BLOCK, KRYLOV_DEPTH = 4, 6
"""Columns of a block, and blocks after the first: log(s₁/s₂) of Gaussian and of trained matrices is off by no more than 0.025."""


@dataclass(frozen=True)
class Difference:
    """D = W' − W_ref (m, n) float32, divided by ``unit`` so that squares neither overflow nor vanish; non-finite entries are 0.

    ``norm`` is ‖D‖ (with the unit), ``relative`` ‖D‖ / ‖W_ref‖; ``changed`` the share of entries that differ, ``rows`` and
    ``columns`` the share of rows and columns with at least one such entry.
    """

    values: F32
    unit: float
    norm: float
    relative: float
    changed: float
    rows: float
    columns: float

    @property
    def spread_out(self) -> bool:
        """Whether the change reaches a quarter of all rows and of all columns: a row edit or a few flipped bits do not."""
        return self.rows >= 0.25 and self.columns >= 0.25


def subtract(after: Array, before: Array) -> Difference:
    """The difference of two matrices of one shape, widened block by block of rows."""
    rows, columns = after.shape
    values = np.empty(after.shape, np.float32)
    step = max(1, BLOCK // max(columns, 1))
    energy, largest = 0.0, 0.0
    touched = np.zeros(columns, bool)
    changed_rows = changed = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows, step):
            part = slice(start, start + step)
            old, new = before[part].astype(np.float64), after[part].astype(np.float64)
            delta = np.nan_to_num(new - old, nan=0.0, posinf=0.0, neginf=0.0)
            moved = delta != 0
            changed += int(np.count_nonzero(moved))
            changed_rows += int(np.count_nonzero(moved.any(axis=1)))
            touched |= moved.any(axis=0)
            largest = max(largest, float(np.abs(delta).max(initial=0.0)))
            energy += float(np.sum(np.square(old[np.isfinite(old)])))
            values[part] = np.clip(delta, -3e38, 3e38)
    unit = largest or 1.0
    values /= np.float32(min(unit, 3e38))
    norm = unit * float(np.sqrt(sum(float(np.sum(np.square(values[i : i + step], dtype=np.float64))) for i in range(0, rows, step))))
    size = max(after.size, 1)
    scale = float(np.sqrt(energy))
    return Difference(
        values, unit, norm, norm / scale if scale else float("inf"), changed / size, changed_rows / max(rows, 1), float(touched.mean())
    )


@dataclass(frozen=True)
class Top:
    """The largest singular triples: ``u`` (m, k), ``s`` (k,) descending, ``v`` (n, k)."""

    u: F64
    s: F64
    v: F64


def top_singular(
    matrix: Array, count: int, rng: np.random.Generator, *, iterations: int = 2, check: Callable[[], None] = lambda: None
) -> Top:
    """The ``count`` largest singular triples by randomised subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4)."""
    count = min(count, *matrix.shape)
    width = min(count + 8, *matrix.shape)
    basis = rng.standard_normal((matrix.shape[1], width)).astype(matrix.dtype)
    for _ in range(iterations):
        basis, _ = np.linalg.qr(matrix.T @ np.linalg.qr(matrix @ basis)[0])
        check()
    left, s, small = np.linalg.svd((matrix @ basis).astype(np.float64), full_matrices=False)
    return Top(left[:, :count], s[:count], (basis @ small.T)[:, :count].astype(np.float64))


def leading_singular(
    matrix: F32, count: int, rng: np.random.Generator, *, scale: Array | float = 1.0, check: Callable[[], None] = lambda: None
) -> Top:
    """The ``count`` largest singular triples of ``matrix`` (m, n) with its rows multiplied by ``scale`` (m, 1), by a randomised block
    Krylov method (Musco and Musco 2015, algorithm 2): closer than as many steps of :func:`top_singular`, from fewer products, where
    the largest values do not stand far above the rest. Where they do, in float32, take that."""
    basis, _ = np.linalg.qr(rng.standard_normal((matrix.shape[1], min(KRYLOV_BLOCK, matrix.shape[1]))).astype(np.float32))
    blocks = [basis]
    while len(blocks) <= KRYLOV_DEPTH and sum(block.shape[1] for block in blocks) < matrix.shape[1]:
        basis, _ = np.linalg.qr(matrix.T @ (scale * scale * (matrix @ basis)))
        blocks.append(basis)
        check()
    space, _ = np.linalg.qr(np.concatenate(blocks, axis=1))
    left, s, small = np.linalg.svd((scale * (matrix @ space)).astype(np.float64), full_matrices=False)
    return Top(left[:, :count], s[:count], (space @ small.T)[:, :count].astype(np.float64))


@dataclass(frozen=True)
class Spike:
    """How far a matrix's first singular values stand above its noise.

    ``first`` and ``second`` are s₁ and s₂ in units of the largest singular value that independent noise of the same size would
    have, ρ(√m + √n) (Marchenko-Pastur edge), ρ the root mean square of what is left after the first component is taken out.
    """

    first: float
    second: float


def spike(difference: F32, rng: np.random.Generator, check: Callable[[], None] = lambda: None) -> Spike:
    """Measure the spike of ``difference`` (m, n)."""
    top = top_singular(difference, 4, rng, iterations=6, check=check)
    m, n = difference.shape
    left = float(np.sum(np.square(difference, dtype=np.float64))) - float(top.s[0]) ** 2
    edge = np.sqrt(max(left, 0.0) / (m * n)) * (np.sqrt(m) + np.sqrt(n))
    if edge == 0:
        return Spike(0.0, 0.0)
    return Spike(float(top.s[0] / edge), float(top.s[1] / edge) if len(top.s) > 1 else 0.0)


def evened(difference: F32) -> F32:
    """``difference`` with rows, then columns, brought to one mean magnitude: noise that differs by row (a quantisation scale each)
    has no spike of its own any more. A real rank-1 component loses some of its height, too."""
    scale = np.mean(np.abs(difference), axis=1, keepdims=True)
    even = difference / np.where(scale > 0, scale, 1)
    scale = np.mean(np.abs(even), axis=0, keepdims=True)
    return np.asarray(even / np.where(scale > 0, scale, 1), np.float32)
