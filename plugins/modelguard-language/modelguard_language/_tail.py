"""Does the best of many stand out of the others? A test that carries its own scale.

The largest of many values of one distribution lie on a line over the logarithm of their rank, if its tail is exponential, as that of
nearly every light-tailed one is far out (Pickands 1975; the Gumbel domain of attraction). What the line through the ranks below says of
the first rank is what chance explains; the excess over it, in units of the slope, has nearly Gumbel's distribution (Weissman 1978,
theorem 1). No other model is needed to know how far tokens of this model push: its own vocabulary says so. How far real models are from
the theory is measured on clean ones, and taken off (:data:`modelguard_language._decision.NULLS`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FROM, TO = 8, 40
"""Ranks that the line goes through: the first eight may be a trigger's own words, those beyond forty are no tail."""
FEWEST = 16
"""Values below which there is no tail."""
SMALLEST_SLOPE = 0.02
"""Usual margins: a tail that is flatter than this is flat by the rounding of few texts."""


@dataclass(frozen=True)
class Tail:
    """``excess`` of the largest value over ``expected``, what the line says of it, in units of the ``slope``."""

    excess: float
    expected: float
    slope: float


def tail(values: npt.ArrayLike) -> Tail | None:
    """The tail of ``values`` (n,), of which the larger are all there; None for fewer than :data:`FEWEST`."""
    x = np.sort(np.asarray(values, np.float64))[::-1][:TO]
    if len(x) < FEWEST:
        return None
    first = min(FROM, len(x) // 3)
    rank = np.log(np.arange(first + 1, len(x) + 1))
    slope, level = np.polyfit(rank, x[first:], 1)
    scale = max(-float(slope), SMALLEST_SLOPE)
    return Tail((float(x[0]) - float(level)) / scale, float(level), scale)
