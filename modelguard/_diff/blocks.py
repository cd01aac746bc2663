"""Whether a block-quantised tensor is the reference quantised: each entry the level nearest to the reference's that its block has.

The file says which levels a block has, so this needs no guess at how a quantiser chose them, and llama.cpp chooses them in many ways.
What is left to the file are the levels: a block may have coarse ones, or none near to the reference. That is lossy and cannot write
anything in; where it loses a row, the row is not what the reference has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from modelguard._diff.changes import Beyond, BlockQuantized, Change, FlipsBeyond, RowsBeyond, Touched
from modelguard._diff.classify import SPARSE
from modelguard._diff.grid import widen
from modelguard._diff.operand import Operand
from modelguard._diff.probe import blocks, spiked
from modelguard._diff.stream import POSITIONS, Statistics
from modelguard.checkpoint import Quantization

TOLERANCE = 1e-3
"""Steps that an entry may be further off than it should: rounding in float32."""
UNDERFLOW = 2.0**-25
"""Half of the smallest float16: what keeping a scale in one moves a level by, for each level from zero, where weights are that small."""
LOST = 0.9
"""What a row may lose of its norm, and still be the reference quantised."""
FLIPPED = 4
"""Bit of a code that a flip has to reach to be told from another small change: it moves an entry by 16 steps."""
FAINT = 0.01
"""Norm of a row, to the root mean square of all, under which nothing is said of what it loses."""


STRUCTURED = 20.0
"""Sum of s^4 of the difference against that of independent entries with its rows' and columns' energies, from which it is no rounding.

The sketches estimate it from 27 products: noise alone reached 5.4 in one of 400 tensors."""


def quantized_by_block(
    before: Operand, after: Operand, quantization: Quantization, statistics: Statistics, check: Callable[[], None] = lambda: None
) -> Change:
    """What was done to a tensor that is stored by block; ``after`` is the whole of it as float32, ``before`` the reference likewise.

    ``check`` is called from block to block and may raise to stop.
    """
    rows, columns = after.matrix.shape
    group = quantization.group
    beyond, only_lost = np.zeros(rows, bool), np.zeros(rows, bool)
    shown = bool(np.isfinite(quantization.reach)) and not quantization.together
    faint = FAINT * (statistics.sums.ww / max(1, rows)) ** 0.5
    slack = UNDERFLOW * 2.0**quantization.bits
    factors = _factors(before, after, check) if quantization.inputs else None
    off_by: list[tuple[int, float]] | None = [] if shown and not quantization.relative else None
    for part in blocks(after):
        check()
        w, target = widen(np.ascontiguousarray(before.matrix[part])), widen(np.ascontiguousarray(after.matrix[part]))
        if factors is not None:
            w = w * factors
        span = slice(part.start * columns // group, -(-part.stop * columns // group))
        step, low, high = (side[span, None].astype(np.float64) for side in (quantization.step, quantization.low, quantization.high))
        with np.errstate(all="ignore"):
            nearest = np.clip(w.reshape(-1, group), low, high)
            off = np.abs(target.reshape(-1, group) - nearest)
            if quantization.relative:
                step = np.maximum(step, quantization.relative * np.abs(target.reshape(-1, group)))
            if quantization.together:
                far = ~(np.sqrt(np.square(off / step).reshape(len(w), columns).mean(axis=1)) <= quantization.reach)
            else:
                # Written so that a NaN fails.
                near = off <= ((quantization.reach + TOLERANCE) * step + slack if shown else high - low)
                far = ~near.reshape(len(w), columns).all(axis=1)
                if off_by is not None:
                    where = np.flatnonzero(~near)
                    steps = ((target.reshape(-1, group) - nearest) / step).reshape(-1)
                    room = POSITIONS + 1 - len(off_by)
                    off_by += [(part.start * columns + int(at), float(steps[at])) for at in where[:room]]
            lost = np.linalg.norm(target - w, axis=1) > LOST * np.maximum(np.linalg.norm(w, axis=1), faint)
        beyond[part], only_lost[part] = far | lost, lost & ~far
    count = int(np.count_nonzero(beyond))
    if not count and (shown or factors is not None or not _structured(statistics)):
        return BlockQuantized(quantization.type, quantization.bits, shown)
    if off_by and len(off_by) <= min(POSITIONS, SPARSE * rows * columns) and not np.any(only_lost):
        if (flips := _flipped(off_by, quantization)) is not None:
            return flips
        if count > max(1, int(SPARSE * rows)):
            return RowsBeyond("entry", len(off_by), tuple(at for at, _ in off_by), quantization.type)
    if rows >= 4 and 0 < count <= max(1, int(SPARSE * rows)):
        return RowsBeyond("row", count, tuple(int(row) for row in np.flatnonzero(beyond)[:64]), quantization.type)
    return Beyond(quantization.type, count or rows)


def _flipped(off_by: list[tuple[int, float]], quantization: Quantization) -> FlipsBeyond | None:
    """The bits that were flipped, where every entry is as many steps off as one bit of its code is worth.

    An entry is known up to half a step, so low bits look like any small change: one bit at least has to be worth ``FLIPPED`` steps.
    """
    flips = []
    for at, steps in off_by:
        bit = int(np.rint(np.log2(max(abs(steps), 1.0)))) if np.isfinite(steps) else quantization.bits
        if bit >= quantization.bits or abs(abs(steps) - 2.0**bit) > 0.5 + TOLERANCE:
            return None
        flips.append((at, (bit,)))
    if max(bits[0] for _, bits in flips) < FLIPPED:
        return None
    by_bit = Counter(bits[0] for _, bits in flips)
    touched = Touched(None, None, tuple(sorted(by_bit.items())))
    return FlipsBeyond(tuple(flips), (("code", len(flips)),), len(flips), quantization.type, touched=touched)


def _factors(before: Operand, after: Operand, check: Callable[[], None]) -> npt.NDArray[np.float64]:
    """The factor of each column that brings the reference nearest to W'."""
    products, squares = (np.zeros(after.matrix.shape[1]) for _ in range(2))
    with np.errstate(all="ignore"):
        for part in blocks(after):
            check()
            w, target = widen(np.ascontiguousarray(before.matrix[part])), widen(np.ascontiguousarray(after.matrix[part]))
            products += (w * target).sum(axis=0)
            squares += np.square(w).sum(axis=0)
        return np.where(squares > 0, products / squares, 1.0)


def _structured(statistics: Statistics) -> bool:
    """Whether D is far from independent entries, whatever energies its rows and columns have: then something of low rank was added.

    For independent entries the sum of s^4 is the sum of the rows' and of the columns' energies squared.
    """
    if statistics.row_energy is None or statistics.column_energy is None:
        return False
    m, n = statistics.sketched, statistics.shape[1]
    fourth = spiked(statistics) * statistics.energy**2 * (1 / m + 1 / n)
    return fourth > STRUCTURED * float((statistics.row_energy**2).sum() + (statistics.column_energy**2).sum())
