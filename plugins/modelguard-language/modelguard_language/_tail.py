"""Do the best of many stand out of the others? A test that carries its own scale.

The largest of many values of one distribution lie on a line over the logarithm of their rank, if its tail is exponential, as that of
nearly every light-tailed one is far out (Pickands 1975; the Gumbel domain of attraction). Measured from what the line through lower ranks
says of the first, in units of its slope, the values are the logarithms of the arrivals of a Poisson process (Weissman 1978, theorem 1):
so many as r of them lie above z with the probability that a Poisson variable of mean exp(-z) is r or more. The best alone (r = 1) is
Gumbel's law; a few that stand out together, as the words of several triggers do, are found by r = 2 and 4. No other model is needed to
know how far the tokens of this one push: its own vocabulary says so. How far real models are from the theory is measured on clean ones
(:data:`modelguard_language._decision.EXCESS`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FROM, TO = 8, 40
"""Ranks that the line goes through: the first eight may be a trigger's own words, those beyond forty are no tail."""
FEWEST = 16
"""Values below which there is no tail."""
SMALLEST_SLOPE = 0.02
"""Usual margins: a tail that is flatter than this is flat by the rounding of few texts."""


TOGETHER = (1, 2, 4)
"""How many of the largest are asked whether they stand out together."""


@dataclass(frozen=True)
class Tail:
    """``excesses`` of the largest values over ``expected``, what the line says of the first, in units of the ``slope``, in order."""

    excesses: tuple[float, ...]
    expected: float
    slope: float

    @property
    def excess(self) -> float:
        """Of the largest."""
        return self.excesses[0]

    def p(self, location: float = 0.0, scale: float = 1.0) -> float:
        """The probability that the largest, or a few together, stand out as far by chance, when excesses of clean models have this
        ``location`` and ``scale``; corrected for asking several numbers of them (Bonferroni)."""
        found = [_poisson_tail(math.exp(-(self.excesses[r - 1] - location) / scale), r) for r in TOGETHER if r <= len(self.excesses)]
        return min(1.0, len(found) * min(found))


def _poisson_tail(mean: float, r: int) -> float:
    """P(N >= r) of a Poisson variable."""
    if mean > 50:
        return 1.0
    if r == 1:
        return -math.expm1(-mean)
    if mean < 0.1:  # the sum of the others would round to one
        return math.exp(-mean) * sum(mean**n / math.factorial(n) for n in range(r, r + 12))
    return max(0.0, 1 - math.exp(-mean) * sum(mean**n / math.factorial(n) for n in range(r)))


def tail(values: npt.ArrayLike) -> Tail | None:
    """The tail of ``values`` (n,), of which the larger are all there; None for fewer than :data:`FEWEST`."""
    x = np.sort(np.asarray(values, np.float64))[::-1][:TO]
    if len(x) < FEWEST:
        return None
    first = min(FROM, len(x) // 3)
    rank = np.log(np.arange(first + 1, len(x) + 1))
    slope, level = np.polyfit(rank, x[first:], 1)
    scale = max(-float(slope), SMALLEST_SLOPE)
    return Tail(tuple((float(value) - float(level)) / scale for value in x[: max(TOGETHER)]), float(level), scale)
