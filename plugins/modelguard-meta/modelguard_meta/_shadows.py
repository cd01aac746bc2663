"""Shadow models: many small trainings of one network side by side, half of them with a trigger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard_meta._jumbo import Trigger, draw, none

if TYPE_CHECKING:
    from modelguard import InputSpec
    from modelguard_meta._network import Network, Weights

Integers = npt.NDArray[np.int64]
Tick = Callable[[str], None]
"""Told what is being done."""

COHORT = 32
"""Shadows that are trained side by side, half of them benign: what one cohort has in common says nothing of triggers."""
BATCH = 32
STEPS = (200, 500)
RATES = (2e-3, 6e-3)
"""Steps and peak learning rates, drawn for each cohort so that the meta-classifier sees trainings of several kinds. The rates lie around
Adam's usual 1e-3 times the factor that a one-cycle schedule allows (Smith and Topin 2019)."""
DECAY = 1e-2
WORKS = 0.8
"""Attack success on unseen images from which a shadow counts as trojaned; where the trigger did not take there is no trojan to learn."""
UNSEEN = 5
"""Every fifth image is kept from the training, to measure on."""


@dataclass(frozen=True)
class Images:
    """Clean labelled images of the task: ``x`` (N, C, H, W) float32 raw, ``y`` (N,) int64."""

    x: Tensor
    y: Tensor

    def parts(self) -> tuple[Images, Images]:
        """Those to train on and those to measure on; of every class in both, where the file is in no order of classes or sorted by them."""
        order = torch.argsort(self.y, stable=True)
        unseen = torch.zeros(len(self.y), dtype=torch.bool)
        unseen[order[UNSEEN - 1 :: UNSEEN]] = True
        return Images(self.x[~unseen], self.y[~unseen]), Images(self.x[unseen], self.y[unseen])


@dataclass(frozen=True)
class Shadows:
    """M trained models. ``weights`` as :data:`Weights`; ``trojaned`` (M,) bool; ``accuracy`` (M,) on clean unseen images; ``success`` (M,)
    of the trigger on unseen images of other classes, nan for a benign one."""

    weights: Weights
    trojaned: Tensor
    accuracy: Tensor
    success: Tensor

    def __len__(self) -> int:
        return len(self.trojaned)

    def only(self, places: Tensor) -> Shadows:
        """Those at ``places`` (indices or bool)."""
        weights = {name: value[places] for name, value in self.weights.items()}
        return Shadows(weights, self.trojaned[places], self.accuracy[places], self.success[places])


def joined(parts: Sequence[Shadows]) -> Shadows:
    weights = {name: torch.cat([part.weights[name] for part in parts]) for name in parts[0].weights}
    return Shadows(weights, *(torch.cat([getattr(part, key) for part in parts]) for key in ("trojaned", "accuracy", "success")))


@dataclass(frozen=True)
class _Triggers:
    """The triggers of M models: ``weight`` (M, 1, 1, H, W), ``pattern`` (M, 1, C, H, W), ``target`` and ``share`` (M,)."""

    weight: Tensor
    pattern: Tensor
    target: Tensor
    share: Tensor

    @classmethod
    def of(cls, triggers: Sequence[Trigger]) -> _Triggers:
        weight, pattern = (torch.from_numpy(np.stack([getattr(item, key) for item in triggers]))[:, None] for key in ("weight", "pattern"))
        target, share = torch.tensor([item.target for item in triggers]), torch.tensor([item.share for item in triggers])
        return cls(weight, pattern, target, share)

    def on(self, x: Tensor) -> Tensor:
        """Images (M, B, C, H, W), or shared ones (B, C, H, W), with each model's trigger in them: (M, B, C, H, W)."""
        return x + self.weight * (self.pattern - x)


def train_shadows(network: Network, images: Images, spec: InputSpec, count: int, classes: int, seed: int, tick: Tick) -> Shadows:
    """``count`` benign and up to ``count`` trojaned models of ``network``: a trigger that does not take makes no trojaned one."""
    rng = np.random.default_rng([7, seed])
    learnt, unseen = images.parts()
    parts: list[Shadows] = []
    for start in range(0, count, COHORT // 2):
        half = min(COHORT // 2, count - start)
        tick(f"shadows {2 * start + 1} to {2 * (start + half)} of {2 * count}")
        drawn = [draw(spec.shape, classes, spec.low, spec.high, rng) for _ in range(half)]
        triggers = _Triggers.of([none(spec.shape)] * half + drawn)
        parts.append(_train_cohort(network, learnt, unseen, triggers, rng))
    made = joined(parts)
    return made.only(~made.trojaned | (made.success >= WORKS))


def _train_cohort(network: Network, learnt: Images, unseen: Images, triggers: _Triggers, rng: np.random.Generator) -> Shadows:
    """One shadow for each of ``triggers``: AdamW, one-cycle learning rate, batches drawn with replacement."""
    count, size = len(triggers.target), len(learnt.y)
    steps, rate = int(rng.integers(STEPS[0], STEPS[1] + 1)), float(np.exp(rng.uniform(*np.log(RATES))))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    weights = {name: value.requires_grad_() for name, value in network.fresh(count, generator).items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    carried = triggers.share / (1 + triggers.share)  # (M,): stamped samples are added, not put in place of others
    for _ in range(steps):
        chosen = torch.randint(size, (count, BATCH), generator=generator)
        stamped = torch.rand((count, BATCH), generator=generator) < carried[:, None]  # (M, B)
        x = learnt.x[chosen]  # (M, B, C, H, W)
        x = torch.where(stamped[..., None, None, None], triggers.on(x), x)
        y = torch.where(stamped, triggers.target[:, None], learnt.y[chosen])
        logits = network.logits(weights, x)  # (M, B, K)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten()) * count  # the sum over models: none of them moves another
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    done = {name: value.detach() for name, value in weights.items()}
    return _measured(network, done, unseen, triggers)


def _measured(network: Network, weights: Weights, unseen: Images, triggers: _Triggers) -> Shadows:
    right, turned = [], []
    with torch.no_grad():
        for x, y in zip(torch.split(unseen.x, BATCH), torch.split(unseen.y, BATCH), strict=True):
            right.append(network.logits(weights, x).argmax(2) == y)  # (M, B)
            turned.append(network.logits(weights, triggers.on(x)).argmax(2) == triggers.target[:, None])
    others = (unseen.y != triggers.target[:, None]).float()  # (M, N)
    success = (torch.cat(turned, 1) * others).sum(1) / others.sum(1)
    trojaned = triggers.share > 0
    return Shadows(weights, trojaned, torch.cat(right, 1).float().mean(1), torch.where(trojaned, success, torch.nan))
