"""The best square window for every class: where in the image, and with what in it, does it turn most images into the class?

A patch of free shape gathers the few pixels a class is really told by; held to one window, the classes of a clean model are reached far
more seldom, and a trigger's is still always reached (docs/detection-matrix.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from modelguard_triggers.ascent import Questions, Round
from modelguard_triggers.windows import Windows, search_windows, side_of

if TYPE_CHECKING:
    from modelguard_triggers.case import Case

SMALLEST = 3
"""Smallest side in pixels. On images of 8 x 8 it is 14 % of them, and the classes of clean models are reached more easily."""
ROUNDS = (Round(4, 4, 0.5, keep=8, starts=3), Round(8, 4, 0.5, keep=6), Round(16, 8, 0.25, keep=3), Round(24, 8, 0.1, keep=3))
SHORT = (Round(2, 4, 0.5, keep=3, starts=2), Round(8, 4, 0.3, keep=2), Round(12, 8, 0.15, keep=2))
"""Half of the random patterns end in a local optimum, a checkerboard's for example: two more starts find the way out."""


def best_windows(case: Case, classes: Sequence[int], rounds: Sequence[Round], generator: torch.Generator) -> tuple[Windows, list[int]]:
    """The finalists among the windows of every class of ``classes``, and the class of each."""
    evidence = case.evidence
    questions = Questions.every_other(torch.tensor(classes), evidence.search_labels)
    found = search_windows(case, questions, side_of(*evidence.shape[1:], SMALLEST), rounds, generator)
    return found.arms, questions.wanted[found.question].tolist()
