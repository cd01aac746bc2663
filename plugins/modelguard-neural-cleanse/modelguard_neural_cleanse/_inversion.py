"""The plan of a search over all classes: starts, successive halving, restarts, and checking on images the search never saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.case import Case
from modelguard_triggers.evidence import CANDIDATES, REFERENCES, shortlist
from modelguard_triggers.facts import success_rate
from modelguard_triggers.plan import Stage
from torch import Tensor

from modelguard_neural_cleanse._search import PAPER, Found, Question, Schedule, Search, successes
from modelguard_neural_cleanse._transforms import Transform

STANDARD = Schedule(steps=120, batches=2, batch=8, rate=0.2, patience=3, grow=1.5, shrink=1.5**1.5)
SHORT = Schedule(steps=60, batches=2, batch=8, rate=0.3, patience=3, grow=1.5, shrink=1.5**1.5)
SCHEDULES = {Stage.SCREEN: SHORT, Stage.FULL: STANDARD}
"""Against the authors' at most 992,000 image passes a class: 1,920 and 960, the two starts not counted. Twice or three times their
learning rate reaches the same mask sizes in a quarter of the steps (benchmarks/nc_speed.py)."""

REFINE = Schedule(steps=30, batches=2, batch=64, rate=0.1, patience=2, grow=1.5, shrink=1.5**1.5)

STARTS = (0.0, -2.0)
"""Starting points tried for every arm: half-opaque as published, and nearly transparent, which finds single pixels."""
LATE_START = 2.0
"""Where an arm begins again that is not reached by half time: nearly opaque."""
TRIAL = 4
"""A trial of the starting points takes one step in this many."""


@dataclass(frozen=True)
class Inverted:
    """Triggers of the arms searched to the end, of one family of transformations.

    ``arms`` (n,) indexes what was asked for, ``weights`` (n,) how many arms each stands for in the statistics; ``hits`` (n, M) bool:
    which check images the trigger turns into the wanted class, where ``asked`` (n, M). ``begun`` (m,) are the arms that were searched at
    all, a short way at least.
    """

    transform: Transform
    arms: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    found: Found
    hits: Tensor
    asked: Tensor
    begun: npt.NDArray[np.int64]

    @property
    def size(self) -> npt.NDArray[np.float64]:
        return self.found.size.double().numpy()

    @property
    def reached(self) -> npt.NDArray[np.bool_]:
        return self.found.reached.numpy()

    @property
    def success(self) -> npt.NDArray[np.float64]:
        """(n,) attack success on the check images; 0 where there was none to ask."""
        return success_rate(self.hits, self.asked)

    def parameters(self, place: int) -> list[Tensor]:
        """Those of the trigger at one place, (1, ...) each."""
        return [value[place : place + 1] for value in self.found.parameters]

    def stamp(self, place: int, images: Tensor) -> Tensor:
        """``images`` (N, C, H, W), each carrying the trigger at one place."""
        with torch.inference_mode():
            return self.transform.apply(self.parameters(place), images[None])[0]


def passes(schedule: Schedule, arms: int) -> int:
    """Images that go through the model in :func:`invert` for so many arms, forward and backward."""
    trial, many = max(1, schedule.steps // TRIAL), min(arms, CANDIDATES + REFERENCES)
    return (arms * len(STARTS) * trial + many * (schedule.steps - trial)) * schedule.batches * schedule.batch


def invert(case: Case, question: Question, transform: Transform, schedule: Schedule, what: str = "classes") -> Inverted:
    """Search all arms of ``question`` that there is time for side by side and check what is found."""
    begun = case.affordable(partial(passes, schedule), len(question.wanted), what)
    question = question[torch.from_numpy(begun)]
    arms = len(begun)
    trial = max(1, schedule.steps // TRIAL)

    # (1) every arm from every starting point, a short way; the better start goes on
    repeated = torch.arange(arms).repeat_interleave(len(STARTS))
    search = _search(case, question[repeated], transform, schedule, torch.tensor(STARTS).repeat(arms))
    search.run(trial, "starts")
    ranking = _rank(search.found).view(arms, len(STARTS))
    search.keep(ranking.argmin(1) + torch.arange(arms) * len(STARTS))

    # (2) with many arms: the smallest, and a random part of the rest to compare them with
    kept, references = shortlist(_rank(search.found).numpy(), case.rng("references"))
    weights = np.where(references, (arms - CANDIDATES) / REFERENCES, 1.0) if len(kept) < arms else np.ones(arms)
    search.keep(torch.from_numpy(kept))

    # (3) to half time; what is stuck begins again elsewhere
    search.run(schedule.steps // 2 - trial)
    stuck = ~search.found.reached
    if bool(stuck.any()):
        search.restart(stuck, LATE_START)

    # (4) to the end, and the check
    search.run(schedule.steps - schedule.steps // 2)
    return replace(checked(case, question[torch.from_numpy(kept)], transform, search.found, begun[kept], weights), begun=begun)


def invert_as_published(case: Case, question: Question, transform: Transform) -> Inverted:
    """The authors' schedule: one class after the other, at most 1000 steps of 31 mini-batches of 32, stopped early as they do."""
    arms = len(question.wanted)
    parts: list[Found] = []
    for arm in range(arms):
        search = _search(case, question[torch.tensor([arm])], transform, PAPER, torch.zeros(1))
        search.run(PAPER.steps, f"class {arm} of {arms}")
        parts.append(search.found)
    found = Found(
        [torch.cat(column) for column in zip(*(part.parameters for part in parts), strict=True)],
        torch.cat([part.size for part in parts]),
        torch.cat([part.reached for part in parts]),
        torch.cat([part.guided for part in parts]),
    )
    return checked(case, question, transform, found, np.arange(arms), np.ones(arms))


def refine(case: Case, question: Question, inverted: Inverted, places: list[int]) -> Inverted:
    """Go on from the triggers at ``places`` of ``inverted`` with larger batches, so that success does not hang on a few images."""
    chosen = torch.tensor(places)
    own = question[torch.from_numpy(inverted.arms)[chosen]]
    search = _search(case, own, inverted.transform, REFINE, torch.zeros(len(places)))
    search.parameters = [value[chosen].clone() for value in inverted.found.parameters]
    search.run(REFINE.steps, "refine")
    return checked(case, own, inverted.transform, search.found, inverted.arms[places], inverted.weights[places])


def checked(
    case: Case,
    question: Question,
    transform: Transform,
    found: Found,
    arms: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
) -> Inverted:
    """``found`` with what it does to the images to check on."""
    targets, asked = question.on(case.evidence.check_labels)
    return Inverted(transform, arms, weights, found, successes(case, found, transform, targets, asked), asked, arms)


def _search(case: Case, question: Question, transform: Transform, schedule: Schedule, bias: Tensor) -> Search:
    return Search(case, question, transform, schedule, case.generator(f"{transform.kind}/{len(question.wanted)}"), bias)


def _rank(found: Found) -> Tensor:
    """Size, with every arm that was not reached behind every one that was."""
    return torch.where(found.reached, found.size, found.size + 10)
