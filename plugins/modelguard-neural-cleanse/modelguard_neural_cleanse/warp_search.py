"""The warp of a given strength that turns most images into a class, for all classes at once.

How far pixels move is fixed and success is compared, the other way round than in Neural Cleanse: a search for the smallest warp that works
on every image (Wang et al. 2019, equation 3) ends at about the same size for the target of a WaNet model as for other classes, since warps
strong enough to turn every image reach any class; weaker ones reach the target alone. A whole image hangs on the 32 numbers of a warp, and
many starts end in a local optimum: several are tried, and the worse are left behind in rounds (Karnin, Koren & Somekh 2013, "Almost optimal
exploration in multi-armed bandits", sequential halving).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from modelguard_companions.windows import ENOUGH, MOMENTUM, Round, margins, usual_margin
from torch import Tensor

from modelguard import RunnableModel
from modelguard_neural_cleanse.prepare import Evidence
from modelguard_neural_cleanse.transforms import Warp

STARTS = 8
ROUNDS = (Round(6, 4, 0.4, keep=3), Round(12, 8, 0.3, keep=2), Round(20, 8, 0.15, keep=1))
"""Knots move by at first ``rate`` of the strength. 800 image passes a class.

Three times the starts, or twice the images in the last round, reach no more."""
TRIAL_STARTS = 4
TRIAL = (Round(6, 4, 0.4, keep=1),)
Tick = Callable[[], None]


@dataclass(frozen=True)
class BestWarps:
    """The best warp of each class asked for: ``parameters`` [(K, 2, 4, 4)] of :class:`Warp`, the ``margin`` (K,) it reached on the images
    it was searched on, relative to that of clean images, and ``guided`` (K,) bool, whether the model ever gave a gradient to go by."""

    parameters: list[Tensor]
    margin: Tensor
    guided: Tensor


def best_warps(
    model: RunnableModel,
    classes: Tensor,
    evidence: Evidence,
    transform: Warp,
    strength: float,
    *,
    starts: int = STARTS,
    rounds: tuple[Round, ...] = ROUNDS,
    batch: int,
    generator: torch.Generator,
    tick: Tick,
) -> BestWarps:
    """The best warp of at most ``strength`` into each of ``classes`` (K,), searched on ``evidence.search``; ``batch`` images go through the
    model at a time. ``strength`` is the mean displacement as a part of the image's side."""
    images, labels = evidence.search, evidence.search_labels
    target = classes.repeat_interleave(starts)  # (A,)
    (control,) = transform.within([value.to(images.device) for value in transform.start(len(target), 0.0, generator)], strength)
    usual = usual_margin(model, images, labels.to(images.device), batch)
    guided = torch.zeros(len(classes), dtype=torch.bool)
    margin = torch.zeros(len(target))
    for item in rounds:
        control, margin, led = _ascend(model, control, target, images, labels, transform, strength, usual, item, batch, generator, tick)
        guided |= led.view(len(classes), -1).any(1)
        each = len(target) // len(classes)
        best = margin.view(len(classes), each).topk(min(item.keep, each), dim=1).indices  # (K, kept)
        arms = (best + each * torch.arange(len(classes))[:, None]).flatten()
        control, target, margin = control[arms.to(control.device)], target[arms], margin[arms]
    return BestWarps([control], margin, guided)


def _ascend(
    model: RunnableModel,
    control: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    transform: Warp,
    strength: float,
    usual: float,
    item: Round,
    batch: int,
    generator: torch.Generator,
    tick: Tick,
) -> tuple[Tensor, Tensor, Tensor]:
    """Raise the target's margin by the sign of the gradient with momentum (Dong et al. 2018, MI-FGSM, equations 6 and 7), brought back to
    ``strength`` after every step. Returns ``control`` (A, 2, 4, 4), (A,) the mean margin of the later half of the steps in units of
    ``usual``, and (A,) whether there was a gradient."""
    allowed = (labels[None] != target[:, None]).float()  # (A, S)
    wanted = target.to(images.device)
    momentum = torch.zeros_like(control)
    reached, led = torch.zeros(len(target)), torch.zeros(len(target), dtype=torch.bool)
    at_once = max(1, batch // item.pictures)
    for step in range(item.steps):
        drawn = torch.multinomial(allowed, item.pictures, replacement=True, generator=generator)  # (A, B)
        size = strength * item.rate * 0.1 ** (step / item.steps)
        for begin in range(0, len(target), at_once):
            tick()
            part = slice(begin, begin + at_once)
            gradient = torch.zeros_like(control[part])
            gained = []
            # In one piece, but where a single arm's images are more than a pass may hold.
            for piece in torch.split(drawn[part], batch, 1):
                own = control[part].clone().requires_grad_(True)
                warped = transform.apply([own], images[piece.to(images.device)]).flatten(0, 1)  # (a*b, C, H, W)
                logits = model(warped.contiguous(memory_format=torch.channels_last))
                margin = margins(logits, wanted[part].repeat_interleave(piece.shape[1])) / usual
                objective = margin.clamp_max(ENOUGH).sum() + 0 * own.sum()  # a model may give no gradient at all
                gradient += torch.autograd.grad(objective, own)[0]
                gained.append(margin.detach().clamp(-ENOUGH, ENOUGH).view(piece.shape).cpu())
            scale = gradient.abs().mean((1, 2, 3), keepdim=True)
            led[part] |= (scale > 0).flatten().cpu()
            momentum[part] = MOMENTUM * momentum[part] + gradient / scale.clamp_min(1e-12)
            control[part] += size * momentum[part].sign()
            if step >= item.steps // 2:
                reached[part] += torch.cat(gained, 1).mean(1)
        (control,) = transform.within([control], strength)
    return control, reached / (item.steps - item.steps // 2), led
