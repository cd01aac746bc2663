"""From what warps of one strength do for each class to p-values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from modelguard_companions.outlier import Prior, deviates, over_all, student_tail

Floats = npt.NDArray[np.float64]

REACHED = 0.75
"""Share of unseen images turned from which a class counts as reached."""
FLOOR = 0.2
"""Success rates below this count as this: a warp that seldom works is no evidence, however much seldomer the others' do."""
PSEUDO = 0.05
"""Added to the failure rate before the logarithm, so that none failing of few is not infinitely good."""
USUAL = Prior(spread=0.6, degrees=4)
"""Spread of log odds between the classes of clean models: .3 to .9 over the open part of the zoo. With FLOOR and PSEUDO, what ABS judges
its triggers of one size by."""
UNREMARKABLE = 0.5
"""Least p-value of a class that was not reached."""


def p_values(success: Floats, references: npt.NDArray[np.bool_], classes: int) -> Floats:
    """(K,) the probability, without a backdoor, that some class out of ``classes`` stands out from the others as far as each one does.

    ``success`` (S, K) of warps of S strengths, the last of them the one that decides who is reached; the log odds are averaged over the
    strengths, which takes out some of the luck of the search. The externally studentised log odds of a class against those of the
    ``references`` (K,) other than itself, corrected for looking at all classes (:mod:`modelguard_companions.outlier`).
    """
    odds = np.log(np.maximum(success, FLOOR) / (1 - success + PSEUDO)).mean(0)
    result = np.ones(len(odds))
    for k, value in enumerate(odds):
        others = odds[references & (np.arange(len(odds)) != k)]
        t, degrees = deviates(np.concatenate([[value], others]), USUAL)
        result[k] = over_all(student_tail(float(t[0]), degrees), classes)
    return np.where(success[-1] >= REACHED, result, np.maximum(result, UNREMARKABLE))
