"""How a score stands among those of held-out shadows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command's help reads a constant of here
    import numpy as np
    import numpy.typing as npt

    Scores = npt.NDArray[np.floating[Any]]

LEVEL = 0.05
"""Share of benign models that may lie above the threshold, as held-out benign shadows tell it."""
LEAST_HELD_OUT = math.ceil(1 / LEVEL) - 1
"""Held-out benign shadows below which no score is rare enough for :data:`LEVEL`: with n of them the smallest p-value is 1 / (n + 1)."""


def threshold(benign: Scores, level: float = LEVEL) -> float:
    """The score above which the p-value against ``benign`` (n,) is at most ``level``: their k-th largest, k = floor(level (n + 1)).

    ``benign`` has at least 1 / ``level`` - 1 scores.
    """
    return float(sorted(benign.tolist())[-math.floor(level * (len(benign) + 1) + 1e-9)])


def p_value(score: float, benign: Scores) -> float:
    """(1 + how many of ``benign`` (n,) are as large) / (n + 1).

    Of a model that is one more of theirs it is at most p with probability p (conformal prediction; Vovk, Gammerman and Shafer 2005).
    """
    return float((1 + (benign >= score).sum()) / (len(benign) + 1))


def auroc(negatives: Scores, positives: Scores) -> float:
    """The probability that a positive lies above a negative, ties counted half (Mann and Whitney 1947)."""
    gap = positives[:, None] - negatives[None]
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())
