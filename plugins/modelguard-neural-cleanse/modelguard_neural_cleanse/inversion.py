"""The plan of a search over all classes: starts, successive halving, restarts, and checking on images the search never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import ScanContext, Target
from modelguard_neural_cleanse.prepare import Evidence, generator, images_at_once
from modelguard_neural_cleanse.search import PAPER, Found, Schedule, Search, successes
from modelguard_neural_cleanse.transforms import Transform

STANDARD = Schedule(steps=120, batches=2, batch=8, rate=0.2, patience=3, grow=1.5, shrink=1.5**1.5)
QUICK = Schedule(steps=60, batches=2, batch=8, rate=0.3, patience=3, grow=1.5, shrink=1.5**1.5)
"""Against the authors' at most 992,000 image passes a class: 1,920 and 960, the two starts not counted. Twice or three times their
learning rate reaches the same mask sizes in a quarter of the steps (benchmarks/nc_speed.py)."""

REFINE = Schedule(steps=30, batches=2, batch=64, rate=0.1, patience=2, grow=1.5, shrink=1.5**1.5)

STARTS = (0.0, -2.0)
"""Starting points tried for every arm: half-opaque as published, and nearly transparent, which finds single pixels."""
LATE_START = 2.0
"""Where an arm begins again that is not reached by half time: nearly opaque."""
TRIAL = 4
"""A trial of the starting points takes one step in this many."""
CANDIDATES, REFERENCES = 8, 16
"""With more than these together, only the classes with the smallest triggers after the trial, and a random part of the others to
compare them with, are searched to the end: every size that enters the test has had the same number of steps."""


@dataclass(frozen=True)
class Inverted:
    """Triggers of the arms searched to the end.

    ``arms`` (n,) indexes what was asked for, ``weights`` (n,) how many arms each stands for in the statistics; ``hits`` (n, M) bool:
    which check images the trigger turns into the wanted class, where ``asked`` (n, M).
    """

    arms: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    found: Found
    hits: Tensor
    asked: Tensor

    @property
    def size(self) -> npt.NDArray[np.float64]:
        return self.found.size.double().numpy()

    @property
    def reached(self) -> npt.NDArray[np.bool_]:
        return self.found.reached.numpy()

    @property
    def success(self) -> npt.NDArray[np.float64]:
        """(n,) attack success on the check images; 0 where there was none to ask."""
        return (self.hits.sum(1) / self.asked.sum(1).clamp(min=1)).double().numpy()


@dataclass(frozen=True)
class Question:
    """``wanted`` (A, K): the class each arm wants an image of each class turned into; -1 where it does not use that class."""

    wanted: Tensor

    @classmethod
    def every_target(cls, classes: int) -> Question:
        """One arm a class: all others into it. Images of the class itself are not used."""
        wanted = torch.arange(classes)[:, None].repeat(1, classes)
        wanted.fill_diagonal_(-1)
        return cls(wanted)

    def on(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For images of these classes: ``targets`` (A, N), and ``sources`` (A, N) bool, which images each arm uses."""
        wanted = self.wanted[:, labels]
        return wanted.clamp(min=0), wanted >= 0

    def __getitem__(self, arms: Tensor) -> Question:
        return Question(self.wanted[arms])


def invert(
    target: Target, context: ScanContext, evidence: Evidence, question: Question, transform: Transform, schedule: Schedule
) -> Inverted:
    """Search all arms of ``question`` side by side and check what is found."""
    at_once = images_at_once(target, context)
    arms = len(question.wanted)
    trial = max(1, schedule.steps // TRIAL)

    # (1) every arm from every starting point, a short way; the better start goes on
    repeated = torch.arange(arms).repeat_interleave(len(STARTS))
    bias = torch.tensor(STARTS).repeat(arms)
    search = _search(target, context, evidence, question[repeated], transform, schedule, bias, at_once)
    _run(search, context, trial, "starts")
    ranking = _rank(search.found).view(arms, len(STARTS))
    search.keep(ranking.argmin(1) + torch.arange(arms) * len(STARTS))

    # (2) with many arms: the smallest, and a random part of the rest to compare them with
    kept, weights = _halve(_rank(search.found), context.rng("references"))
    search.keep(kept)

    # (3) to half time; what is stuck begins again elsewhere
    _run(search, context, schedule.steps // 2 - trial, "search")
    stuck = ~search.found.reached
    if bool(stuck.any()):
        search.restart(stuck, LATE_START)

    # (4) to the end, and the check
    _run(search, context, schedule.steps - schedule.steps // 2, "search")
    return _checked(target, evidence, question[kept], transform, search.found, kept.numpy(), weights, at_once, context)


def invert_as_published(target: Target, context: ScanContext, evidence: Evidence, question: Question, transform: Transform) -> Inverted:
    """The authors' schedule: one class after the other, at most 1000 steps of 31 mini-batches of 32, stopped early as they do."""
    at_once = images_at_once(target, context)
    arms = len(question.wanted)
    parts: list[Found] = []
    for arm in range(arms):
        search = _search(target, context, evidence, question[torch.tensor([arm])], transform, PAPER, torch.zeros(1), at_once)
        search.run(PAPER.steps)
        parts.append(search.found)
        context.progress(arm + 1, arms, "class by class")
    found = Found(
        [torch.cat(column) for column in zip(*(part.parameters for part in parts), strict=True)],
        torch.cat([part.size for part in parts]),
        torch.cat([part.reached for part in parts]),
        torch.cat([part.guided for part in parts]),
    )
    return _checked(target, evidence, question, transform, found, np.arange(arms), np.ones(arms), at_once, context)


def refine(
    target: Target,
    context: ScanContext,
    evidence: Evidence,
    question: Question,
    transform: Transform,
    inverted: Inverted,
    places: list[int],
) -> Inverted:
    """Go on from the triggers at ``places`` of ``inverted`` with larger batches, so that success is no luck of few images."""
    chosen = torch.tensor(places)
    at_once = images_at_once(target, context)
    own = question[torch.from_numpy(inverted.arms)[chosen]]
    search = _search(target, context, evidence, own, transform, REFINE, torch.zeros(len(places)), at_once)
    search.parameters = [value[chosen].clone() for value in inverted.found.parameters]
    _run(search, context, REFINE.steps, "refine")
    return _checked(target, evidence, own, transform, search.found, inverted.arms[places], inverted.weights[places], at_once, context)


def _search(
    target: Target,
    context: ScanContext,
    evidence: Evidence,
    question: Question,
    transform: Transform,
    schedule: Schedule,
    bias: Tensor,
    at_once: int,
) -> Search:
    targets, sources = question.on(evidence.search_labels)
    return Search(
        target.model,
        evidence.search,
        targets,
        sources,
        transform,
        schedule,
        generator(context, f"{transform.kind}/{len(targets)}"),
        bias=bias,
        images_at_once=at_once,
        tick=context.check_deadline,
    )


def _run(search: Search, context: ScanContext, steps: int, note: str) -> None:
    for done in range(steps):
        search.run(1)
        context.progress(done + 1, steps, note)


def _rank(found: Found) -> Tensor:
    """Size, with every arm that was not reached behind every one that was."""
    return torch.where(found.reached, found.size, found.size + 10)


def _halve(rank: Tensor, rng: np.random.Generator) -> tuple[Tensor, npt.NDArray[np.float64]]:
    arms = len(rank)
    if arms <= CANDIDATES + REFERENCES:
        return torch.arange(arms), np.ones(arms)
    order = rank.argsort(stable=True).numpy()
    others = rng.choice(order[CANDIDATES:], REFERENCES, replace=False)
    kept = np.sort(np.concatenate([order[:CANDIDATES], others]))
    weights = np.where(np.isin(kept, others), (arms - CANDIDATES) / REFERENCES, 1.0)
    return torch.from_numpy(kept), weights


def _checked(
    target: Target,
    evidence: Evidence,
    question: Question,
    transform: Transform,
    found: Found,
    arms: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    at_once: int,
    context: ScanContext,
) -> Inverted:
    targets, asked = question.on(evidence.check_labels)
    hits = successes(target.model, found, transform, evidence.check, targets, asked, at_once, context.check_deadline)
    return Inverted(arms, weights, found, hits, asked)
