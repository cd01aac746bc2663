"""Statistics of the bits of floating-point weights, span by span: what noise looks like, and what does not."""

from __future__ import annotations

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
        for start in range(0, len(words), SPAN):
            self._span(words[start : start + SPAN])

    def _span(self, words: Words) -> None:
        at, self.size = self.size, self.size + len(words)
        magnitude = words & words.dtype.type((1 << (self.layout.mantissa + self.layout.exponent)) - 1)
        alive = magnitude[magnitude != 0]
        self.zeros += len(words) - len(alive)
        counts = _binades(alive, self.layout)
        self.exponents += counts.sum(axis=1)
        self.first_bit_ones += int(counts[:, 1].sum())
        if self.layout.mantissa == 23:
            self.full_low += int(np.count_nonzero(alive & alive.dtype.type(0xFFFF)))
        if len(alive) < SPAN // 4:
            return
        found = overwritten_mantissa(counts)
        structure = None if found else structured_bits(alive, self.layout)
        # Counting distinct values sorts the span; it is asked only where something else already looked wrong.
        if found or structure:
            single = _without_repeats(_full(alive, self.layout))
            if len(single) < SPAN // 4 or _coarse(single, self.layout):
                return
            distinct = _distinct(single)
            fine = distinct >= (0.9 if self.layout.mantissa >= 10 else 0.7)
            found = (
                overwritten_mantissa(_binades(single, self.layout)) if found and (distinct >= 0.6 or self.layout.mantissa < 10) else None
            )
            structure = structured_bits(single, self.layout) if structure and fine else None
        if found:
            self.mantissa = _extend(self.mantissa, at, len(words), found)
        if structure:
            self.structured = _extend(self.structured, at, len(words), structure)


def _binades(alive: Words, layout: Layout) -> Counts:
    """Counts (2^exponent, 2) by exponent field and first mantissa bit."""
    top = (alive >> alive.dtype.type(layout.mantissa - 1)).astype(np.int64)
    counts: Counts = np.bincount(top, minlength=2 << layout.exponent).reshape(-1, 2)
    return counts


def overwritten_mantissa(counts: Counts) -> dict[str, float] | None:
    """Whether first mantissa bits (counts as of :func:`_binades`) fail to follow the slope the exponents show.

    Where a binade's density is at most half its lower neighbour's, a density that keeps falling has the bit set at most 41.5 % of
    the time: random mantissas give 50 %. Where neighbouring binades are equally dense the bit is fair: program code gives 24-36 %.
    Exponents that are all odd or all even show a payload of 24 bits of text, whose top bit is never set.
    """
    totals = counts[1:-1].sum(axis=1).astype(np.float64)
    parity = sorted((float(totals[0::2].sum()), float(totals[1::2].sum())))
    if parity[0] < 0.02 * parity[1] and np.count_nonzero(totals >= 64) >= 4:
        share = float(counts[1:-1, 1].sum() / totals.sum())
        return {"first_bit": round(share, 4), "exponents_of_one_parity": round(parity[1] / sum(parity), 4), "z": round(parity[1] ** 0.5, 1)}
    below = np.concatenate([[0.0], totals[:-1]])
    ratio = np.where(below > 0, totals / np.maximum(2 * below, 1), np.inf)
    seen: dict[str, float] = {}
    # Pruning cuts a binade off at its lower end: the middle counts as flat where two steps in a row are.
    level = (ratio >= FLAT) & (ratio <= 1 / FLAT)
    level[1:] &= level[:-1]
    # Where the next is far emptier, the density fell within this one (a bound of initialisation, a narrow peak).
    level[:-1] &= ratio[1:] > STEEP
    for name, binades, wrong in (("steep", ratio <= STEEP, 1), ("flat", level, -1)):
        binades &= totals >= 64
        n, ones = float(totals[binades].sum()), float(counts[1:-1, 1][binades].sum())
        expected = LOG_UNIFORM if name == "steep" else 0.47
        z = wrong * (ones - expected * n) / np.sqrt(max(n, 1) * expected * (1 - expected))
        if z > MANTISSA_Z and wrong * (ones / n - expected) > MANTISSA_BIAS:
            seen = {
                "first_bit": round(ones / n, 4),
                "expected_at_most" if wrong > 0 else "expected_at_least": expected,
                "z": round(float(z), 1),
            }
    return seen or None


def structured_bits(alive: Words, layout: Layout) -> dict[str, float] | None:
    """Agreement at the distance of a byte, or bursts, in the lowest planes; or an uneven histogram of the low byte.

    Only the larger half of the weights is asked: sums that cancel, and generators that draw from a fixed grid, leave zeros in
    the low bits of small weights; arithmetic on coarser numbers may bias a plane, but evenly and without a period.
    """
    magnitude = alive & alive.dtype.type((1 << (layout.mantissa + layout.exponent)) - 1)
    large = magnitude >= np.partition(magnitude, len(magnitude) // 2)[len(magnitude) // 2]
    n, pairs = int(np.count_nonzero(large)), large[8:] & large[:-8]
    count = max(1, int(np.count_nonzero(pairs)))
    for plane in range(layout.noisy):
        bit = ((alive >> alive.dtype.type(plane)) & alive.dtype.type(1)).astype(np.float32)
        share = float(bit[large].mean())
        if share * (1 - share) * WINDOW < 1:
            continue
        excess = float(np.count_nonzero((bit[8:] == bit[:-8]) & pairs)) / count - share**2 - (1 - share) ** 2
        if excess > EXCESS and (z := 2 * excess * float(np.sqrt(count))) > Z:
            return {"plane": plane, "ones": round(share, 4), "excess_agreement_at_8": round(excess, 4), "z": round(z, 1)}
        windows = bit[large][: n - n % WINDOW].reshape(-1, WINDOW).mean(axis=1)
        bursts = float(windows.var()) * WINDOW / (share * (1 - share))
        if bursts > BURSTS and (z := (bursts - 1) * float(np.sqrt(len(windows) / 2))) > Z:
            return {"plane": plane, "ones": round(share, 4), "bursts": round(bursts, 2), "z": round(z, 1)}
    if layout.mantissa == 23:
        low = alive[large] & alive.dtype.type(0xFF)
        if np.count_nonzero(low & alive.dtype.type(1)) == 0:
            return None
        chi = float(np.sum((np.bincount(low.astype(np.int64), minlength=256) - n / 256) ** 2) / (n / 256))
        if chi / n > UNEVEN:
            return {"low_byte_chi2_per_weight": round(chi / n, 2), "z": round((chi - 255) / 22.6, 1)}
    return None


def _full(alive: Words, layout: Layout) -> Words:
    """The float32 elements that are no float16 numbers: rows of an embedding that training never touched stay as they were stored.

    Of others one in 2^13 is left out, and of a payload no more.
    """
    if layout.mantissa != 23:
        return alive
    kept: Words = alive[(alive & alive.dtype.type(0x1FFF)) != 0]
    return kept


def _without_repeats(alive: Words) -> Words:
    """The elements, in order, whose value is not one of the few that fill much of the span."""
    if not len(alive):
        return alive
    values, inverse, counts = np.unique(alive, return_inverse=True, return_counts=True)
    # Few values are common in a 16-bit dtype: there a value must also be far more frequent than the typical one.
    frequent = counts > max(REPEATED * len(alive), 16 * float(np.median(counts)))
    kept: Words = alive[~frequent[inverse]]
    return kept if len(values) else alive


def _coarse(alive: Words, layout: Layout) -> bool:
    """Whether the values come from a coarser grid: few distinct ones, or low bits that are mostly zero."""
    low = alive & alive.dtype.type(0xFF if layout.mantissa >= 16 else 0x3)
    if np.count_nonzero(low == 0) > (0.5 if layout.mantissa >= 16 else 0.6) * len(alive):
        return True
    # A 16-bit dtype has few values to begin with; a grid of at most 256 levels per tensor or row has far fewer.
    enough = 0.5 * len(alive) if layout.mantissa >= 16 else 600
    return len(np.unique(alive)) < enough


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
