"""From what triggers of the same size do for each class to p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelguard_triggers.outliers import USUAL_LOG_ODDS, Floats, deviates, log_odds, over_all, student_tail_series


@dataclass(frozen=True)
class Comparison:
    """Of C classes examined at S sizes: ``p`` (S, C) corrected for the sizes tried, not for the number of classes; ``t`` (S, C) the
    deviates; ``p_value`` of the smallest over all classes."""

    p: Floats
    t: Floats
    p_value: float

    @property
    def order(self) -> list[int]:
        """The places of the classes, those that stand out most first."""
        places: list[int] = np.lexsort((-self.t.max(0), self.p.min(0))).tolist()
        return places


def compare(success: Floats, classes: int) -> Comparison:
    """Whether some class's success stands out from the others' at some size. ``success`` (sizes, C), ``classes`` as many as might have been
    accused.

    At each size the externally studentised log odds of a class are compared with Student's distribution
    (:mod:`modelguard_triggers.outliers`); the smallest p over the sizes counts that many times (Bonferroni).
    """
    odds = log_odds(success)  # (sizes, C)
    t, p = np.empty_like(odds), np.empty_like(odds)
    for row, values in enumerate(odds):
        t[row], degrees = deviates(values, USUAL_LOG_ODDS)
        p[row] = [student_tail_series(float(value), degrees) for value in t[row]]
    corrected = np.minimum(1.0, len(success) * p)
    return Comparison(corrected, t, over_all(float(corrected.min()), classes))


def best_arms(success: Floats, labels: Sequence[int]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """The classes there are, sorted, and each one's arm with the highest ``success`` (A,)."""
    present = sorted(set(labels))
    own = np.asarray(labels)
    arms = [int(np.flatnonzero(own == label)[np.argmax(success[own == label])]) for label in present]
    return present, np.asarray(arms)
