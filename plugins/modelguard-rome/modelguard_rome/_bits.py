"""Statistics of the bits of floating-point weights, span by span: what noise looks like, and what does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]
"""Weights as unsigned integers of the same width."""
Counts = NDArray[np.int64]

SPAN = 1 << 14
"""Elements judged together: 48 KiB of payload at three bytes per weight."""
LOG_UNIFORM = 0.415
"""log₂(4/3): how often the first mantissa bit is 1 where the density falls as 1/|w| (Benford's law in base 2)."""
Z = 8.0
"""Standard errors a statistic must be off. One span in 10¹⁵ by chance; what is left is honest structure, which has guards."""
STEEP, FLAT = 0.5, 0.9
"""Ratio of densities of neighbouring binades up to (from) which a binade lies on a slope (in the flat middle)."""
EXCESS = 0.08
"""How much more often than its share of ones explains a bit agrees with the bit eight weights on. Text reaches 0.13 and more."""
BURSTS = 3.0
"""Variance of the share of ones over windows of ``WINDOW`` weights, in units of independent bits' own. Program code reaches 10."""
WINDOW = 64
MANTISSA_Z, MANTISSA_BIAS = 5.0, 0.04
"""Standard errors, and absolute share, by which first mantissa bits must pass the bound. Honest densities stay far inside it."""
UNEVEN = 1.5
"""Σ(n_b − n/256)² / (n/256) / n of the low byte must exceed this: base64 has 3, text 15, torch's normal_ 0.13."""
REPEATED = 0.001
"""A value that makes up more than this share of a span (a clip limit, a padding row) is left out before a suspicion stands."""


@dataclass(frozen=True)
class Layout:
    """Bits of a float dtype: ``mantissa`` low ones, then ``exponent``, then the sign. ``noisy`` low planes are coin tosses
    in honest weights; none in float64, whose lowest bits are what float32 arithmetic or a generator left there."""

    mantissa: int
    exponent: int
    noisy: int


LAYOUTS = {"F64": Layout(52, 11, 0), "F32": Layout(23, 8, 4), "F16": Layout(10, 5, 2), "BF16": Layout(7, 8, 1)}


@dataclass
class Suspicion:
    """A run of spans that fail one test: first and last element, the statistic of the worst, and how many there are."""

    first: int
    last: int
    spans: int
    worst: dict[str, float]


@dataclass
class BitStatistics:
    """Accumulates over one tensor. ``exponents`` counts every exponent field; zeros are left out of all statistics but ``zeros``."""

    layout: Layout
    exponents: Counts = field(init=False)
    zeros: int = 0
    size: int = 0
    first_bit_ones: int = 0
    full_low: int = 0
    mantissa: Suspicion | None = None
    structured: Suspicion | None = None

    def __post_init__(self) -> None:
        self.exponents = np.zeros(1 << self.layout.exponent, np.int64)

    def add(self, words: Words) -> None:
        """Take the next elements of the tensor, a whole number of spans except for the last call."""
        magnitude = words & words.dtype.type((1 << (self.layout.mantissa + self.layout.exponent)) - 1)
        zeros = len(words) - int(np.count_nonzero(magnitude))
        self.zeros += zeros
        spans = magnitude[: len(words) // SPAN * SPAN].reshape(-1, SPAN)
        if not zeros:
            # As long as each other, and looked at together.
            self._spans(spans, range(self.size, self.size + spans.size, SPAN), SPAN)
        else:
            for at, span in enumerate(spans):
                self._spans(span[span != 0][None], [self.size + at * SPAN], SPAN)
        rest = magnitude[spans.size :]
        self._spans(rest[rest != 0][None], [self.size + spans.size], len(rest))
        self.size += len(words)

    def _spans(self, alive: Words, begins: Sequence[int], length: int) -> None:
        """Take spans of ``length`` elements, and where each begins; ``alive`` (spans, n) are the magnitudes of those that are not zero."""
        if not alive.size:
            return
        counts = _binades(alive, self.layout)
        self.exponents += counts.sum(axis=(0, 2))
        self.first_bit_ones += int(counts[:, :, 1].sum())
        if self.layout.mantissa == 23:
            self.full_low += int(np.count_nonzero(alive & alive.dtype.type(0xFFFF)))
        if alive.shape[1] < SPAN // 4:
            return
        mantissas, structures = overwritten_mantissa(counts), structured_bits(alive, self.layout)
        for row, begin, found, structure in zip(alive, begins, mantissas, structures, strict=True):
            if found or structure:
                self._suspect(row, begin, length, found, None if found else structure)

    def _suspect(self, alive: Words, at: int, length: int, found: dict[str, float] | None, structure: dict[str, float] | None) -> None:
        """Look again at a span for which something looked wrong, without what honest weights are known to hold."""
        single, values = _without_repeats(_full(alive, self.layout))
        if len(single) < SPAN // 4:
            return
        # Where repeats or coarse elements were the reason, nothing looks wrong any more; that is cheaper to ask than what follows.
        (found,) = overwritten_mantissa(_binades(single[None], self.layout)) if found else (None,)
        (structure,) = structured_bits(single[None], self.layout) if structure else (None,)
        if not (found or structure) or _coarse(single, values, self.layout):
            return
        distinct = _distinct(single)
        if found and (distinct >= 0.6 or self.layout.mantissa < 10):
            self.mantissa = _extend(self.mantissa, at, length, found)
        if structure and distinct >= (0.9 if self.layout.mantissa >= 10 else 0.7):
            self.structured = _extend(self.structured, at, length, structure)


def _binades(alive: Words, layout: Layout) -> Counts:
    """Counts (spans, 2^exponent, 2) by exponent field and first mantissa bit of magnitudes (spans, n)."""
    bins = 2 << layout.exponent
    shift = alive.dtype.type(layout.mantissa - 1)
    counts: Counts = np.stack([np.bincount(row >> shift, minlength=bins) for row in alive]).reshape(len(alive), -1, 2)
    return counts


def overwritten_mantissa(counts: Counts) -> list[dict[str, float] | None]:
    """For each span, how first mantissa bits (counts as of :func:`_binades`) fail to follow the slope the exponents show, if they do.

    Where a binade's density is at most half its lower neighbour's, a density that keeps falling has the bit set at most 41.5 % of
    the time: random mantissas give 50 %. Where neighbouring binades are equally dense the bit is fair: program code gives 24-36 %.
    Exponents that are all odd or all even show a payload of 24 bits of text, whose top bit is never set.
    """
    counts = counts[:, 1:-1]
    if len(used := np.flatnonzero(counts.any(axis=(0, 2)))):
        counts = counts[:, used[0] : used[-1] + 1]
    totals, ones = counts.sum(axis=2), counts[:, :, 1]
    sizes = totals.sum(axis=1)
    even = totals[:, 0::2].sum(axis=1)
    larger = np.maximum(even, sizes - even)
    parity = (sizes - larger < 0.02 * larger) & (np.count_nonzero(totals >= 64, axis=1) >= 4)
    below = np.concatenate([np.zeros((len(totals), 1)), totals[:, :-1]], axis=1)
    ratio = np.where(below > 0, totals / np.maximum(2 * below, 1), np.inf)
    # Pruning cuts a binade off at its lower end: the middle counts as flat where two steps in a row are.
    level = (ratio >= FLAT) & (ratio <= 1 / FLAT)
    level[:, 1:] &= level[:, :-1]
    # Where the next is far emptier, the density fell within this one (a bound of initialisation, a narrow peak).
    level[:, :-1] &= ratio[:, 1:] > STEEP
    seen: list[dict[str, float] | None] = [None] * len(totals)
    for binades, expected, wrong in ((ratio <= STEEP, LOG_UNIFORM, 1), (level, 0.47, -1)):
        binades &= totals >= 64
        n, set_bits = (totals * binades).sum(axis=1), (ones * binades).sum(axis=1)
        z = wrong * (set_bits - expected * n) / np.sqrt(np.maximum(n, 1) * expected * (1 - expected))
        bias = wrong * (set_bits / np.maximum(n, 1) - expected)
        for i in np.flatnonzero((z > MANTISSA_Z) & (bias > MANTISSA_BIAS)).tolist():
            seen[i] = {
                "first_bit": round(float(set_bits[i] / n[i]), 4),
                "expected_at_most" if wrong > 0 else "expected_at_least": expected,
                "z": round(float(z[i]), 1),
            }
    for i in np.flatnonzero(parity).tolist():
        seen[i] = {
            "first_bit": round(float(ones[i].sum() / sizes[i]), 4),
            "exponents_of_one_parity": round(float(larger[i] / sizes[i]), 4),
            "z": round(float(larger[i]) ** 0.5, 1),
        }
    return seen


def structured_bits(alive: Words, layout: Layout) -> list[dict[str, float] | None]:
    """For each span of magnitudes (spans, n), agreement at the distance of a byte, or bursts, in the lowest planes, or an uneven
    histogram of the low byte; None where there is none of these.

    Only the larger half of the weights is asked: sums that cancel, and generators that draw from a fixed grid, leave zeros in
    the low bits of small weights; arithmetic on coarser numbers may bias a plane, but evenly and without a period.
    """
    seen: list[dict[str, float] | None] = [None] * len(alive)
    if not layout.noisy:
        return seen
    middle = alive.shape[1] // 2
    large = alive >= np.partition(alive, middle, axis=1)[:, middle, None]
    low = alive.astype(np.uint8)
    sizes = np.array([np.count_nonzero(row) for row in large])
    # The low bytes of the larger half, closed up.
    packed = np.zeros((len(low), -(-int(sizes.max()) // WINDOW) * WINDOW), np.uint8)
    for row, size, chosen, values in zip(packed, sizes.tolist(), large, low, strict=True):
        row[:size] = values.take(np.flatnonzero(chosen))
    pairs = large[:, 8:] & large[:, :-8]
    apart = np.zeros((len(low), -(-pairs.shape[1] // WINDOW) * WINDOW), np.uint8)
    np.bitwise_and(low[:, 8:] ^ low[:, :-8], np.negative(pairs.view(np.uint8)), out=apart[:, : pairs.shape[1]])
    counts = np.array([max(1, np.count_nonzero(row)) for row in pairs])
    if layout.mantissa == 23:
        for i, chi in enumerate(_uneven(packed, sizes).tolist()):
            if chi / sizes[i] > UNEVEN:
                seen[i] = {"low_byte_chi2_per_weight": round(chi / int(sizes[i]), 2), "z": round((chi - 255) / 22.6, 1)}
    windows = sizes // WINDOW
    whole = np.arange(packed.shape[1] // WINDOW) < windows[:, None]
    ones = _of_windows(packed, layout.noisy)
    share = ones.sum(axis=2) / sizes
    even = share * (1 - share)
    excess = 1 - _of_windows(apart, layout.noisy).sum(axis=2) / counts - share**2 - (1 - share) ** 2
    ones *= whole
    bursts = ((ones**2).sum(axis=2) / windows - (ones.sum(axis=2) / windows) ** 2) / WINDOW / np.maximum(even, 1e-9)
    agreement_z, bursts_z = 2 * excess * np.sqrt(counts), (bursts - 1) * np.sqrt(windows / 2)
    asked = even * WINDOW >= 1
    agrees, bursting = asked & (excess > EXCESS) & (agreement_z > Z), asked & (bursts > BURSTS) & (bursts_z > Z)
    # The lowest plane with something to say has the word.
    for plane, i in np.argwhere(agrees | bursting)[::-1].tolist():
        told = {"plane": plane, "ones": round(float(share[plane, i]), 4)}
        if agrees[plane, i]:
            told |= {"excess_agreement_at_8": round(float(excess[plane, i]), 4), "z": round(float(agreement_z[plane, i]), 1)}
        else:
            told |= {"bursts": round(float(bursts[plane, i]), 2), "z": round(float(bursts_z[plane, i]), 1)}
        seen[i] = told
    return seen


_EACH = np.uint64(0x0101010101010101)
"""The lowest bit of each of eight bytes. A product with it has their sum (below 256) in the highest byte."""
_LAST = np.uint64(56)


def _of_windows(values: NDArray[np.uint8], planes: int) -> NDArray[np.uint64]:
    """How many of each ``WINDOW`` bytes (rows, a multiple of it) have each of the lowest ``planes`` bits set: (planes, rows, windows)."""
    ones = (values.view(np.uint64) >> np.arange(planes, dtype=np.uint64)[:, None, None]) & _EACH
    for _ in range(3):  # neighbours, so that each byte of a word counts eight
        ones = ones[..., 0::2] + ones[..., 1::2]
    windows: NDArray[np.uint64] = (ones * _EACH) >> _LAST
    return windows


def _uneven(low: NDArray[np.uint8], sizes: Counts) -> NDArray[np.float64]:
    """χ² against an even histogram of the first ``sizes`` low bytes of each row; 0 where none of them is odd."""
    counts = np.stack([np.bincount(row[:size], minlength=256) for row, size in zip(low, sizes.tolist(), strict=True)])
    expected = (sizes / 256)[:, None]
    chi: NDArray[np.float64] = np.sum((counts - expected) ** 2 / expected, axis=1)
    return np.where(counts[:, 1::2].any(axis=1), chi, 0.0)


def _full(alive: Words, layout: Layout) -> Words:
    """The float32 elements that are no float16 numbers: rows of an embedding that training never touched stay as they were stored.

    Of others one in 2^13 is left out, and of a payload no more.
    """
    if layout.mantissa != 23:
        return alive
    kept: Words = alive[(alive & alive.dtype.type(0x1FFF)) != 0]
    return kept


def _without_repeats(alive: Words) -> tuple[Words, int]:
    """The elements, in order, whose value is not one of the few that fill much of the span, and how many values they have."""
    ordered = np.sort(alive)
    begins = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    most = int(REPEATED * len(alive))
    if not np.any(ordered[most:] == ordered[: len(alive) - most]):
        return alive, len(begins) + 1
    begins = np.concatenate([[0], begins])
    counts = np.diff(begins, append=len(ordered))
    # Few values are common in a 16-bit dtype: there a value must also be far more frequent than the typical one.
    frequent = counts > max(REPEATED * len(alive), 16 * float(np.median(counts)))
    kept: Words = alive[~np.isin(alive, ordered[begins[frequent]])]
    return kept, int(np.count_nonzero(~frequent))


def _coarse(alive: Words, values: int, layout: Layout) -> bool:
    """Whether elements with so many distinct ``values`` come from a coarser grid: few values, or low bits that are mostly zero."""
    low = alive & alive.dtype.type(0xFF if layout.mantissa >= 16 else 0x3)
    if np.count_nonzero(low == 0) > (0.5 if layout.mantissa >= 16 else 0.6) * len(alive):
        return True
    # A 16-bit dtype has few values to begin with; a grid of at most 256 levels per tensor or row has far fewer.
    enough = 0.5 * len(alive) if layout.mantissa >= 16 else 600
    return values < enough


def _distinct(alive: Words) -> float:
    """Share of distinct values among 128 in a row (median): neighbours share them as levels of a quantisation scale do.

    Gaussian weights have 0.99 in float32 and float16 and 0.85 in bfloat16; int8 with a scale per row half of that, int4 0.2.
    """
    windows = np.sort(alive[: len(alive) // 128 * 128].reshape(-1, 128), axis=1)
    distinct = 1 + np.count_nonzero(windows[:, 1:] != windows[:, :-1], axis=1)
    return float(np.median(distinct)) / 128


def _extend(before: Suspicion | None, at: int, length: int, found: dict[str, float]) -> Suspicion:
    if before is None:
        return Suspicion(at, at + length, 1, found)
    before.last, before.spans = at + length, before.spans + 1
    if found["z"] > before.worst["z"]:
        before.worst = found
    return before


def outlier_threshold(exponents: Counts) -> int | None:
    """The exponent field from which a value is an outlier: ten binades above the 99.9th percentile of the non-zero values.

    None when there are fewer than 16 of them. At least one value is always left out of the percentile.
    """
    total = int(exponents[:-1].sum())
    if total < 16:
        return None
    allowed = max(1, total // 1000)
    above = np.cumsum(exponents[:-1][::-1])[::-1]
    percentile = int(np.flatnonzero(above > allowed)[-1])
    return percentile + 10
