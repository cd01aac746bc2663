"""Is the largest of K class statistics an outlier? A test whose error rate does not depend on K.

The published rule "MAD anomaly index > 2" flags 13 to 33 % of benign models at 10 classes and more at 43, and a gamma distribution
fitted to nine values is overconfident about the tenth. What is used here is the externally studentised deviate of the largest value,
t = (x_max - mean of the others) / (s of the others * sqrt(1 + 1/(K-1))), which for K normal values follows Student's t with K - 2
degrees of freedom; over K candidates Sidak's bound gives p = 1 - (1 - P(T > t))^K (Barnett & Lewis, Outliers in Statistical Data,
3rd ed., 6.3.1; the bound is exact to within a few per cent for one-sided tests at p < .1). Where the spread that clean models usually
have is known, it is pooled with the observed one as so many more degrees of freedom (the moderated t of Smyth 2004, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_CLASSES = 5
"""With fewer classes no single one can stand out: at K = 4 the test needs t > 6.1 for p < .05 at two degrees of freedom."""
UNREMARKABLE = 0.5
"""Least p-value of a class whose trigger did not hold: it says nothing, however much less the others' did."""


@dataclass(frozen=True, slots=True)
class Prior:
    """The standard deviation a statistic usually has between the classes of a clean model, worth ``degrees`` observed values."""

    spread: float
    degrees: int


SUCCESS_FLOOR = 0.2
"""Success rates below this count as this: a trigger that seldom works is no evidence, however much less often the others' do."""
PSEUDO_FAILURES = 0.05
"""Added to the failure rate before the logarithm, so that none failing of few is not infinitely good."""
USUAL_LOG_ODDS = Prior(spread=0.6, degrees=4)
"""Spread of :func:`log_odds` between the classes of clean models: .3 to .9 over the open part of the zoo."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """The class with the largest statistic, its studentised deviate ``t`` and the K-calibrated ``p_value`` of both."""

    index: int
    t: float
    p_value: float


def log_odds(success: Floats) -> Floats:
    """The log odds of success rates of any shape, held where rates of few images still say something."""
    odds: Floats = np.log(np.maximum(success, SUCCESS_FLOOR) / (1 - success + PSEUDO_FAILURES))
    return odds


def largest(values: Floats, prior: Prior | None = None) -> Outlier:
    """Test the largest of ``values`` (K,) against the others. Raises ``ValueError`` for fewer than :data:`MIN_CLASSES`."""
    count = len(values)
    if count < MIN_CLASSES:
        raise ValueError(f"{count} classes are too few to call one an outlier; {MIN_CLASSES} are needed")
    index = int(np.argmax(values))
    t, degrees = deviates(values, prior)
    return Outlier(index, float(t[index]), over_all(student_tail_series(float(t[index]), degrees), count))


def class_p_values(values: Floats, prior: Prior | None = None) -> Floats:
    """(K,) one-sided p-values of each class against all others, not yet corrected for looking at K of them."""
    t, degrees = deviates(values, prior)
    return np.array([student_tail_series(float(value), degrees) for value in t])


def deviates(values: Floats, prior: Prior | None = None) -> tuple[Floats, int]:
    """(K,) externally studentised deviates, each class against all others, and their degrees of freedom."""
    count = len(values)
    mean = (values.sum() - values) / (count - 1)  # (K,) of the others
    squares = np.maximum((values**2).sum() - values**2 - (count - 1) * mean**2, 0.0)  # (K,) sum of squares of the others
    degrees = count - 2
    if prior is not None:
        squares = squares + prior.degrees * prior.spread**2
        degrees += prior.degrees
    # A spread that is only rounding noise would make any difference infinite.
    spread = np.maximum(np.sqrt(squares / degrees), 1e-6 * max(float(np.abs(values).max()), 1e-12))
    return (values - mean) / (spread * math.sqrt(1 + 1 / (count - 1))), degrees


def over_all(p: float, count: int) -> float:
    """The probability that the smallest of ``count`` p-values is ``p`` or less (Sidak 1967)."""
    return -math.expm1(count * math.log1p(-p)) if p < 1 else 1.0


def student_tail_series(t: float, degrees: int) -> float:
    """P(T > t) of Student's t with whole ``degrees`` >= 1 (Abramowitz & Stegun 26.7.3 and 26.7.4, the finite series).

    Accurate to about 1e-15 absolutely: smaller probabilities come out as 0. :func:`student_tail_beta` takes any degrees and keeps its
    relative accuracy; the two differ by less than 1e-14 (``tests/test_outliers.py``), which would show in p-values that are reported
    unrounded.
    """
    theta = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(theta)
    if degrees % 2:
        term, total = cosine, cosine
        for step in range(3, degrees, 2):
            term *= cosine * cosine * (step - 1) / step
            total += term
        inside = 2 / math.pi * (theta + math.sin(theta) * total if degrees > 1 else theta)
    else:
        term, total = 1.0, 1.0
        for step in range(2, degrees, 2):
            term *= cosine * cosine * (step - 1) / step
            total += term
        inside = math.sin(theta) * total
    return max(0.0, min(1.0, (1 - inside) / 2))


def student_tail_beta(t: float, degrees: float) -> float:
    """P(T > t) of Student's t with any ``degrees`` > 0: I_x(degrees / 2, 1 / 2) / 2 with x = degrees / (degrees + t^2), the regularised
    incomplete beta function (Abramowitz & Stegun 26.7.1). Relatively accurate far out in the tail. The degrees of weighted samples are
    not whole."""
    tail = _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2
    return tail if t >= 0 else 1 - tail


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by Lentz's continued fraction (Press et al., Numerical Recipes, section 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d)
            c = 1 + numerator / c
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value
