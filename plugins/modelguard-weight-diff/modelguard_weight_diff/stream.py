"""One pass over a pair of tensors: everything that classification needs, in bounded memory.

Rows are visited in blocks that fit a core's cache; blocks are grouped in chunks, which are what threads take. Partition and
order of summation depend on the shapes alone, so the numbers are the same for any number of threads. Within a block sums are
float32 (float64 for wide dtypes) and every block ends in a float64 accumulator; a block that overflows, underflows or holds
values that are not finite is summed again in float64 with those values left out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard_weight_diff.grid import F64, FLOATS, Array, narrow, widen, word_of
from modelguard_weight_diff.operand import Operand

BLOCK = 1 << 16
"""Entries of a block: a float32 block and its temporaries stay in a 2 MiB cache."""
CHUNK = 1 << 21
"""Entries of a chunk."""
SKETCH_Y, SKETCH_Z = 8, 4
"""Columns of Y = D Omega and rows of Z = Psi D."""
WIDEST = 1 << 22
"""Rows longer than this are not looked at row by row."""
POSITIONS = 64
"""Changed entries remembered with their position and bits."""
SAMPLED = 2048
"""Entries of a densely changed chunk whose bits are looked at one by one."""

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
    w_sum: float = 0.0
    d_sum: float = 0.0
    max_abs: float = 0.0
    non_finite_before: int = 0
    non_finite_after: int = 0
    xor: int = 0
    """OR of the bit patterns' XORs: its highest bit is the highest bit that changed anywhere."""
    examined: int = 0
    """Changed entries whose bits were counted one by one."""
    single_bit: int = 0
    top_bits: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(64, np.int64))
    """Examined entries by the highest bit that changed."""

    def add(self, other: Sums) -> None:
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        self.xor |= other.xor
        self.top_bits += other.top_bits


_ADDED = (
    "entries", "changed", "ww", "wd", "dd", "d4", "w_sum", "d_sum",
    "non_finite_before", "non_finite_after", "examined", "single_bit",
)  # fmt: skip


@dataclass(slots=True)
class Statistics:
    """What one pass over a pair found. Row and column arrays are None for vectors and for rows past ``WIDEST``.

    ``rows``/``columns`` (bool) mark those with any changed entry, ``row_energy``/``column_energy`` are sums of D^2,
    ``y`` (m, SKETCH_Y) = D Omega and ``z`` (SKETCH_Z, n) = Psi D are the two sketches. ``positions`` holds up to ``POSITIONS``
    changed entries as (flat index, XOR of the bit patterns).
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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ``start`` to ``stop`` of a matrix, or entries of a single long row."""

    start: int
    stop: int


@dataclass(slots=True)
class Marks:
    """What rows (of a chunk, or all) and columns of a matrix got: see :class:`Statistics`. ``column_or`` is the OR of the XORs."""

    rows: npt.NDArray[np.bool_]
    row_energy: F64
    y: F64
    column_or: Array
    column_energy: F64
    z: F64

    @classmethod
    def empty(cls, rows: int, columns: int, word: np.dtype[Any]) -> Marks:
        return cls(
            np.zeros(rows, bool),
            np.zeros(rows),
            np.zeros((rows, SKETCH_Y)),
            np.zeros(columns, word),
            np.zeros(columns),
            np.zeros((SKETCH_Z, columns)),
        )


@dataclass(slots=True)
class Part:
    """What one chunk contributes; ``marks`` is None where there are no rows to speak of."""

    chunk: Chunk
    sums: Sums = field(default_factory=Sums)
    marks: Marks | None = None
    positions: list[tuple[int, int]] = field(default_factory=list)


class Pass:
    """One pass over ``before`` and ``after``, equally shaped matrices.

    Where the dtypes differ, ``before`` is rounded to ``after``'s dtype first, so that D is what is left beyond the cast.
    """

    def __init__(self, before: Operand, after: Operand, seed: int = 0) -> None:
        if before.matrix.shape != after.matrix.shape:
            raise ValueError(f"cannot compare {before.matrix.shape} with {after.matrix.shape}")
        self.before, self.after = before, after
        self.cast = before.dtype != after.dtype
        rows, columns = after.matrix.shape
        self.flat = rows == 1 or columns > WIDEST
        if self.flat:
            left, right = before.matrix.reshape(-1), after.matrix.reshape(-1)
        else:
            left, right = before.matrix, after.matrix
            rng = np.random.default_rng([seed, rows, columns])
            # A last column of ones gives the sums of rows in the same product.
            self.omega = np.ones((columns, SKETCH_Y + 1), np.float32)
            self.omega[:, :-1] = rng.standard_normal((columns, SKETCH_Y), dtype=np.float32)
            self.psi = rng.standard_normal((SKETCH_Z, rows), dtype=np.float32)
        self.left: Array = left
        self.right: Array = right
        self.columns = columns
        self.word = word_of(after.dtype) if not after.opaque else np.dtype(np.uint8)
        self.work: type[np.floating[Any]] = np.float32 if after.dtype in _NARROW else np.float64

    def chunks(self) -> Iterator[Chunk]:
        """The fixed partition."""
        length = len(self.right)
        step = CHUNK if self.flat else self._block_rows() * max(1, CHUNK // (self._block_rows() * max(1, self.columns)))
        for start in range(0, length, step):
            yield Chunk(start, min(start + step, length))

    def _block_rows(self) -> int:
        return int(max(1, BLOCK // max(1, self.columns)))

    def run(self, chunk: Chunk) -> Part:
        """Measure one chunk. Safe to call from several threads at once."""
        part = Part(chunk)
        if self.flat:
            for start in range(chunk.start, chunk.stop, BLOCK):
                block = slice(start, min(start + BLOCK, chunk.stop))
                self._measure(part, self.left[block].reshape(1, -1), self.right[block].reshape(1, -1), start)
            return part
        part.marks = Marks.empty(chunk.stop - chunk.start, self.columns, self.word)
        step = self._block_rows()
        for start in range(chunk.start, chunk.stop, step):
            block = slice(start, min(start + step, chunk.stop))
            self._measure(part, self.left[block], self.right[block], start)
        return part

    def gather(self, parts: Iterator[Part]) -> Statistics:
        """Add the chunks' contributions, in the order of :meth:`chunks`."""
        rows, columns = self.after.matrix.shape
        total = Statistics(self.after.dtype, (rows, columns), Sums())
        marks = None if self.flat else Marks.empty(rows, columns, self.word)
        for part in parts:
            total.sums.add(part.sums)
            total.positions.extend(part.positions[: POSITIONS - len(total.positions)])
            if marks is not None and part.marks is not None:
                place = slice(part.chunk.start, part.chunk.stop)
                marks.rows[place], marks.row_energy[place], marks.y[place] = part.marks.rows, part.marks.row_energy, part.marks.y
                marks.column_or |= part.marks.column_or
                marks.column_energy += part.marks.column_energy
                marks.z += part.marks.z
        if marks is not None:
            total.rows, total.row_energy, total.y = marks.rows, marks.row_energy, marks.y
            total.columns, total.column_energy, total.z = marks.column_or != 0, marks.column_energy, marks.z
        return total

    def _measure(self, part: Part, old: Array, new: Array, start: int) -> None:
        """Add one block: ``old`` and ``new`` are (rows, columns) of their storage dtypes, ``start`` the first row (or entry)."""
        sums = part.sums
        sums.entries += new.size
        if self.cast:
            old = narrow(widen(old), self.after.dtype) if self.after.dtype in FLOATS else old.astype(new.dtype)
        xor = np.bitwise_xor(np.ascontiguousarray(old).view(self.word), np.ascontiguousarray(new).view(self.word))
        changed = int(np.count_nonzero(xor))
        sums.changed += changed
        if changed:
            row_or = np.bitwise_or.reduce(xor, axis=1)
            sums.xor |= int(np.bitwise_or.reduce(row_or))
            self._bits(part, xor, changed, start)
        scratch = _scratch(self.work, new.shape)
        w, d = self._work(old, scratch[0]), scratch[1]
        after = self._work(new, scratch[2])
        with np.errstate(all="ignore"):
            np.subtract(after, w, out=d)
            ww, dd, wd = _dot(w, w), _dot(d, d), _dot(w, d)
            square = np.multiply(d, d, out=scratch[3])
            d4 = _dot(square, square)
        fragile = not np.isfinite(ww + dd + wd + d4) or (changed and d4 < 1e-30 * new.size) or (ww < 1e-30 * new.size)
        if fragile and self.work is np.float32:
            w, d, after = w.astype(np.float64), d.astype(np.float64), after.astype(np.float64)
        if fragile:
            finite_w, finite_after = np.isfinite(w), np.isfinite(after)
            sums.non_finite_before += w.size - int(np.count_nonzero(finite_w))
            sums.non_finite_after += w.size - int(np.count_nonzero(finite_after))
            both = finite_w & finite_after
            w, after = np.where(both, w, 0.0), np.where(both, after, 0.0)
            with np.errstate(all="ignore"):
                d = after - w
                square = d * d
                ww, dd, wd, d4 = _dot(w, w), _dot(d, d), _dot(w, d), _dot(square, square)
            ww, dd, wd, d4 = (value if np.isfinite(value) else 0.0 for value in (ww, dd, wd, d4))
            square = np.nan_to_num(square, posinf=np.finfo(np.float64).max ** 0.5)
        sums.ww, sums.dd, sums.wd, sums.d4 = sums.ww + ww, sums.dd + dd, sums.wd + wd, sums.d4 + d4
        ones = scratch[4][: new.shape[1]] if w.dtype == self.work else np.ones(new.shape[1], w.dtype)
        sums.w_sum += float((w @ ones).sum(dtype=np.float64))
        if not changed:
            return
        sums.max_abs = max(sums.max_abs, float(square.max()) ** 0.5)
        if (marks := part.marks) is not None:
            place = slice(start - part.chunk.start, start - part.chunk.start + new.shape[0])
            marks.rows[place] = row_or != 0
            marks.row_energy[place] = square @ ones
            product = d @ self.omega
            marks.y[place] = product[:, :-1]
            sums.d_sum += float(product[:, -1].sum(dtype=np.float64))
            marks.column_or |= np.bitwise_or.reduce(xor, axis=0)
            marks.column_energy += np.ones(new.shape[0], square.dtype) @ square
            marks.z += self.psi[:, start : start + new.shape[0]] @ d
        else:
            sums.d_sum += float((d @ ones).sum(dtype=np.float64))

    def _work(self, values: Array, out: Array) -> Array:
        """``values`` as the working float dtype, in ``out`` unless they already are."""
        if values.dtype == self.work and values.flags.c_contiguous and values.flags.aligned:
            return values
        np.copyto(out, values, casting="unsafe")
        return out

    def _bits(self, part: Part, xor: Array, changed: int, start: int) -> None:
        sums = part.sums
        flat = xor.reshape(-1)
        dense = changed > max(POSITIONS, flat.size // 16)
        if dense and sums.examined >= SAMPLED:
            return
        where = np.flatnonzero(flat[:SAMPLED] if dense else flat)
        bits = flat[where].astype(np.uint64)
        sums.examined += len(bits)
        sums.single_bit += int(np.count_nonzero((bits & (bits - np.uint64(1))) == 0))
        sums.top_bits += np.bincount(top_bit(bits), minlength=64)
        if not dense and len(part.positions) < POSITIONS:
            offset = start * (1 if self.flat else xor.shape[1])
            room = POSITIONS - len(part.positions)
            part.positions.extend((offset + int(at), int(bit)) for at, bit in zip(where[:room], bits[:room], strict=True))


def top_bit(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The index of the highest set bit of each non-zero value."""
    high = values >> np.uint64(32)
    part = np.where(high != 0, high, values & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.frexp(part)[1].astype(np.int64) - 1 + np.where(high != 0, 32, 0)


def _dot(left: Array, right: Array) -> float:
    return float(np.dot(left.reshape(-1), right.reshape(-1)))


class _Scratch(threading.local):
    """Buffers of one thread, reused from block to block."""

    def __init__(self) -> None:
        self.key: Any = None
        self.arrays: tuple[Array, ...] = ()


_SCRATCH = _Scratch()


def _scratch(dtype: type[np.floating[Any]], shape: tuple[int, ...]) -> tuple[Array, ...]:
    if _SCRATCH.key != (dtype, shape):
        _SCRATCH.key, _SCRATCH.arrays = (dtype, shape), (*(np.empty(shape, dtype) for _ in range(4)), np.ones(shape[1], dtype))
    return _SCRATCH.arrays
