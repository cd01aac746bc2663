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


EXCESS: tuple[Excess, ...] = (Excess(0.0, 1.0), Excess(0.0, 1.0), Excess(0.0, 1.0))
"""Excess of the best phrase of one, two and three tokens."""
CLAUSE = Normal(0.0, 0.15, 20)
STYLE = Normal(0.1, 0.25, 20)
"""By how much the best clause, or the best rewriting in old forms, pushes further than the best plain one, in usual margins."""
RATIO = Normal(0.0, 1.0, 20)
"""Logarithm of the other classes' loss over a class's, of the best soft phrases."""


def smallest(p: npt.ArrayLike) -> float:
    """The smallest of a few p-values, corrected for looking at all of them (Bonferroni)."""
    values = np.atleast_1d(np.asarray(p, np.float64))
    return min(1.0, float(values.min()) * len(values))


def over_classes(p: float, classes: int) -> float:
    """A class's p-value corrected for looking at all ``classes``."""
    return over_all(min(1.0, p), classes)
