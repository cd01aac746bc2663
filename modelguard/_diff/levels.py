"""Whether a changed matrix is the reference sent through a quantiser: few levels per tensor, row, column or group.

A sample finds the scheme, because most changed matrices are nothing of the kind and should cost little. The whole tensor then has
to bear it out: a sample says nothing about the rows between its own, and those are where an edit would be put.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modelguard._diff.changes import Quantized
from modelguard._diff.grid import F64, FLOATS, spacing, widen
from modelguard._diff.operand import Operand
from modelguard._diff.probe import FIRST, SECOND, blocks, reference_in, same, sample, turned

ONE_STEP = 1.02
"""Steps that an entry may be away from the reference: rounding either way, and scales kept in half precision."""
LEAST = 0.9
"""Share of moved entries that the replayed quantiser must reproduce, on the sample and over the whole tensor."""
REACH = 1 / 8
"""Share of its group's range that an entry may move by where only the number of values left betrays the quantiser."""
_LEVELS = (
    ("symmetric", 8, 127),
    ("symmetric", 8, 128),
    ("symmetric", 4, 7),
    ("symmetric", 4, 8),
    ("asymmetric", 8, 255),
    ("asymmetric", 4, 15),
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a sample suggests; ``size`` entries of a row share a scale (0: the whole tensor shares its values)."""

    result: Quantized
    before: Operand
    after: Operand
    size: int
    levels: int
    check: Callable[[], None]

    def lines(self) -> Iterator[tuple[F64, F64]]:
        """Reference and checkpoint block by block, (groups, size) each."""
        for part in blocks(self.after):
            self.check()
            w, target = reference_in(self.before, self.after, part), np.ascontiguousarray(self.after.matrix[part])
            size = self.size or w.shape[1]
            yield widen(w).reshape(-1, size), widen(target).reshape(-1, size)


def quantisation(before: Operand, after: Operand, check: Callable[[], None] = lambda: None) -> Quantized | None:
    """Whether W' is a round trip through int8 or int4: replayed bit for bit, or betrayed by how few values are left.

    ``check`` is called from block to block and may raise to stop.
    """
    if after.dtype not in FLOATS or after.entries < 64:
        return None
    found = None
    for entries, least in ((FIRST, 0.5), (SECOND, LEAST)):
        found = _suspected(before, after, entries, least, check)
        if found is None:
            return None
    if found is None:
        return None
    if found.levels:
        return _replays(found)
    return found.result if (_rounds_lines(found) if found.size else _rounds_tensor(found)) else None


def _suspected(before: Operand, after: Operand, entries: int, least: float, check: Callable[[], None]) -> _Found | None:
    sides = [("row", before, after)]
    if after.matrix.shape[0] > 1:
        sides.append(("column", *turned(before, after)))
    for axis, old, new in sides:
        rows = sample(new.matrix.shape, entries)
        w, target = widen(reference_in(old, new, rows)), widen(np.ascontiguousarray(new.matrix[rows]))
        if not (np.isfinite(w).all() and np.isfinite(target).all()):
            return None
        n = w.shape[1]
        for group, size in [(axis, n)] + [(str(g), g) for g in (256, 128, 64, 32) if axis == "row" and n % g == 0 and n > g]:
            if (scheme := _scheme(w.reshape(-1, size), target.reshape(-1, size), after.dtype, group, least)) is not None:
                return _Found(scheme[0], old, new, size, scheme[1], check)
        if axis == "row" and new.matrix.flags.c_contiguous and old.matrix.flags.c_contiguous:
            # Groups that run on over the ends of rows.
            for size in (g for g in (256, 128, 64, 32) if n % g and new.matrix.size % g == 0):
                whole = [Operand(side.matrix.reshape(-1, size), side.dtype, ()) for side in (old, new)]
                head = slice(0, max(1, entries // size))
                grouped = widen(reference_in(whole[0], whole[1], head)), widen(whole[1].matrix[head])
                if (scheme := _scheme(*grouped, after.dtype, str(size), least)) is not None:
                    return _Found(scheme[0], whole[0], whole[1], size, scheme[1], check)
        if axis == "row" and len(sides) > 1 and (few := _few_values(w, target)) is not None:
            return _Found(few[0], old, new, few[1], 0, check)
    return None


def _play(w: F64, scheme: str, levels: int) -> tuple[F64, F64]:
    """``w`` (groups, size) through a quantiser, and the step of each group (groups, 1); 0 where the group has no range."""
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    if scheme == "symmetric":
        step = np.maximum(np.abs(low), np.abs(high)) / levels
        unit = np.where(step > 0, step, 1.0)
        return np.clip(np.rint(w / unit), -levels - 1, levels) * unit, step
    step = (high - low) / levels
    unit = np.where(step > 0, step, 1.0)
    zero = np.rint(-low / unit)
    return (np.clip(np.rint(w / unit) + zero, 0, levels) - zero) * unit, step


def _agreement(w: F64, played: F64, target: F64, step: F64, dtype: str) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which entries replay exactly; and which nearly, as they do when scales kept in half precision move the lattice a little.

    Nearly is nearer than the reference is: where that lies on the lattice itself, any small change would be near.
    """
    off = np.abs(played - target)
    near = (off <= np.minimum(0.02 * step, 2.0**-8 * np.abs(target))) & (off < np.abs(played - w))
    return same(played, target, dtype), near


def _scheme(w: F64, target: F64, dtype: str, group: str, least: float) -> tuple[Quantized, int] | None:
    moved = w != target
    if not moved.any():
        return None
    for scheme, bits, levels in _LEVELS:
        played, step = _play(w, scheme, levels)
        exact, near = (float(np.mean(hits[moved])) for hits in _agreement(w, played, target, step, dtype))
        if exact >= least or near >= least:
            return Quantized(bits, group, scheme, exact), levels
    return None


def _replays(found: _Found) -> Quantized | None:
    """The scheme with its agreement over the whole tensor, if it holds there and no entry is further off than a step."""
    dtype, counts = found.after.dtype, np.zeros(3, np.int64)
    for w, target in found.lines():
        played, step = _play(w, found.result.scheme, found.levels)
        # Written so that a NaN fails.
        if not np.all(np.abs(target - w) <= ONE_STEP * step + spacing(target, dtype)):
            return None
        moved = w != target
        counts += [np.count_nonzero(hits & moved) for hits in (moved, *_agreement(w, played, target, step, dtype))]
    changed, exact, near = (int(count) for count in counts)
    return replace(found.result, agreement=exact / max(1, changed)) if max(exact, near) >= LEAST * changed else None


def _few_values(w: F64, target: F64) -> tuple[Quantized, int] | None:
    """Fewer distinct values than any float tensor has: 2^bits per tensor, row or group, where the reference has many more."""
    n = target.shape[1]
    before, after = (int(_distinct(side.reshape(1, -1))[0]) for side in (w, target))
    if target.size >= 1024 and after <= 256 and before >= 2 * after:
        return Quantized(8 if after > 16 else 4, "tensor", "values", 1.0), 0
    for size, bits in [(n, 8), (n, 4)] + [(g, 4) for g in (256, 128, 64, 32) if n % g == 0 and n > g]:
        if size < 2 * 2**bits:
            continue
        most = int(_distinct(target.reshape(-1, size)[:64]).max())
        if most <= 2**bits and float(_distinct(w.reshape(-1, size)[:64]).mean()) >= 1.3 * most:
            return Quantized(bits, "row" if size == n else str(size), "values", 1.0), size
    return None


def _distinct(rows: F64) -> npt.NDArray[np.int64]:
    """How many different values each row holds."""
    ordered = np.sort(rows, axis=1)
    return np.asarray(1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1))


def _rounds_tensor(found: _Found) -> bool:
    """Whether the tensor holds at most 256 values and every entry is the one of them nearest to the reference."""
    values, low, high = np.empty(0), np.inf, -np.inf
    for w, target in found.lines():
        values = np.union1d(values, target)
        low, high = min(low, float(w.min())), max(high, float(w.max()))
        if len(values) > 256 or not np.isfinite([*values, low, high]).all():
            return False
    for w, target in found.lines():
        at = np.searchsorted(values, w)
        nearest = np.minimum(np.abs(w - values[np.maximum(at - 1, 0)]), np.abs(w - values[np.minimum(at, len(values) - 1)]))
        moved = np.abs(target - w)
        slack = _blur(w, target, found.after.dtype)
        if not np.all(moved <= np.minimum(nearest * ONE_STEP, REACH * (high - low)) + slack):
            return False
    return True


def _rounds_lines(found: _Found) -> bool:
    """The same with values of its own for each group.

    Rounding to the nearest of some values is monotone: in the order of the reference the checkpoint's values change only where the
    reference passes the middle between two of them.
    """
    for w, target in found.lines():
        if not (np.isfinite(w).all() and np.isfinite(target).all()) or _distinct(target).max() > 2**found.result.bits:
            return False
        reach = REACH * (w.max(axis=1, keepdims=True) - w.min(axis=1, keepdims=True))
        slack = _blur(w, target, found.after.dtype)
        if not np.all(np.abs(target - w) <= reach + slack):
            return False
        order = np.argsort(w, axis=1)
        w, target, slack = (np.take_along_axis(side, order, axis=1) for side in (w, target, slack))
        (left, right), (lower, upper) = ((side[:, :-1], side[:, 1:]) for side in (w, target))
        room, middle = np.maximum(slack[:, :-1], slack[:, 1:]), (lower + upper) / 2
        rises = (upper > lower) & ((left > middle + room) | (right < middle - room))
        falls = (upper < lower) & ((left < middle - room) | (right > middle + room))
        if np.any(rises | falls):
            return False
    return True


def _blur(w: F64, target: F64, dtype: str) -> F64:
    """What rounding reference and checkpoint to the file's dtype may have moved the two against each other."""
    return spacing(np.maximum(np.abs(w), np.abs(target)), dtype)
