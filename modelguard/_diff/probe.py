"""Second looks at a changed matrix, each answering one question that the streaming statistics only raise.

A probe that replays an operation (round, scale, quantise) counts bit-exact agreement like :mod:`modelguard._diff.replay`,
because a statistic that merely looks like quantisation noise also looks like other things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard._diff.changes import Scaled, Touched
from modelguard._diff.grid import F64, FLOATS, Array, narrow, spacing, widen, word_of
from modelguard._diff.operand import Operand
from modelguard._diff.replay import F64_SLACK, Replay, replay_rank
from modelguard._diff.stream import Statistics
from modelguard.checkpoint import DTYPE_BITS

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


def same(played: F64, target: F64, dtype: str) -> npt.NDArray[np.bool_]:
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


def cast_round_trip(before: Operand, after: Operand, check: Callable[[], None] = lambda: None) -> str | None:
    """The narrower dtype through which W' is W, bit for bit, or None."""
    if after.dtype not in FLOATS:
        return None
    for name in FLOATS:
        if name == after.dtype or DTYPE_BITS[name] > DTYPE_BITS[after.dtype]:
            continue
        samples = (sample(after.matrix.shape, size) for size in (FIRST, SECOND))
        parts: Iterator[slice | npt.NDArray[np.int64]] = chain(samples, blocks(after))
        if all(_rounded_equal(before, after, name, rows, check) for rows in parts):
            return name
    return None


def _rounded_equal(before: Operand, after: Operand, name: str, rows: slice | npt.NDArray[np.int64], check: Callable[[], None]) -> bool:
    check()
    played = narrow(widen(narrow(widen(reference_in(before, after, rows)), name)), after.dtype)
    return bool(np.array_equal(widen(played), widen(np.ascontiguousarray(after.matrix[rows])), equal_nan=True))


def erased(before: Operand, after: Operand, check: Callable[[], None] = lambda: None) -> float:
    """What a cast left nothing of: the error over the norm of W, or the share of its entries that became zero, whichever is more."""
    lost = energy = 0.0
    zeroed = filled = 0
    for part in blocks(after):
        check()
        w, target = widen(np.ascontiguousarray(before.matrix[part])), widen(np.ascontiguousarray(after.matrix[part]))
        usable = np.isfinite(w) & np.isfinite(target) & (w != 0)
        w, target = w[usable], target[usable]
        energy, lost = energy + float((w**2).sum()), lost + float(((w - target) ** 2).sum())
        zeroed, filled = zeroed + int(np.count_nonzero(target == 0)), filled + len(w)
    return max((lost / energy) ** 0.5 if energy > 0 else 0.0, zeroed / max(1, filled))


def scaling(before: Operand, after: Operand, check: Callable[[], None] = lambda: None) -> Scaled | None:
    """Whether W' is the reference times a factor, or one factor per row or column: found on a sample, replayed on every entry.

    ``check`` is called from block to block and may raise to stop.
    """
    if after.dtype not in FLOATS:
        return None
    axis = None
    for entries in (FIRST, SECOND):
        axis = _scaled_along(before, after, entries)
        if axis is None:
            return None
    return None if axis is None else _scaled(before, after, axis, check)


def _scaled_along(before: Operand, after: Operand, entries: int) -> str | None:
    """The axis whose factors replay on a sample: ``tensor``, ``row`` or ``column``."""
    sides = [("tensor", before, after), ("row", before, after)]
    if after.matrix.shape[0] >= LINE:
        sides.append(("column", *turned(before, after)))
    for axis, old, new in sides:
        rows = sample(new.matrix.shape, entries)
        w, target, usable = _usable(old, new, rows)
        if w.shape[1] < LINE:
            continue
        over = None if axis == "tensor" else 1
        factor = _factors((w * target).sum(axis=over, keepdims=True), (w * w).sum(axis=over, keepdims=True))
        moved = usable & (target != w)
        share = int(np.count_nonzero(same(w * factor, target, after.dtype) & moved)) / max(1, int(np.count_nonzero(moved)))
        if share >= SCALED:
            return axis
    return None


def _scaled(before: Operand, after: Operand, axis: str, check: Callable[[], None]) -> Scaled | None:
    """The factors of the whole tensor, if every entry is the reference times its own to two units of the last place."""
    old, new = turned(before, after) if axis == "column" else (before, after)
    common = None
    if axis == "tensor":
        products, energies = np.zeros((1, 1)), np.zeros((1, 1))
        for part in blocks(new):
            check()
            w, target, _ = _usable(old, new, part)
            products, energies = products + np.vdot(w, target), energies + np.vdot(w, w)
        common = _factors(products, energies)
    low, high, changed, exact = np.inf, -np.inf, 0, 0
    for part in blocks(new):
        check()
        w, target, usable = _usable(old, new, part)
        factor = common if common is not None else _factors((w * target).sum(1, keepdims=True), (w * w).sum(1, keepdims=True))
        if not np.all(np.abs(target - w * factor) <= 2 * spacing(target, after.dtype)):
            return None
        moved = usable & (target != w)
        changed, exact = (
            changed + int(np.count_nonzero(moved)),
            exact + int(np.count_nonzero(same(w * factor, target, after.dtype) & moved)),
        )
        low, high = min(low, float(factor.min())), max(high, float(factor.max()))
    return Scaled(axis, (low, high), exact / changed) if exact >= SCALED * changed > 0 else None


def turned(before: Operand, after: Operand) -> tuple[Operand, Operand]:
    return Operand(before.matrix.T, before.dtype, ()), Operand(after.matrix.T, after.dtype, ())


def _usable(before: Operand, after: Operand, rows: slice | npt.NDArray[np.int64]) -> tuple[F64, F64, npt.NDArray[np.bool_]]:
    """W, W' and where both are finite; elsewhere they are zero, and the statistics have counted them."""
    w, target = widen(reference_in(before, after, rows)), widen(np.ascontiguousarray(after.matrix[rows]))
    usable = np.isfinite(w) & np.isfinite(target)
    if usable.all():
        return w, target, usable
    return np.where(usable, w, 0.0), np.where(usable, target, 0.0), usable


def _factors(products: F64, energies: F64) -> F64:
    return np.asarray(products / np.where(energies > 0, energies, 1.0))


def pruning(before: Operand, after: Operand, check: Callable[[], None] = lambda: None) -> tuple[int, int] | None:
    """Zeros before and after, when every entry whose value changed is zero now; else None."""
    zeros_before = zeros_after = 0
    for part in blocks(after):
        check()
        old, new = reference_in(before, after, part), np.ascontiguousarray(after.matrix[part])
        if np.any((old != new) & (new != 0)):
            return None
        zeros_before += int(np.count_nonzero(old == 0))
        zeros_after += int(np.count_nonzero(new == 0))
    return (zeros_before, zeros_after) if zeros_after > zeros_before else None


def touched(before: Operand, after: Operand, statistics: Statistics, check: Callable[[], None] = lambda: None) -> Touched:
    """The rows and columns with a changed entry, and how many entries differ in each bit: the changed rows are read once more."""
    word = word_of(after.dtype)
    counts = np.zeros(8 * word.itemsize, np.int64)
    for part in blocks(after):
        check()
        at = np.arange(part.start, part.stop)
        at = at if statistics.rows is None else at[statistics.rows[part]]
        if len(at):
            xor = reference_in(before, after, at).view(word) ^ np.ascontiguousarray(after.matrix[at]).view(word)
            bits = xor[xor != 0]
            counts += [int(np.count_nonzero(bits & word.type(1 << bit))) for bit in range(len(counts))]
    rows, columns = (None if marks is None else int(np.count_nonzero(marks)) for marks in (statistics.rows, statistics.columns))
    return Touched(rows, columns, tuple((bit, int(count)) for bit, count in enumerate(counts) if count))


def permutation(before: Operand, after: Operand, check: Callable[[], None] = lambda: None) -> bool:
    """Whether the rows and columns hold the same energies and sums in another order (so rows, columns or both were permuted)."""
    if after.matrix.shape[0] == 1:
        return False
    energies = [_marginals(operand, 2, check) for operand in (before, after)]
    if not all(np.allclose(np.sort(old), np.sort(new), rtol=1e-6, atol=0) for old, new in zip(*energies, strict=True)):
        return False
    # Energies do not see a sign. Sums cancel, so they agree to what the energies leave of float64.
    sums = [_marginals(operand, 1, check) for operand in (before, after)]
    room = 1e-9 * float(max(energy.max(initial=0.0) for energy in energies[0]) * max(before.matrix.shape)) ** 0.5
    return all(np.allclose(np.sort(old), np.sort(new), rtol=1e-6, atol=room) for old, new in zip(*sums, strict=True))


def _marginals(operand: Operand, power: int, check: Callable[[], None]) -> tuple[F64, F64]:
    """Sums of the entries' powers over each row, and over each column."""
    rows, columns = operand.matrix.shape
    by_row, by_column = np.zeros(rows), np.zeros(columns)
    for part in blocks(operand):
        check()
        values = widen(np.ascontiguousarray(operand.matrix[part])) ** power
        by_row[part] = values.sum(axis=1)
        by_column += values.sum(axis=0)
    return by_row, by_column


def spiked(statistics: Statistics) -> float:
    """Sum of s^4 of D from its sketches, over what independent entries of the same energy would have; about 1 for noise.

    For Gaussian sketch vectors E[(D a . D b)^2] = sum s^4, so the off-diagonal entries of Y^T Y and Z Z^T estimate it.
    """
    y, z, energy = statistics.y, statistics.z, statistics.energy
    if y is None or z is None or energy <= 0:
        return 0.0
    m, n = statistics.sketched, statistics.shape[1]
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
