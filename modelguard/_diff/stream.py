"""One pass over a pair of tensors: everything that classification needs, in bounded memory.

Rows are visited in blocks that fit a core's cache. Within a block sums are float32 (float64 for wide dtypes) and every block ends in
a float64 accumulator; a block that overflows, underflows or holds values that are not finite is summed again in float64 with those
values left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard._diff.grid import F64, FLOATS, Array, narrow, widen, word_of
from modelguard._diff.operand import Operand
from modelguard._diff.scratch import Scratch, widen_into

BLOCK = 3 << 15
"""Entries of a block: two float32 copies of it, its bits and the two sides themselves fit a 2 MiB cache."""
SKETCH_Y, SKETCH_Z = 8, 4
"""Columns of Y = D Omega and rows of Z = Psi D."""
WIDEST = 1 << 22
"""Rows longer than this are not looked at row by row."""
SKETCHED, SPARED = 2048, 4
"""Rows that are enough for the sketches, and the densely changed blocks of a taller matrix, at most, of which they see one. On a
fine-tune of 2 GiB the sketches, the energies and the fourth moments of every block were a third of the pass."""
POSITIONS = 64
"""Changed entries remembered with their position and bits."""
SAMPLED, EVERY = 2048, 16
"""Entries whose bits are looked at one by one in a densely changed block, and how many such blocks there are to one looked at."""

_NARROW = frozenset({"F16", "BF16", "F32", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "I16", "U16"})


@dataclass(slots=True)
class Sums:
    """Additive statistics of W (reference), W' (checkpoint) and D = W' - W over finite entries; sums are float64."""

    entries: int = 0
    changed: int = 0
    """Entries whose bits differ."""
    ww: float = 0.0
    wd: float = 0.0
    dd: float = 0.0
    d4: float = 0.0
    """Extrapolated where the sketches do not see every block."""
    w_sum: float = 0.0
    d_sum: float = 0.0
    max_abs: float = 0.0
    non_finite_before: int = 0
    non_finite_after: int = 0
    xor: int = 0
    """OR of the bit patterns' XORs: its highest bit is the highest bit that changed anywhere."""
    examined: int = 0
    """Changed entries whose bits were counted one by one: all of them, or of densely changed blocks a sample."""
    single_bit: int = 0
    top_bits: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(64, np.int64))
    """Examined entries by the highest bit that changed."""


@dataclass(slots=True)
class Statistics:
    """What one pass over a pair found. Row and column arrays are None for vectors and for rows past ``WIDEST``.

    ``rows``/``columns`` (bool) mark those with any changed entry. ``row_energy``/``column_energy`` are sums of E^2, ``y`` (m, SKETCH_Y)
    = E Omega and ``z`` (SKETCH_Z, n) = Psi E are the two sketches, where E is D without the rows that the sketches spare: ``sketched`` rows
    are left, and ``energy`` is ||E||^2. ``positions`` holds up to ``POSITIONS`` changed entries as (flat index, XOR of the bit patterns).
    """

    dtype: str
    shape: tuple[int, int]
    sums: Sums
    rows: npt.NDArray[np.bool_] | None = None
    columns: npt.NDArray[np.bool_] | None = None
    row_energy: F64 | None = None
    column_energy: F64 | None = None
    y: F64 | None = None
    z: F64 | None = None
    positions: list[tuple[int, int]] = field(default_factory=list)
    sketched: int = 0
    energy: float = 0.0


@dataclass(slots=True)
class Marks:
    """What rows and columns of a matrix got so far: see :class:`Statistics`. ``column_or`` is the OR of the XORs."""

    rows: npt.NDArray[np.bool_]
    row_energy: F64
    y: F64
    column_or: Array
    columns: F64
    """Z, and in the last row the columns' energies."""
    sketched: int
    energy: float = 0.0
    full: bool = False
    """Whether every column has a changed entry."""


_SCRATCH = Scratch()


def measure(before: Operand, after: Operand, check: Callable[[], None] = lambda: None, seed: int = 0) -> Statistics:
    """The statistics of a pair of equally shaped matrices. ``check`` is called from block to block and may raise to stop.

    Where the dtypes differ, ``before`` is rounded to ``after``'s dtype first, so that D is what is left beyond the cast.

    Raises ``ValueError`` for shapes that differ.
    """
    if before.matrix.shape != after.matrix.shape:
        raise ValueError(f"cannot compare {before.matrix.shape} with {after.matrix.shape}")
    work = _Pass(before, after, seed)
    with np.errstate(all="ignore"):
        for start, old, new in work.blocks():
            check()
            work.add(start, old, new)
    return work.statistics()


class _Pass:
    def __init__(self, before: Operand, after: Operand, seed: int) -> None:
        self.before, self.after = before, after
        self.cast = before.dtype != after.dtype
        self.word = word_of(after.dtype) if not after.opaque else np.dtype(np.uint8)
        self.work: type[np.floating[Any]] = np.float32 if after.dtype in _NARROW else np.float64
        self.sums = Sums()
        self.positions: list[tuple[int, int]] = []
        self.dense = 0
        self.marks: Marks | None = None
        rows, columns = after.matrix.shape
        if rows > 1 and columns <= WIDEST:
            rng = np.random.default_rng([seed, rows, columns])
            self.omega = rng.standard_normal((SKETCH_Y, columns), dtype=np.float32).astype(self.work, copy=False)
            self.psi = rng.standard_normal((SKETCH_Z, rows), dtype=np.float32).astype(self.work, copy=False)
            self.marks = Marks(
                np.zeros(rows, bool),
                np.zeros(rows),
                np.zeros((rows, SKETCH_Y)),
                np.zeros(columns, self.word),
                np.zeros((SKETCH_Z + 1, columns)),
                rows,
            )
        self.every = min(SPARED, max(1, rows // SKETCHED)) if self.marks else 1
        self.ones = np.ones(columns if self.marks else min(after.entries, BLOCK), self.work)

    def blocks(self) -> Iterator[tuple[int, Array, Array]]:
        """Blocks of rows and the first row of each; of tensors that have no rows to speak of, entries as one row."""
        left, right = self.before.matrix, self.after.matrix
        if self.marks is None:
            left, right = left.reshape(1, -1), right.reshape(1, -1)
            for start in range(0, right.size, BLOCK):
                yield start, left[:, start : start + BLOCK], right[:, start : start + BLOCK]
            return
        step = max(1, BLOCK // max(1, right.shape[1]))
        for start in range(0, len(right), step):
            yield start, left[start : start + step], right[start : start + step]

    def statistics(self) -> Statistics:
        rows, columns = self.after.matrix.shape
        total = Statistics(self.after.dtype, (rows, columns), self.sums, positions=self.positions)
        if (marks := self.marks) is not None:
            total.rows, total.row_energy, total.y = marks.rows, marks.row_energy, marks.y
            total.columns, total.column_energy, total.z = marks.column_or != 0, marks.columns[-1], marks.columns[:-1]
            total.sketched, total.energy = marks.sketched, marks.energy
            if 0 < marks.energy < self.sums.dd:
                self.sums.d4 *= self.sums.dd / marks.energy
        return total

    def add(self, start: int, old: Array, new: Array) -> None:
        """Add one block: ``old`` and ``new`` are (rows, columns) of their storage dtypes, ``start`` the first row (or entry)."""
        sums, shape = self.sums, new.shape
        if self.cast:
            raw, old = old, narrow(widen(old), self.after.dtype) if self.after.dtype in FLOATS else old.astype(new.dtype)
        xor = np.bitwise_xor(old.view(self.word), new.view(self.word), out=_SCRATCH("xor", shape, self.word))
        if self.cast:
            old = self._lost(raw, old, xor)
        changed = int(np.count_nonzero(xor))
        dense = changed > max(POSITIONS, new.size // 16)
        self.dense += dense
        spared = dense and (self.dense - 1) % self.every != 0
        w, ones = widen_into(old, _SCRATCH("w", shape, self.work)), self.ones[: shape[1]]
        ww, wd, dd, d4, w_sum, d_sum = _dot(w, w), 0.0, 0.0, 0.0, float((w @ ones).sum(dtype=np.float64)), 0.0
        if changed:
            d = widen_into(new, _SCRATCH("d", shape, self.work))
            d -= w
            wd, dd, d_sum = _dot(w, d), _dot(d, d), float((d @ ones).sum(dtype=np.float64))
            if not spared:
                # W is not needed any more: its place holds D^2 from here on.
                square = np.multiply(d, d, out=w)
                d4 = _dot(square, square)
        least = min(ww, dd if spared else d4) if changed else ww
        if not np.isfinite(ww + dd + wd + d4) or least < 1e-30 * new.size:
            w, d, square = self._carefully(old, new)
            moments = _dot(w, w), _dot(w, d), _dot(d, d), _dot(square, square)
            ww, wd, dd, d4 = (value if np.isfinite(value) else 0.0 for value in moments)
            w_sum, d_sum, ones, spared = float(w.sum()), float(d.sum()), np.ones(shape[1]), False
        sums.entries, sums.changed = sums.entries + new.size, sums.changed + changed
        sums.ww, sums.wd, sums.dd, sums.d4 = sums.ww + ww, sums.wd + wd, sums.dd + dd, sums.d4 + d4
        sums.w_sum, sums.d_sum = sums.w_sum + w_sum, sums.d_sum + d_sum
        if not changed:
            return
        self._bits(xor, changed, start, dense)
        sums.max_abs = max(sums.max_abs, float(max(d.max(), -d.min())) if spared else float(square.max()) ** 0.5)
        if (marks := self.marks) is None:
            sums.xor |= int(np.bitwise_or.reduce(xor, axis=None))
            return
        rows = slice(start, start + len(new))
        row_or = np.bitwise_or.reduce(xor, axis=1)
        marks.rows[rows] = row_or != 0
        sums.xor |= int(np.bitwise_or.reduce(row_or))
        if not marks.full:
            marks.column_or |= np.bitwise_or.reduce(xor, axis=0)
            marks.full = bool(marks.column_or.all())
        if spared:
            marks.sketched -= len(new)
        else:
            self._sketch(marks, rows, d, square, ones)

    def _sketch(self, marks: Marks, rows: slice, d: Array, square: Array, ones: Array) -> None:
        """Add D and D^2 of some rows, (rows, columns) each, to the sketches and the energies."""
        marks.y[rows], marks.row_energy[rows] = d @ self.omega.T, square @ ones
        marks.energy += float(marks.row_energy[rows].sum())
        columns = _SCRATCH("columns", (SKETCH_Z + 1, d.shape[1]), d.dtype)
        np.matmul(self.psi[:, rows], d, out=columns[:-1])
        np.add.reduce(square, axis=0, out=columns[-1])
        marks.columns += columns

    def _lost(self, raw: Array, cast: Array, xor: Array) -> Array:
        """The reference that D is measured against, once what the cast itself destroyed is counted.

        A float that overflows was finite before; an integer that wraps around is another number, whatever its bits say.
        """
        if self.after.dtype in FLOATS:
            if not np.isfinite(cast).all():
                self.sums.non_finite_before -= int(np.count_nonzero(np.isfinite(raw) & ~np.isfinite(cast)))
            return cast
        wrapped = raw != cast
        if not wrapped.any():
            return cast
        xor[wrapped] = np.iinfo(self.word).max
        return raw

    def _carefully(self, old: Array, new: Array) -> tuple[F64, F64, F64]:
        """W, D and D^2 of one block in float64, zero where W or W' is not finite; counts those entries."""
        w, after = old.astype(np.float64), new.astype(np.float64)
        finite_w, finite_after = np.isfinite(w), np.isfinite(after)
        self.sums.non_finite_before += w.size - int(np.count_nonzero(finite_w))
        self.sums.non_finite_after += w.size - int(np.count_nonzero(finite_after))
        both = finite_w & finite_after
        w, after = np.where(both, w, 0.0), np.where(both, after, 0.0)
        d = after - w
        return w, d, np.nan_to_num(d * d, posinf=np.finfo(np.float64).max ** 0.5)

    def _bits(self, xor: Array, changed: int, start: int, dense: bool) -> None:
        sums, flat = self.sums, xor.reshape(-1)
        if dense and self.dense % EVERY != 1:
            return
        where = np.flatnonzero(flat[:SAMPLED] if dense else flat)
        bits = flat[where].astype(np.uint64)
        sums.examined += len(bits)
        sums.single_bit += int(np.count_nonzero((bits & (bits - np.uint64(1))) == 0))
        sums.top_bits += np.bincount(top_bit(bits), minlength=64)
        if len(bits) == changed and (room := POSITIONS - len(self.positions)) > 0:
            first = start if self.marks is None else start * xor.shape[1]
            self.positions.extend((first + int(at), int(bit)) for at, bit in zip(where[:room], bits[:room], strict=True))


def top_bit(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The index of the highest set bit of each non-zero value."""
    high = values >> np.uint64(32)
    part = np.where(high != 0, high, values & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.frexp(part)[1].astype(np.int64) - 1 + np.where(high != 0, 32, 0)


def _dot(left: Array, right: Array) -> float:
    return float(np.dot(left.reshape(-1), right.reshape(-1)))
