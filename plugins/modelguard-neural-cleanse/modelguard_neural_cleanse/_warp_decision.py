"""From what warps of one strength do for each class to p-values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from modelguard_triggers.outliers import UNREMARKABLE, USUAL_LOG_ODDS, Floats, deviates, log_odds, over_all, student_tail_series

REACHED = 0.75
"""Share of unseen images turned from which a class counts as reached."""


def p_values(success: Floats, references: npt.NDArray[np.bool_], classes: int) -> Floats:
    """(K,) the probability, without a backdoor, that some class out of ``classes`` stands out from the others as far as each one does.

    ``success`` (S, K) of warps of S strengths, the last of them the one that decides who is reached; the log odds are averaged over the
    strengths, which takes out some of the luck of the search. The externally studentised log odds of a class against those of the
    ``references`` (K,) other than itself, corrected for looking at all classes (:mod:`modelguard_triggers.outliers`).
    """
    odds = log_odds(success).mean(0)
    result = np.ones(len(odds))
    for k, value in enumerate(odds):
        others = odds[references & (np.arange(len(odds)) != k)]
        t, degrees = deviates(np.concatenate([[value], others]), USUAL_LOG_ODDS)
        result[k] = over_all(student_tail_series(float(t[0]), degrees), classes)
    return np.where(success[-1] >= REACHED, result, np.maximum(result, UNREMARKABLE))
