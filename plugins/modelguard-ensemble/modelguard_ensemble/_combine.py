"""Class by class: what do several tests that look at different things say together?

Two combinations, because two things happen. A backdoor may shake every test a little: then the sum of their normal deviates is what
shows it (Stouffer 1949, with the variance the deviates' correlation gives it; Strube 1985, equation 3). Or it may shake one test a lot
and leave the others still, such as a warp that no patch imitates: then the Cauchy combination shows it (Liu & Xie 2020, "Cauchy
combination test", theorem 1), whose level holds under any dependence in the tail. The smaller of the two counts twice (Bonferroni), and
the smallest over K classes is corrected for looking at all of them (Sidak 1967).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from modelguard_triggers.outliers import Floats, over_all

CORRELATION = 0.2
"""Mean correlation of two members' deviates between the classes of clean models: .19 over 17 models of the open part of the zoo."""
FLOOR, CEILING = 1e-6, 0.99
"""p-values are held within these: no member's model of its own statistic is good further out, and Cauchy's tangent diverges at 1."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Combined:
    """``p`` (K,) combined p-value of each class; ``accused`` the class with the smallest; ``p_value`` of it over all classes."""

    p: Floats
    accused: int
    p_value: float


def combine(members: Mapping[str, Floats]) -> Combined:
    """Combine each member's one-sided p-values (K,), NaN where a member has nothing to say of a class."""
    table = np.clip(np.stack([members[name] for name in sorted(members)]), FLOOR, CEILING)  # (M, K)
    p = np.array([_class(column[~np.isnan(column)]) for column in table.T])
    accused = int(p.argmin())
    return Combined(p, accused, over_all(float(p[accused]), len(p)))


def _class(p: Floats) -> float:
    if len(p) == 0:
        return 1.0
    return min(1.0, 2 * min(stouffer(p), cauchy(p)))


def stouffer(p: Floats) -> float:
    """The p-value of the summed normal deviates of ``p`` (M,), which are correlated by :data:`CORRELATION`."""
    count = len(p)
    total = sum(-_NORMAL.inv_cdf(float(value)) for value in p)
    return 1 - _NORMAL.cdf(total / math.sqrt(count + count * (count - 1) * CORRELATION))


def cauchy(p: Floats) -> float:
    """The p-value of the mean of the Cauchy deviates of ``p`` (M,)."""
    mean = float(np.tan((0.5 - p) * math.pi).mean())
    return 0.5 - math.atan(mean) / math.pi
