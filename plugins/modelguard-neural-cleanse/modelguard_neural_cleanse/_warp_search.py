"""The warp of a given strength that turns most images into a class, for all classes at once.

How far pixels move is fixed and success is compared, the other way round than in Neural Cleanse: a search for the smallest warp that works
on every image (Wang et al. 2019, equation 3) ends at about the same size for the target of a WaNet model as for other classes, since warps
strong enough to turn every image reach any class; weaker ones reach the target alone. A whole image hangs on the 32 numbers of a warp, and
many starts end in a local optimum: several are tried, and the worse are left behind in rounds (:mod:`modelguard_triggers.ascent`).
"""

from __future__ import annotations

import torch
from modelguard_triggers.arms import Climbers
from modelguard_triggers.ascent import Climbed, Questions, Round, climb
from modelguard_triggers.case import Case
from torch import Tensor

from modelguard_neural_cleanse._transforms import Warp

STARTS = 8
ROUNDS = (Round(6, 4, 0.4, keep=3), Round(12, 8, 0.3, keep=2), Round(20, 8, 0.15, keep=1))
"""Knots move by at first ``rate`` of the strength. 800 image passes a class.

Three times the starts, or twice the images in the last round, reach no more."""
TRIAL_STARTS = 4
TRIAL = (Round(6, 4, 0.4, keep=1),)
SCREEN_STARTS = 6
SCREEN = (Round(6, 4, 0.4, keep=2), Round(12, 8, 0.3, keep=1))
"""336 image passes a class."""


class Warps(Climbers):
    """Warps of at most ``strength``, the mean displacement as a part of the image's side: control grids (A, 2, 4, 4) of :class:`Warp`."""

    def __init__(self, transform: Warp, strength: float, control: Tensor) -> None:
        self.transform, self.pace = transform, strength
        self.parameters = transform.within([control], strength)

    def stamp_each(self, own: Tensor, arms: slice, images: Tensor) -> Tensor:
        return self.transform.apply([own], images).flatten(0, 1)

    def constrain(self) -> None:
        (control,) = self.parameters
        control.copy_(self.transform.within([control], self.pace)[0])


def best_warps(
    case: Case,
    classes: Tensor,
    transform: Warp,
    strength: float,
    generator: torch.Generator,
    *,
    starts: int = STARTS,
    rounds: tuple[Round, ...] = ROUNDS,
) -> Climbed[Warps]:
    """The best warp of at most ``strength`` into each of ``classes`` (K,)."""
    question = torch.arange(len(classes)).repeat_interleave(starts)  # (A,)
    (control,) = transform.start(len(question), 0.0, generator)
    warps = Warps(transform, strength, control.to(case.evidence.search.device))
    questions = Questions.every_other(classes, case.evidence.search_labels)
    return climb(case, questions, Climbed(warps, question), rounds, generator, f"warps by {strength:.0%}")
