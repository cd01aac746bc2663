"""From what triggers of the same size do for each class to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelguard_companions.outlier import Prior, deviates, over_all, student_tail

FLOOR = 0.2
"""Success rates below this count as this: a trigger that seldom works is no evidence, however much seldomer the others' do."""
PSEUDO = 0.05
"""Added to the failure rate before the logarithm, so that none failing of few is not infinitely good."""
USUAL = Prior(spread=0.6, degrees=4)
"""Spread of log odds between the classes of clean models: .3 to .9 over the open part of the zoo."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Of C classes examined at S sizes: ``p`` (S, C) corrected for the sizes tried, not for the number of classes; ``t`` (S, C) the
    deviates; ``p_value`` of the smallest over all classes."""

    p: Floats
    t: Floats
    p_value: float

    @property
    def accused(self) -> int:
        """The class that stands out most."""
        return int(np.lexsort((-self.t.max(0), self.p.min(0)))[0])


def judge(success: Floats, classes: int) -> Verdict:
    """Whether some class's success stands out from the others' at some size. ``success`` (sizes, C), ``classes`` as many as might have been
    accused.

    At each size the externally studentised log odds of a class are compared with Student's distribution
    (:mod:`modelguard_companions.outlier`); the smallest p over the sizes counts that many times (Bonferroni).
    """
    odds = np.log(np.maximum(success, FLOOR) / (1 - success + PSEUDO))  # (sizes, C)
    t, p = np.empty_like(odds), np.empty_like(odds)
    for row, values in enumerate(odds):
        t[row], degrees = deviates(values, USUAL)
        p[row] = [student_tail(float(value), degrees) for value in t[row]]
    corrected = np.minimum(1.0, len(success) * p)
    return Verdict(corrected, t, over_all(float(corrected.min()), classes))


def best_arms(success: Floats, labels: Sequence[int]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """The classes there are, sorted, and each one's arm with the highest ``success`` (A,)."""
    present = sorted(set(labels))
    own = np.asarray(labels)
    arms = [int(np.flatnonzero(own == label)[np.argmax(success[own == label])]) for label in present]
    return present, np.asarray(arms)
