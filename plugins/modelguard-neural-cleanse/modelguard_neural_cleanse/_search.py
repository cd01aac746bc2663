"""Trigger inversion for many arms at once. An arm is one question: what small change turns these sources into that target?

The objective is Wang et al. 2019, equation 3, per arm a:  mean cross-entropy(f(A(x)), target_a) + lambda_a * size_a,
with the authors' schedule of lambda. Arms share nothing but the forward pass they are folded into, so a batch of arms finds
what the same arms would find one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import torch
from modelguard_triggers.case import Case
from torch import Tensor
from torch.nn import functional as F

from modelguard_neural_cleanse._transforms import Transform

GATE = 0.99  # attack success at which a trigger counts and lambda may grow (authors' ATTACK_SUCC_THRESHOLD)
COST = 1.0  # first lambda, per unit of size: the authors' INIT_COST 1e-3 per pixel of mask at 32 x 32
BETAS = (0.5, 0.9)  # authors' Adam


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to search. A step is ``batches`` mini-batches of ``batch`` images an arm, judged together."""

    steps: int
    batches: int
    batch: int
    rate: float
    patience: int
    grow: float
    shrink: float
    early_stop: int | None = None

    @property
    def passes(self) -> int:
        """Images through the model for one arm, forward and backward, at most."""
        return self.steps * self.batches * self.batch


PAPER = Schedule(steps=1000, batches=31, batch=32, rate=0.1, patience=5, grow=2.0, shrink=2.0**1.5, early_stop=25)
"""The authors' gtsrb_visualize_example.py and visualizer.py: NB_SAMPLE 1000, MINI_BATCH 31, PATIENCE 5, COST_MULTIPLIER 2,
EARLY_STOP_PATIENCE 25. ``shrink`` is what their code does (2 ** 1.5), not what its comment says."""


@dataclass(frozen=True)
class Found:
    """The smallest successful trigger of each arm: parameters, size (A,) and whether there was one (A,) bool, these two on the CPU.

    Where there was none, parameters and size are those of the arm's last step. ``guided`` (A,) bool, on the CPU: whether the model
    ever gave the arm a gradient to go by; without one, not being reached says nothing.
    """

    parameters: list[Tensor]
    size: Tensor
    reached: Tensor
    guided: Tensor


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


class Search:
    """The state of a search for the answers to ``question``, from starting points of ``bias`` (A,), zero where there is none."""

    def __init__(
        self,
        case: Case,
        question: Question,
        transform: Transform,
        schedule: Schedule,
        generator: torch.Generator,
        bias: Tensor | None = None,
    ) -> None:
        self.case, self.transform, self.schedule, self.generator = case, transform, schedule, generator
        self.images = case.evidence.search
        self.targets, self.sources = question.on(case.evidence.search_labels)
        arms = len(self.targets)
        self.parameters = self._start(torch.zeros(arms) if bias is None else bias)
        self.first = [torch.zeros_like(value) for value in self.parameters]  # Adam's moments
        self.second = [torch.zeros_like(value) for value in self.parameters]
        self.age = torch.zeros(arms)
        self.cost = torch.zeros(arms)  # lambda
        self.up, self.down = torch.zeros(arms), torch.zeros(arms)
        self.raised, self.lowered = torch.zeros(arms, dtype=torch.bool), torch.zeros(arms, dtype=torch.bool)
        self.best = [value.clone() for value in self.parameters]
        self.best_size = torch.full((arms,), torch.inf)
        self.idle = torch.zeros(arms)  # steps without a smaller trigger
        self.guided = torch.zeros(arms, dtype=torch.bool)

    def run(self, steps: int, note: str = "search") -> None:
        """``steps`` more steps for every arm; with ``early_stop``, until no arm is active. ``note`` names the work in progress."""
        for done in range(steps):
            if self.schedule.early_stop is not None and bool(self.stopped.all()):
                return
            self._step(partial(self.case.tick, done, steps, note))

    @property
    def stopped(self) -> Tensor:
        """(A,) bool, the authors' early stop: lambda has gone both ways, and patience is used up."""
        return self.raised & self.lowered & (self.idle >= (self.schedule.early_stop or torch.inf))

    @property
    def found(self) -> Found:
        reached = torch.isfinite(self.best_size)
        parameters = [_where(reached, best, last) for best, last in zip(self.best, self.parameters, strict=True)]
        return Found(parameters, torch.where(reached, self.best_size, self.transform.size(self.parameters).cpu()), reached, self.guided)

    def keep(self, arms: Tensor) -> None:
        """Go on with these arms only (indices)."""
        for name, value in vars(self).items():
            if name in _PER_ARM:
                setattr(self, name, [part[arms] for part in value] if isinstance(value, list) else value[arms])

    def restart(self, arms: Tensor, bias: float) -> None:
        """Begin again where ``arms`` (A,) bool, with another starting point; what was found is kept."""
        fresh = self._start(torch.full((len(self.targets),), bias))
        self.parameters = [_where(arms, new, old) for new, old in zip(fresh, self.parameters, strict=True)]
        for moments in (self.first, self.second):
            for moment in moments:
                moment[arms] = 0
        for counter in (self.age, self.cost, self.up, self.down):
            counter[arms] = 0

    def _start(self, bias: Tensor) -> list[Tensor]:
        parts: list[list[Tensor]] = [self.transform.start(1, float(value), self.generator) for value in bias]
        return [torch.cat(column).to(self.images.device) for column in zip(*parts, strict=True)]

    def _step(self, tick: Callable[[], None]) -> None:
        success = torch.zeros(len(self.targets))
        size = torch.zeros(len(self.targets))
        before = self.parameters
        for _ in range(self.schedule.batches):
            before = self.parameters
            hits, size, gradients = self._gradients(tick)
            success += hits / self.schedule.batches
            self._adam(gradients)
        won = success >= GATE
        # (1) the smallest trigger that works
        better = won & (size < self.best_size)
        self.idle = torch.where(better, 0, self.idle + 1)
        self.best_size = torch.where(better, size, self.best_size)
        self.best = [_where(better, now, old) for now, old in zip(before, self.best, strict=True)]
        # (2) lambda: from 0 to COST after `patience` successes in a row, then up or down after as many successes or failures
        patience = self.schedule.patience
        self.up = torch.where(won, self.up + 1, 0)
        self.down = torch.where(won, 0, self.down + 1)
        begin = (self.cost == 0) & (self.up >= patience)
        raised = (self.cost > 0) & (self.up >= patience)
        lowered = (self.cost > 0) & (self.down >= patience)
        self.cost = torch.where(begin, COST, self.cost)
        self.cost = torch.where(raised, self.cost * self.schedule.grow, self.cost)
        self.cost = torch.where(lowered, self.cost / self.schedule.shrink, self.cost)
        self.up = torch.where(begin | raised, 0, self.up)
        self.down = torch.where(lowered, 0, self.down)
        self.raised, self.lowered = self.raised | raised, self.lowered | lowered

    def _gradients(self, tick: Callable[[], None]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Success (A,) and size (A,) on one fresh mini-batch, and the gradient of the objective for each parameter."""
        batch = self.schedule.batch
        drawn = torch.multinomial(self.sources.float(), batch, replacement=True, generator=self.generator)  # (A, B)

        def of_part(part: slice) -> tuple[Tensor, Tensor, list[Tensor]]:
            # In one piece, but for a single arm whose batch alone is more than a pass may hold.
            pieces = [self._pass(part, piece) for piece in torch.split(drawn[part], self.case.batch, 1)]
            hits = torch.cat([won for won, _, _ in pieces], 1).mean(1).cpu()
            return hits, pieces[0][1], [reduce(add, column) for column in zip(*(gradient for _, _, gradient in pieces), strict=True)]

        parts = self.case.shares(len(self.targets), self.case.batch // batch)
        hits, sizes, gradients = zip(*self.case.side_by_side(of_part, parts, lambda done: tick()), strict=True)
        return torch.cat(hits), torch.cat(sizes), [torch.cat(column) for column in zip(*gradients, strict=True)]

    def _pass(self, part: slice, drawn: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """For the arms in ``part`` on the images ``drawn`` (a, b), all or some of their batch: 1 where the wanted class came out (a, b),
        size (a,), and what these images add to the gradient of the objective for each parameter.
        """
        batch = self.schedule.batch
        leaves = [value[part].requires_grad_() for value in self.parameters]
        stamped = self.transform.apply(leaves, self.images[drawn])  # (a, b, C, H, W)
        logits = self.case.model(stamped.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        wanted = self.targets[part].gather(1, drawn).flatten().to(logits.device)  # (a*b,)
        size = self.transform.size(leaves)
        price = (self.cost[part].to(size.device) * size).sum() * (drawn.shape[1] / batch)
        objective = F.cross_entropy(logits, wanted, reduction="sum") / batch + price
        # The gradient of the images comes through the model alone, that of the parameters from their size too.
        *gradients, images = torch.autograd.grad(objective, [*leaves, stamped], materialize_grads=True)
        if not self.guided[part].all():
            self.guided[part] |= (images.abs() > 0).flatten(1).any(1).cpu()
        return (logits.detach().argmax(1) == wanted).float().view(drawn.shape), size.detach().cpu(), gradients

    def _adam(self, gradients: list[Tensor]) -> None:
        beta1, beta2 = BETAS
        self.age += 1
        updated = []
        for value, gradient, first, second in zip(self.parameters, gradients, self.first, self.second, strict=True):
            first.lerp_(gradient, 1 - beta1)
            second.lerp_(gradient.square(), 1 - beta2)
            age = _like(self.age, value)
            step = (first / (1 - beta1**age)) / ((second / (1 - beta2**age)).sqrt() + 1e-8)
            updated.append((value.detach() - self.schedule.rate * step).detach())
        self.parameters = updated


_PER_ARM = frozenset((
    "targets", "sources", "parameters", "first", "second", "age", "cost", "up", "down", "raised", "lowered", "best", "best_size", "idle",
    "guided",
))  # fmt: skip


def _like(arms: Tensor, value: Tensor) -> Tensor:
    """(A,) with as many trailing axes as ``value`` (A, ...)."""
    return arms.to(value.device).view(-1, *[1] * (value.ndim - 1))


def _where(arms: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(_like(arms, yes), yes, no)


def successes(case: Case, found: Found, transform: Transform, targets: Tensor, sources: Tensor) -> Tensor:
    """(A, N) bool: whether each trigger turns each image to check on into the wanted class; false where ``sources`` excludes the image."""
    result = torch.zeros(sources.shape, dtype=torch.bool)

    def checked(job: tuple[int, Tensor]) -> None:
        arm, part = job
        with torch.inference_mode():
            parameters = [value[arm : arm + 1] for value in found.parameters]
            stamped = transform.apply(parameters, case.evidence.check[part][None])[0]
            logits = case.model(stamped.contiguous(memory_format=torch.channels_last))
            result[arm, part] = logits.argmax(1).cpu() == targets[arm, part]

    jobs = [(arm, part) for arm in range(len(targets)) for part in torch.split(sources[arm].nonzero().flatten(), case.batch)]
    case.side_by_side(checked, jobs, lambda done: case.tick(done, len(jobs), "check"))
    return result
