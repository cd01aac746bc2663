"""From trigger sizes to a verdict: which classes are reached by a trigger too small to be chance?

The published rule, "anomaly index above 2" (Wang et al. 2019, section V-A), flags some class of 13 to 33 % of clean ten-class
models: it is computed for comparison and decides nothing. What decides:

Under the hypothesis of no backdoor the log sizes x_1..x_K are a sample of one distribution. Leave the smallest, x, out: with mean
M and standard deviation S of the n others, (M - x) / (S sqrt(1 + 1/n)) is Student-t with n - 1 degrees of freedom when the
distribution is normal, and since x is the smallest of K, P(min as far out) <= K * P(t > value): Grubbs' one-sided test (Grubbs
1950). Leaving x out keeps an outlier from hiding itself. A class found is set aside and the next one tested. Several targets can
hide each other; when the smallest is not significant, the r smallest are set aside together (Rosner 1983, generalised ESD), at a
level corrected for the number of r tried.
``tests/test_decision.py`` simulates the level for K from 5 to 1000, also under logistic and uniform log sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelguard_triggers.outliers import MIN_CLASSES, Floats, Prior, student_tail_beta

LEVEL = 0.05
"""Significance at which a class counts as set aside."""

MAD_TO_SIGMA = 1.4826

USUAL_SIZES = Prior(spread=0.25, degrees=4)
"""Spread of log trigger sizes between the classes of clean models: .1 to .4 over the open part of the zoo."""


@dataclass(frozen=True)
class Outliers:
    """``p`` (n,): the p-value of each class, 1 for the larger two thirds, which are not tested."""

    p: Floats
    typical: float
    """Geometric mean size of the classes that are not outliers."""


def anomaly_index(sizes: Floats) -> Floats:
    """(K,) |size - median| / (1.4826 MAD), signed: positive below the median. As published, on the linear scale."""
    median = float(np.median(sizes))
    deviation = float(np.median(np.abs(sizes - median))) * MAD_TO_SIGMA
    if deviation == 0:
        return np.zeros(len(sizes))
    return (median - sizes) / deviation


def small_outliers(sizes: Floats, reached: npt.NDArray[np.bool_], weights: Floats, classes: int) -> Outliers:
    """The test above on ``sizes`` (n,) of the classes examined to the end, out of ``classes`` (K).

    A class that was not ``reached`` is censored: it enters as the largest size seen, it is not dropped. ``weights`` (n,) is how
    many classes each one stands for, more than 1 where a random part of the classes was examined (Horvitz-Thompson).
    """
    n = len(sizes)
    result = np.ones(n)
    if n < MIN_CLASSES or not reached.any():
        return Outliers(result, float(np.exp(np.log(sizes).mean())) if n else math.nan)
    x = np.log(np.where(reached, sizes, max(sizes[reached].max(), float(np.median(sizes)))))
    order = np.lexsort((np.arange(n), x))
    depth = max(1, n // 3)
    steps = [_against_rest(x, reached, weights, order, r, classes) for r in range(1, depth + 1)]
    # Forward: a class is accused only after every smaller one.
    outliers = 0
    for r, p in enumerate(np.maximum.accumulate(steps), 1):
        result[order[r - 1]] = p
        outliers = r if p < LEVEL else outliers
    if not outliers and depth > 1:
        # Nobody stands out alone: do several together? They have 2 (depth - 1) more chances to by luck.
        joint = [min(1.0, 2 * (depth - 1) * p) for p in steps[1:]]
        if min(joint) < LEVEL:
            outliers = 2 + int(np.argmin(joint))
            result[order[:outliers]] = min(joint)
    typical = float(np.exp(np.average(x[order[outliers:]], weights=weights[order[outliers:]])))
    return Outliers(result, typical)


def _against_rest(x: Floats, reached: npt.NDArray[np.bool_], weights: Floats, order: npt.NDArray[np.int64], r: int, classes: int) -> float:
    """Grubbs' p-value of the r-th smallest against all larger ones, the r - 1 smaller set aside."""
    rest = order[r:]
    w = weights[rest]
    mean = float(np.average(x[rest], weights=w))
    effective = float(w.sum() ** 2 / (w**2).sum())
    spread = math.sqrt(float(np.average((x[rest] - mean) ** 2, weights=w)) * effective / (effective - 1))
    if not reached[rest].all():
        # Imputed values do not vary: take the spread of the others for what it cannot be below.
        own = x[rest[reached[rest]]]
        spread = max(spread, float(own.std(ddof=1)) if len(own) >= MIN_CLASSES - 1 else USUAL_SIZES.spread)
    t = (mean - x[order[r - 1]]) / (max(spread, 1e-9) * math.sqrt(1 + 1 / effective))
    return min(1.0, (classes - r + 1) * student_tail_beta(t, effective - 1))
