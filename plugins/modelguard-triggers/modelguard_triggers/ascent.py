"""Sign-gradient ascent for many arms at once, the worse arms left behind in rounds.

A step follows the sign of the gradient with momentum (Dong et al. 2018, MI-FGSM, equations 6 and 7); rounds reject the worse arms of each
question (Karnin, Koren & Somekh 2013, "Almost optimal exploration in multi-armed bandits", sequential halving).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from modelguard_triggers.arms import Climbers
from modelguard_triggers.case import Case, margins

ENOUGH = 2.0
"""Margins and activations beyond this many times the usual ones earn nothing more."""
MOMENTUM = 0.9
LAST_RATE = 0.1
"""The rate of a round's last step, as a part of the first's."""

C = TypeVar("C", bound=Climbers)


@dataclass(frozen=True)
class Round:
    """``steps`` of gradient ascent on ``images`` each, by at first ``rate`` (of the arms' pace) and a tenth of it in the end; then the
    best ``keep`` arms of a question go on, each from ``starts`` beginnings: its own, and random ones."""

    steps: int
    images: int
    rate: float
    keep: int
    starts: int = 1


def passes(rounds: Sequence[Round], arms: int) -> int:
    """Images that go through the model in ``rounds`` that begin with so many arms, forward and backward."""
    total = 0
    for item in rounds:
        total += arms * item.steps * item.images
        arms = min(item.keep, arms) * item.starts
    return total


@dataclass(frozen=True)
class Questions:
    """Turn the images ``allowed`` (Q, S) of those to search on into the class ``wanted`` (Q,). Both on the CPU."""

    wanted: Tensor
    allowed: Tensor

    @classmethod
    def every_other(cls, wanted: Tensor, labels: Tensor) -> Questions:
        """Turn the images of all other classes into each of ``wanted`` (Q,); ``labels`` (S,) are those of the images."""
        return cls(wanted, (labels[None] != wanted[:, None]).float())


@dataclass(frozen=True)
class Climbed(Generic[C]):
    """The ``arms`` (A) that are left, each an answer to ``question`` (A,), those of one question side by side, the best first.

    ``margin`` (A,) is what each reached on the images it was searched on, in units of the usual margin. ``guided`` (Q,) bool: whether the
    model ever gave a question a gradient to go by; without one, having found nothing says nothing. All on the CPU.
    """

    arms: C
    question: Tensor
    margin: Tensor = field(default_factory=lambda: torch.zeros(0))
    guided: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


def climb(
    case: Case, questions: Questions, begun: Climbed[C], rounds: Sequence[Round], generator: torch.Generator, note: str
) -> Climbed[C]:
    """Go on from ``begun``, which has as many arms for every question, through ``rounds``. ``note`` names the work in progress."""
    arms, question, margin = begun.arms, begun.question, begun.margin
    count = len(questions.wanted)
    guided = torch.zeros(count, dtype=torch.bool)
    work, done = sum(item.steps for item in rounds), 0
    for item in rounds:

        def tick(step: int, before: int = done) -> None:
            case.tick(before + step, work, note)

        own = Questions(questions.wanted[question], questions.allowed[question])
        margin, led = _round(case, arms, own, item, generator, tick)
        guided[question[led]] = True
        done += item.steps
        each = len(margin) // count
        order = margin.view(count, each).topk(min(item.keep, each), dim=1).indices  # (Q, kept)
        kept = (order + each * torch.arange(count)[:, None]).flatten().repeat_interleave(item.starts)
        arms, question, margin = arms.only(kept.to(arms.parameters[0].device)), question[kept], margin[kept]
        if item.starts > 1:
            fresh = torch.arange(len(kept)) % item.starts > 0
            arms.restart(fresh.to(arms.parameters[0].device), generator)
    return Climbed(arms, question, margin, guided)


def _round(
    case: Case, arms: Climbers, questions: Questions, item: Round, generator: torch.Generator, tick: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Raise the margin of each arm's question in place. Returns (A,) the mean margin of the later half of the steps, in units of the
    usual, and (A,) bool, whether there was a gradient."""
    images, count = case.evidence.search, len(questions.wanted)
    device = images.device
    wanted = questions.wanted.to(device)
    (value,) = arms.parameters
    momentum = torch.zeros_like(value)
    reached, led = torch.zeros(count), torch.zeros(count, dtype=torch.bool)

    def climbed(drawn: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The gradient for the arms in ``part``, and the margins (a, B) they have on their images of those ``drawn`` (A, B)."""
        gradient, gained = torch.zeros_like(value[part]), []
        # In one piece, but where a single arm's images are more than a pass may hold.
        for piece in torch.split(drawn[part], case.batch, 1):
            own = value[part].clone().requires_grad_(True)
            stamped = arms.stamp_each(own, part, images[piece])  # (a*b, C, H, W)
            logits = case.model(stamped.contiguous(memory_format=torch.channels_last))
            margin = margins(logits, wanted[part].repeat_interleave(piece.shape[1])) / case.usual_margin
            objective = margin.clamp_max(ENOUGH).sum()
            if objective.requires_grad:  # a model may give no gradient at all
                gradient += torch.autograd.grad(objective, own)[0]
            gained.append(margin.detach().clamp(-ENOUGH, ENOUGH).view(piece.shape).cpu())
        return gradient, torch.cat(gained, 1)

    parts = case.shares(count, case.batch // item.images)
    _ = case.usual_margin  # once, before threads ask for it
    for step in range(item.steps):
        drawn = torch.multinomial(questions.allowed, item.images, replacement=True, generator=generator).to(device)  # (A, B)
        size = arms.pace * item.rate * LAST_RATE ** (step / item.steps)
        found = case.side_by_side(partial(climbed, drawn), parts, partial(_in_step, tick, step))
        gradient = torch.cat([slope for slope, _ in found])
        with torch.no_grad():
            scale = gradient.abs().mean(tuple(range(1, gradient.ndim)), keepdim=True)
            led |= (scale > 0).flatten().cpu()
            momentum = MOMENTUM * momentum + gradient / scale.clamp_min(1e-12)
            value += size * momentum.sign()
            arms.constrain()
        if step >= item.steps // 2:
            reached += torch.cat([gained for _, gained in found]).mean(1)
    return reached / (item.steps - item.steps // 2), led


def _in_step(tick: Callable[[int], None], step: int, done: int) -> None:
    tick(step)
