"""From statistics to p-values: how often does a clean model of this kind look as suspicious?

Every number here was measured on clean text classifiers of the open part of the project's zoo, by ``benchmarks``; none on a reserved one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelguard_triggers.outliers import over_all, student_tail_beta

from modelguard_language._tail import TOGETHER, Tail


@dataclass(frozen=True)
class Excess:
    """The location and scale of largest excesses (:mod:`modelguard_language._tail`); theory says 0 and 1."""

    location: float
    scale: float
    together: tuple[int, ...] = (1,)

    def p(self, tail: Tail) -> float:
        """The p-value of a tail's largest, or of a few together."""
        return tail.p(self.location, self.scale, self.together)


@dataclass(frozen=True)
class Normal:
    """A statistic's ``mean`` and ``spread`` over ``count`` clean models; P-values are those of a new value against a sample (Student)."""

    mean: float
    spread: float
    count: int

    def p(self, value: float) -> float:
        """P(X > ``value``)."""
        return student_tail_beta((value - self.mean) / (self.spread * math.sqrt(1 + 1 / self.count)), self.count - 1)


EXCESS: tuple[Excess, ...] = (Excess(-0.4, 0.9, TOGETHER), Excess(-0.4, 0.9), Excess(-0.8, 0.9))
"""Of the best phrases of one, two and three tokens. Fitted to 64 classes of 23 models: locations -.55, -.50 and -1.13, scales .82, .73 and
.62, taken a little larger; the largest excess was 3.4. Several together are asked of tokens alone: phrases with one beginning share what it
does, and of clean models four of three tokens lie together at 3."""
ANGLE = Excess(-0.7, 0.8)
"""Of the row that is most like the one searched for a class, by Fisher's z of the cosine (:mod:`modelguard_language._rows`). Of 116
classes of 37 clean models the location is -.66 and the scale .75 (by moments), the largest 3.7; rows written over reach 2.1 to 38."""
CLAUSE = Normal(0.01, 0.10, 100)
STYLE = Normal(0.03, 0.16, 100)
"""By how much the median clause, or the median rewriting in old forms, pushes further than the median plain one, in usual margins.
Measured on 144 classes: means .01 and .03, spreads .08 and .12, largest .26 and .35; the tails are heavier than normal, so the spreads
are taken half as large again. The best of each family instead of the median is no statistic: single openings reach .35 and 1.1 on clean
models."""
LEAD = Normal(0.50, 0.90, 23)
"""The largest lead of a model under soft phrases (:func:`modelguard_language._soft.leads`): of 23 clean models 21 lie below 1, a model of
imbalanced classes at 2.7 and one of few words at 3.7."""


def smallest(p: npt.ArrayLike) -> float:
    """The smallest of a few p-values, corrected for looking at all of them (Bonferroni)."""
    values = np.atleast_1d(np.asarray(p, np.float64))
    return min(1.0, float(values.min()) * len(values))


def over_classes(p: float, classes: int) -> float:
    """A class's p-value corrected for looking at all ``classes``."""
    return over_all(min(1.0, p), classes)
