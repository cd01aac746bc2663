"""What was done to one tensor: the streaming statistics first, a probe where they only raise a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice, permutations

import numpy as np

from modelguard._diff import levels, probe
from modelguard._diff.changes import (
    BitFlips,
    Cast,
    Change,
    Dense,
    Erased,
    LowBitPayload,
    LowRank,
    NotCompared,
    Permuted,
    Pruned,
    Reordered,
    RowEdit,
    Unrelated,
)
from modelguard._diff.grid import FLOATS
from modelguard._diff.operand import Operand, same_bytes
from modelguard._diff.replay import replay_rank
from modelguard._diff.stream import Statistics, Sums

MOST_AXES = 5
"""Axes up to which every order of them is tried: those of a convolution over volumes."""
HEAD = 256
"""Entries that tell an order before all are compared."""
FLIPS_AT_MOST = 64
FLIPS_SHARE = 1e-4
SPARSE = 0.05
"""Share of rows (or columns) up to which a change counts as an edit of rows."""
FEW_LINES = 4
"""Rows, columns or entries that are few in a small tensor too, of which 5 % is none: up to a quarter of it."""
CODES = 0.75
"""Share of changed integers that differ by one bit from which these were flipped: an attack may return to a code that it flipped before
(T-BFA). Of the codes that a bit trojan retrains at most one in ten did (benchmarks/tampering.py, seeds 0 to 2)."""
SAME_SUM = 1e-3
"""Sum of D, to its norm, up to which it may vanish. Rounding in float32 leaves 1e-6 to 1e-4; the sum of independent changes is under this
once in 1250 times, and only then is it asked whether a fine-tune is a permutation, which costs as much as all the rest."""
LOW_BITS = {"F64": 32, "F32": 16, "F16": 5, "BF16": 4, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}
"""Lowest bits of each dtype that can carry a payload without changing what the model does (at most two thirds of the mantissa)."""
PAYLOAD_LEAST = 24
"""Changed entries from which "no carry ever left the low bits" cannot be chance: an additive update carries every second time."""
UNRELATED = 0.25
"""Correlation of W and W' under which W' does not come from W: independently trained weights of real models reach 0.16."""
ERASED = 0.5
"""What rounding may lose, of the norm or of the entries, and still be a cast or a quantisation: beyond that most of W is gone."""


def classify(
    before: Operand,
    after: Operand,
    statistics: Statistics,
    max_rank: int = 64,
    check: Callable[[], None] = lambda: None,
) -> Change | None:
    """What was done to a pair whose statistics have been taken; None for nothing. The first step that answers decides.

    ``check`` as for :func:`replay_rank`.
    """
    sums = statistics.sums
    # 1. Every value is the same.
    if sums.changed == 0:
        return None if before.dtype == after.dtype else _cast(before, after, "", check)
    # 2. Elements without a value of their own can only be told apart.
    if after.opaque:
        return NotCompared(f"elements of {after.stored} have no value without their scales")
    # 3. A few entries differ by one bit each.
    if (flips := _bit_flips(after, statistics)) is not None:
        return replace(flips, touched=probe.touched(before, after, statistics, check))
    # 4. Only low bits differ, and neither a round trip through a narrower dtype nor a factor on a vector of ones explains them.
    payload = _low_bits(after, statistics)
    # 5. A round trip through a narrower dtype.
    if through := probe.cast_round_trip(before, after, check):
        return _cast(before, after, through, check)
    if payload is not None:
        return probe.scaling(before, after, check) or payload
    # 6. Where every changed entry became zero D is -W there, so W.D + D.D vanishes.
    if abs(sums.wd + sums.dd) <= 1e-4 * sums.dd and (zeros := probe.pruning(before, after, check)) is not None:
        return Pruned(*zeros)
    # 7. Another order leaves the energy and the sum: 2 W.D + D.D vanishes, and so does what D adds up to.
    if abs(2 * sums.wd + sums.dd) <= 1e-5 * sums.ww and abs(sums.d_sum) <= SAME_SUM * sums.dd**0.5:
        if _reordered(before, after):
            return Reordered()
        if probe.permutation(before, after, check):
            return Permuted()
    # 8. Few rows, columns or entries changed.
    if (rows := _sparse(before, after, statistics, max_rank, check)) is not None:
        return rows
    # 9. One factor, or one per row or column.
    if (scaled := probe.scaling(before, after, check)) is not None:
        return scaled
    # 10. Few levels are left.
    if (error := relative_norm(sums)) <= ERASED and (quantized := levels.quantisation(before, after, check)) is not None:
        return replace(quantized, error=error)
    # 11. Nothing is left of W.
    if statistics.rows is not None and sums.entries >= 256 and abs(correlation(sums)) < UNRELATED and relative_norm(sums) > 0.5:
        return Unrelated(correlation(sums))
    # 12. An addition of low rank, replayed bit for bit.
    replay = probe.low_rank(before, after, statistics, max_rank, check) if statistics.rows is not None else None
    if replay is not None and replay.rank is not None:
        return LowRank(replay.rank, replay)
    # 13. Anything else.
    return Dense(replay)


def _reordered(before: Operand, after: Operand) -> bool:
    """Whether W' is what lies in memory of W with its axes in another order, read as if they were in their own.

    Column by column (Fortran), and with the channels last, are orders that libraries keep tensors in and write by mistake.
    """
    shape = after.shape
    if not 2 <= len(shape) <= MOST_AXES or before.shape != shape or before.dtype != after.dtype:
        return False
    if not before.matrix.flags.c_contiguous:
        return False
    given, found = before.matrix.reshape(shape), after.matrix.reshape(-1)
    for order in islice(permutations(range(len(shape))), 1, None):
        turned = given.transpose(order)
        head = np.ascontiguousarray(turned.flat[:HEAD])
        if same_bytes(head, np.ascontiguousarray(found[: len(head)])) and same_bytes(turned, found.reshape(turned.shape)):
            return True
    return False


def relative_norm(sums: Sums) -> float:
    """||D|| / ||W|| (infinite norms and an all-zero reference give the largest finite answer that makes sense: 0 or 1e308)."""
    if sums.ww > 0:
        return float(min((sums.dd / sums.ww) ** 0.5, 1e308))
    return 0.0 if sums.dd == 0 else 1e308


def cosine(sums: Sums) -> float:
    """cos(W, D)."""
    scale = (sums.ww**0.5) * (sums.dd**0.5)
    return float(np.clip(sums.wd / scale, -1, 1)) if scale > 0 and np.isfinite(scale) else 0.0


def correlation(sums: Sums) -> float:
    """Pearson correlation of W and W', over finite entries."""
    n = max(1, sums.entries)
    # Scaled by the two norms first: squares of huge values would overflow.
    w_norm, after_norm = sums.ww**0.5, max(sums.ww + 2 * sums.wd + sums.dd, 0.0) ** 0.5
    if not (0 < w_norm < 1e300 and 0 < after_norm < 1e300):
        return 0.0
    w_mean, after_mean = sums.w_sum / w_norm, (sums.w_sum + sums.d_sum) / after_norm
    dot = (sums.ww + sums.wd) / w_norm / after_norm
    w_var, after_var = 1 - w_mean**2 / n, 1 - after_mean**2 / n
    return (
        float(np.clip((dot - w_mean * after_mean / n) / (w_var * after_var) ** 0.5, -1, 1)) if w_var > 1e-12 and after_var > 1e-12 else 0.0
    )


def kurtosis(sums: Sums) -> float:
    """Fourth moment of the changed entries over their squared second: 1.8 for uniform rounding errors, 3 for Gaussian ones."""
    return float(sums.changed * (sums.d4 / sums.dd) / sums.dd) if 1e-150 < sums.dd < 1e150 else 0.0


def _cast(before: Operand, after: Operand, through: str, check: Callable[[], None]) -> Change:
    """The class of a tensor that is the reference rounded to its own dtype, or ``through`` a narrower one and back."""
    cast = Cast(before.dtype, after.dtype, through)
    old, new = FLOATS.get(before.dtype), FLOATS[through or after.dtype] if after.dtype in FLOATS else None
    if old is None or new is None or old.exponent <= new.exponent or (lost := probe.erased(before, after, check)) <= ERASED:
        return cast
    zeros = probe.pruning(before, after, check)
    return Erased(cast, lost) if zeros is None else Pruned(*zeros)


def _bit_flips(after: Operand, statistics: Statistics) -> BitFlips | None:
    sums = statistics.sums
    few = max(4, min(FLIPS_AT_MOST, sums.entries // 20), FLIPS_SHARE * sums.entries)
    if sums.changed > few or sums.examined < sums.changed:
        return None
    grid = FLOATS.get(after.dtype)
    if sums.single_bit < (CODES if grid is None else 0.9) * sums.changed:
        return None
    high = max(bit for _, bit in statistics.positions).bit_length() - 1
    # A few entries that moved by one grid step look like flips of the lowest bit.
    if grid is not None and high < grid.mantissa - 3 and sums.changed < 8:
        return None
    flips = tuple((at, tuple(bit for bit in range(64) if pattern >> bit & 1)) for at, pattern in statistics.positions)
    fields: dict[str, int] = {}
    for _, pattern in statistics.positions:
        name = grid.field(pattern.bit_length() - 1) if grid is not None else "integer"
        fields[name] = fields.get(name, 0) + 1
    return BitFlips(flips, tuple(fields.items()), sums.single_bit)


def _low_bits(after: Operand, statistics: Statistics) -> LowBitPayload | None:
    sums = statistics.sums
    highest = sums.xor.bit_length() - 1
    if sums.changed < PAYLOAD_LEAST or highest >= LOW_BITS.get(after.dtype, 1 if not after.opaque else 0):
        return None
    # Of b payload bits the highest changes in half of the entries and more than one entry in six for text; grid steps of an
    # ordinary update thin out towards the high bits instead.
    share = float(sums.top_bits[highest] / max(1, sums.examined))
    if share < 1 / 6:
        return None
    return LowBitPayload(highest, share, sums.changed * (highest + 1) // 8)


def _sparse(before: Operand, after: Operand, statistics: Statistics, max_rank: int, check: Callable[[], None]) -> Change | None:
    sums = statistics.sums
    if statistics.rows is None or statistics.columns is None:
        if sums.changed > _few(sums.entries) or after.entries < 4:
            return None
        return _lines(before, after, statistics, "entry", check)
    for axis, marks in (("row", statistics.rows), ("column", statistics.columns)):
        if int(np.count_nonzero(marks)) > _few(len(marks)) or len(marks) < 4:
            continue
        touched = np.ix_(statistics.rows, statistics.columns)
        if min(np.count_nonzero(statistics.rows), np.count_nonzero(statistics.columns)) >= 4 and after.dtype in FLOATS:
            # A low-rank edit whose key is sparse touches few columns too, but all of them with multiples of the same vector.
            old, new = before.matrix[touched], after.matrix[touched]
            replay = replay_rank(old, new, after.dtype, max_rank, check=check)
            if replay.rank is not None and 2 * replay.rank <= min(new.shape):
                return LowRank(replay.rank, replay)
        return _lines(before, after, statistics, axis, check)
    grid = FLOATS.get(after.dtype)
    # Entries here and there that moved by a grid step or a few are what a tiny update leaves once it is rounded.
    coarse = grid is None or sums.xor.bit_length() > grid.mantissa - 3
    if coarse and len(statistics.positions) == sums.changed <= SPARSE * sums.entries:
        return _lines(before, after, statistics, "entry", check)
    return None


def _few(count: int) -> int:
    return max(1, int(SPARSE * count), min(FEW_LINES, count // 4))


def _lines(before: Operand, after: Operand, statistics: Statistics, axis: str, check: Callable[[], None]) -> RowEdit:
    """The edit of the rows, columns or entries that changed."""
    touched = probe.touched(before, after, statistics, check)
    if axis == "entry":
        return RowEdit(axis, statistics.sums.changed, tuple(at for at, _ in statistics.positions), touched=touched)
    marks = np.flatnonzero(statistics.rows if axis == "row" else statistics.columns)  # type: ignore[arg-type]
    return RowEdit(axis, len(marks), tuple(int(at) for at in marks[:64]), touched=touched)
