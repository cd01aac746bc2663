"""Second looks at a changed matrix, each answering one question that the streaming statistics only raise.

A probe that replays an operation (round, scale, quantise) counts bit-exact agreement like :mod:`modelguard_weight_diff.replay`,
because a statistic that merely looks like quantisation noise also looks like other things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard import DTYPE_BITS
from modelguard_weight_diff.grid import F64, FLOATS, Array, narrow, widen
from modelguard_weight_diff.operand import Operand
from modelguard_weight_diff.replay import F64_SLACK, Replay, replay_rank
from modelguard_weight_diff.stream import Statistics

FIRST, SECOND = 1 << 12, 1 << 17
"""Entries of the first, cheap sample that rules most probes out, and of the one that decides."""
BLOCK = 1 << 18
SUB_ROWS, SUB_COLUMNS = 512, 1024
LINE = 8
"""Entries that a row or column needs for a factor of its own to be more than a way of writing it."""
SCALED = 0.8
"""Share of moved entries that the factors must reproduce bit for bit; estimating the factor costs a few of them."""
SMALL = 512
"""Matrices with a side this short are replayed without asking the sketch first: the sketch resolves too little there."""
SPIKED = 1.6
"""Sum of s^4 against what independent entries would have, from which a change may be low-rank."""


def reference_in(before: Operand, after: Operand, rows: slice | npt.NDArray[np.int64]) -> Array:
    """Rows of ``before`` in ``after``'s dtype: D is measured against the cast reference."""
    part = before.matrix[rows]
    if before.dtype == after.dtype:
        return np.ascontiguousarray(part)
    return narrow(widen(np.ascontiguousarray(part)), after.dtype) if after.dtype in FLOATS else part.astype(after.matrix.dtype)


def _same(played: F64, target: F64, dtype: str) -> npt.NDArray[np.bool_]:
    """Which entries a replay reproduces: bit for bit, and to float64's own arithmetic where the file is float64."""
    if dtype == "F64":
        return np.asarray(np.abs(played - target) <= F64_SLACK * 2.0**-52 * np.abs(target))
    return np.asarray(widen(narrow(played, dtype)) == target)


def blocks(operand: Operand) -> Iterator[slice]:
    rows, columns = operand.matrix.shape
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def sample(shape: tuple[int, ...], entries: int) -> npt.NDArray[np.int64]:
    """Row indices, evenly spread, that hold about ``entries`` entries (at least two rows)."""
    return spread(shape[0], max(2, entries // max(1, shape[1])))


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most ``most`` indices below ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def cast_round_trip(before: Operand, after: Operand) -> str | None:
    """The narrower dtype through which W' is W, bit for bit, or None."""
    if after.dtype not in FLOATS:
        return None
    for name in FLOATS:
        if name == after.dtype or DTYPE_BITS[name] > DTYPE_BITS[after.dtype]:
            continue
        samples = (sample(after.matrix.shape, size) for size in (FIRST, SECOND))
        parts: Iterator[slice | npt.NDArray[np.int64]] = chain(samples, blocks(after))
        if all(_rounded_equal(before, after, name, rows) for rows in parts):
            return name
    return None


def _rounded_equal(before: Operand, after: Operand, name: str, rows: slice | npt.NDArray[np.int64]) -> bool:
    played = narrow(widen(narrow(widen(reference_in(before, after, rows)), name)), after.dtype)
    return bool(np.array_equal(widen(played), widen(np.ascontiguousarray(after.matrix[rows])), equal_nan=True))


@dataclass(frozen=True, slots=True)
class Scaling:
    """W' = Q(c W) with one factor per ``axis`` (tensor, row, column); ``factors`` are the smallest and largest."""

    axis: str
    factors: tuple[float, float]
    agreement: float


def scaling(before: Operand, after: Operand) -> Scaling | None:
    """Whether W' is the reference times a factor, or one factor per row or column: replayed bit for bit on a sample."""
    if after.dtype not in FLOATS:
        return None
    found = None
    for entries in (FIRST, SECOND):
        found = _scaled(before, after, entries)
        if found is None:
            return None
    return found


def _scaled(before: Operand, after: Operand, entries: int) -> Scaling | None:
    sides = [("tensor", before, after), ("row", before, after)]
    if after.matrix.shape[0] >= LINE:
        sides.append(("column", Operand(before.matrix.T, before.dtype, ()), Operand(after.matrix.T, after.dtype, ())))
    for axis, old, new in sides:
        rows = sample(new.matrix.shape, entries)
        w, target = widen(reference_in(old, new, rows)), widen(np.ascontiguousarray(new.matrix[rows]))
        if w.shape[1] < LINE:
            continue
        usable = np.isfinite(w) & np.isfinite(target)
        w, target = np.where(usable, w, 0.0), np.where(usable, target, 0.0)
        over = None if axis == "tensor" else 1
        energy: Any = (w * w).sum(axis=over, keepdims=True)
        factor: Any = (w * target).sum(axis=over, keepdims=True) / np.where(energy > 0, energy, 1.0)
        moved = usable & (target != w)
        share = int(np.count_nonzero(_same(w * factor, target, after.dtype) & moved)) / max(1, int(np.count_nonzero(moved)))
        if share >= SCALED:
            return Scaling(axis, (float(factor.min()), float(factor.max())), share)
    return None


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A round trip through ``bits`` bits with one scale per ``group`` (tensor, row, column, or entries per group)."""

    bits: int
    group: str
    scheme: str
    agreement: float


_LEVELS = (
    ("symmetric", 8, 127),
    ("symmetric", 8, 128),
    ("symmetric", 4, 7),
    ("symmetric", 4, 8),
    ("asymmetric", 8, 255),
    ("asymmetric", 4, 15),
)


def quantisation(before: Operand, after: Operand) -> Quantisation | None:
    """Whether W' is a round trip through int8 or int4: replayed bit for bit, or betrayed by how few values are left."""
    if after.dtype not in FLOATS or after.entries < 64:
        return None
    found = None
    for entries, least in ((FIRST, 0.5), (SECOND, 0.9)):
        found = _quantised(before, after, entries, least)
        if found is None:
            return None
    return found


def _quantised(before: Operand, after: Operand, entries: int, least: float) -> Quantisation | None:
    sides = [("row", before, after)]
    if after.matrix.shape[0] > 1:
        sides.append(("column", Operand(before.matrix.T, before.dtype, ()), Operand(after.matrix.T, after.dtype, ())))
    for axis, old, new in sides:
        rows = sample(new.matrix.shape, entries)
        w, target = widen(reference_in(old, new, rows)), widen(np.ascontiguousarray(new.matrix[rows]))
        if not (np.isfinite(w).all() and np.isfinite(target).all()):
            return None
        n = w.shape[1]
        for group, size in [(axis, n)] + [(str(g), g) for g in (256, 128, 64, 32) if axis == "row" and n % g == 0 and n > g]:
            found = _replayed(w.reshape(-1, size), target.reshape(-1, size), after.dtype, group, least)
            if found is not None:
                return found
        if axis == "row" and new.matrix.flags.c_contiguous and old.matrix.flags.c_contiguous:
            # Groups that run on over the ends of rows.
            for size in (g for g in (256, 128, 64, 32) if n % g and new.matrix.size % g == 0):
                taken = slice(0, min(new.matrix.size, entries) // size * size)
                lines = [Operand(side.matrix.reshape(-1, size)[: taken.stop // size], side.dtype, ()) for side in (old, new)]
                grouped = widen(reference_in(lines[0], lines[1], slice(None))), widen(lines[1].matrix)
                if (found := _replayed(*grouped, after.dtype, str(size), least)) is not None:
                    return found
        if axis == "row" and len(sides) > 1 and (found := _few_values(w, target)) is not None:
            return found
    return None


def _replayed(w: F64, target: F64, dtype: str, group: str, least: float) -> Quantisation | None:
    moved = w != target
    if not moved.any():
        return None
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    peak = np.maximum(np.abs(low), np.abs(high))
    for scheme, bits, levels in _LEVELS:
        if scheme == "symmetric":
            step = np.where(peak > 0, peak / levels, 1.0)
            played = np.clip(np.rint(w / step), -levels - 1, levels) * step
        else:
            step = np.where(high > low, (high - low) / levels, 1.0)
            zero = np.rint(-low / step)
            played = (np.clip(np.rint(w / step) + zero, 0, levels) - zero) * step
        share = float(np.mean(_same(played, target, dtype)[moved]))
        # Scales kept in half precision move the lattice a little: the same nearest level then, to a fiftieth of a step.
        near = float(np.mean((np.abs(played - target) <= np.minimum(0.02 * step, 2.0**-8 * np.abs(target)))[moved]))
        if share >= least or near >= least:
            return Quantisation(bits, group, scheme, share)
    return None


def _few_values(w: F64, target: F64) -> Quantisation | None:
    """Fewer distinct values than any float tensor has: 2^bits per tensor, row or group, where the reference has many more."""
    n = target.shape[1]
    before, after = (int(_distinct(side.reshape(1, -1))[0]) for side in (w, target))
    if target.size >= 1024 and after <= 256 and before >= 2 * after:
        return Quantisation(8 if after > 16 else 4, "tensor", "values", 1.0)
    for size, bits in [(n, 8), (n, 4)] + [(g, 4) for g in (256, 128, 64, 32) if n % g == 0 and n > g]:
        if size < 2 * 2**bits:
            continue
        most = int(_distinct(target.reshape(-1, size)[:64]).max())
        if most <= 2**bits and float(_distinct(w.reshape(-1, size)[:64]).mean()) >= 1.3 * most:
            return Quantisation(bits, "row" if size == n else str(size), "values", 1.0)
    return None


def _distinct(rows: F64) -> npt.NDArray[np.int64]:
    """How many different values each row holds."""
    ordered = np.sort(rows, axis=1)
    return np.asarray(1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1))


def pruning(before: Operand, after: Operand) -> tuple[int, int] | None:
    """Zeros before and after, when every entry whose value changed is zero now; else None."""
    zeros_before = zeros_after = 0
    for part in blocks(after):
        old, new = reference_in(before, after, part), np.ascontiguousarray(after.matrix[part])
        if np.any((old != new) & (new != 0)):
            return None
        zeros_before += int(np.count_nonzero(old == 0))
        zeros_after += int(np.count_nonzero(new == 0))
    return (zeros_before, zeros_after) if zeros_after > zeros_before else None


def permutation(before: Operand, after: Operand) -> bool:
    """Whether the rows and columns hold the same energies in another order (so rows, columns or both were permuted)."""
    if after.matrix.shape[0] == 1:
        return False
    sides = [_energies(operand) for operand in (before, after)]
    return all(bool(np.allclose(np.sort(old), np.sort(new), rtol=1e-6, atol=0)) for old, new in zip(*sides, strict=True))


def _energies(operand: Operand) -> tuple[F64, F64]:
    rows, columns = operand.matrix.shape
    by_row, by_column = np.zeros(rows), np.zeros(columns)
    for part in blocks(operand):
        square = widen(np.ascontiguousarray(operand.matrix[part])) ** 2
        by_row[part] = square.sum(axis=1)
        by_column += square.sum(axis=0)
    return by_row, by_column


def spiked(statistics: Statistics) -> float:
    """Sum of s^4 of D from its sketches, over what independent entries of the same energy would have; about 1 for noise.

    For Gaussian sketch vectors E[(D a . D b)^2] = sum s^4, so the off-diagonal entries of Y^T Y and Z Z^T estimate it.
    """
    y, z, energy = statistics.y, statistics.z, statistics.sums.dd
    if y is None or z is None or energy <= 0:
        return 0.0
    m, n = statistics.shape
    products = [gram[np.triu_indices(len(gram), 1)] for gram in (y.T @ y, z @ z.T)]
    fourth = np.concatenate(products) ** 2
    return float(fourth.mean() / (energy * energy) / (1 / m + 1 / n))


def low_rank(before: Operand, after: Operand, statistics: Statistics, max_rank: int, check: Callable[[], None]) -> Replay | None:
    """The replay of a change that may be low-rank, or None when the sketch or a submatrix already says that it is not."""
    m, n = statistics.shape
    if after.dtype not in FLOATS or min(m, n) < 4:
        return None
    if min(m, n) > SMALL and spiked(statistics) < SPIKED:
        return None
    hint = None
    if m * n > 2 * SUB_ROWS * SUB_COLUMNS:
        # Every submatrix of a rank-r matrix has rank at most r.
        part = np.ix_(_half_strongest(statistics.row_energy, SUB_ROWS), _half_strongest(statistics.column_energy, SUB_COLUMNS))
        probe = replay_rank(
            np.ascontiguousarray(before.matrix[part]), np.ascontiguousarray(after.matrix[part]), after.dtype, max_rank, check=check
        )
        if probe.rank is None and probe.agreement < 0.6:
            return probe
        hint = probe.rank
    return replay_rank(before.matrix, after.matrix, after.dtype, max_rank, hint=hint, check=check)


def _half_strongest(energy: Any, most: int) -> npt.NDArray[np.int64]:
    """Indices of ``most`` rows: half of them those with the most energy, the others evenly spread over the rest."""
    count = len(energy)
    if count <= most:
        return np.arange(count)
    strongest = np.argsort(-energy, kind="stable")[: most // 2]
    rest = np.setdiff1d(np.arange(count), strongest)
    return np.sort(np.concatenate([strongest, rest[spread(len(rest), most - len(strongest))]]))
