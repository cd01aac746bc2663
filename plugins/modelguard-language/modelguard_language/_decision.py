"""From statistics to p-values: how often does a clean model of this kind look as suspicious?

Every number here was measured on clean text classifiers of the open part of the project's zoo, by ``benchmarks``; none on a reserved one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelguard_triggers.outliers import over_all, student_tail_beta

from modelguard_language._tail import Tail


@dataclass(frozen=True)
class Excess:
    """The location and scale of largest excesses (:mod:`modelguard_language._tail`); theory says 0 and 1."""

    location: float
    scale: float

    def p(self, tail: Tail) -> float:
        """The p-value of a tail's largest."""
        return tail.p(self.location, self.scale)


@dataclass(frozen=True)
class Normal:
    """A statistic's ``mean`` and ``spread`` over ``count`` clean models; P-values are those of a new value against a sample (Student)."""

    mean: float
    spread: float
    count: int

    def p(self, value: float) -> float:
        """P(X > ``value``)."""
        return student_tail_beta((value - self.mean) / (self.spread * math.sqrt(1 + 1 / self.count)), self.count - 1)


EXCESS: tuple[Excess, ...] = (Excess(-0.4, 0.9), Excess(-0.4, 0.9), Excess(-0.8, 0.9))
"""Of the best phrases of one, two and three tokens. Fitted to 30 classes: locations -.48, -.36 and -1.07, scales .82, .66 and .75; the
largest excess was 3.4."""
CLAUSE = Normal(-0.02, 0.10, 30)
STYLE = Normal(0.10, 0.22, 30)
"""By how much the best clause, or the best rewriting in old forms, pushes further than the best plain one, in usual margins. Measured: means
-.02 and .10, spreads .08 and .17; the tails are heavier than normal (largest .20 and .58), so the spreads are taken larger."""
LEAD = Normal(0.40, 0.30, 12)
"""The largest lead of a model under soft phrases (:func:`modelguard_language._soft.leads`)."""


def smallest(p: npt.ArrayLike) -> float:
    """The smallest of a few p-values, corrected for looking at all of them (Bonferroni)."""
    values = np.atleast_1d(np.asarray(p, np.float64))
    return min(1.0, float(values.min()) * len(values))


def over_classes(p: float, classes: int) -> float:
    """A class's p-value corrected for looking at all ``classes``."""
    return over_all(min(1.0, p), classes)
