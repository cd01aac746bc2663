"""The best square window for every class: where in the picture, and with what in it, does it turn most pictures into the class?

A patch of free shape gathers the few pixels a class is really told by from all over the picture, and on small pictures does so with as
few as a true trigger has. A trigger that somebody stamps is compact. Held to one window, the classes of a clean model are reached far
more seldom, and a trigger's is still always reached (docs/detection-matrix.md). The window is a universal adversarial patch (Brown et al.
2017, "Adversarial Patch") at a fixed place, every place tried; the worse places are rejected in rounds (Karnin, Koren & Somekh 2013,
"Almost optimal exploration in multi-armed bandits", sequential halving).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modelguard_abs.inversion import ENOUGH, margins, usual_margin
from modelguard_abs.triggers import Windows

if TYPE_CHECKING:
    from modelguard import RunnableModel

SIDE = 1 / 8
"""Side of the window as a part of the picture's: 4 of 28 and of 32 pixels."""
SMALLEST = 3
"""Smallest side in pixels. On pictures of 8 x 8 it is 14 % of them, and the classes of clean models are reached more easily."""
FEW = 64
"""Up to this many places all are tried, of more those a side less a pixel apart: a trigger's window is never missed by more than half."""


@dataclass(frozen=True)
class Round:
    """``steps`` of gradient ascent on ``pictures`` each, by at first ``rate`` of the picture's range and a tenth of it in the end; then the
    best ``keep`` windows of a class go on, each from ``starts`` patterns: its own, and random ones as far aside as places were left out."""

    steps: int
    pictures: int
    rate: float
    keep: int
    starts: int = 1


ROUNDS = (Round(4, 4, 0.5, keep=8, starts=3), Round(8, 4, 0.5, keep=6), Round(16, 8, 0.25, keep=3), Round(24, 8, 0.1, keep=3))
QUICK = (Round(2, 4, 0.5, keep=3, starts=2), Round(8, 4, 0.3, keep=2), Round(12, 8, 0.15, keep=2))
"""Half of the random patterns end in a local optimum, a checkerboard's for example: two more starts find the way out."""
MOMENTUM = 0.9

Tick = Callable[[int, int], None]


def side_of(height: int, width: int) -> int:
    """Side of the window for pictures of this size, in pixels."""
    return max(SMALLEST, round(SIDE * min(height, width)))


def stride_of(height: int, width: int, side: int) -> int:
    """Pixels between one place that is tried and the next."""
    return 1 if (height - side + 1) * (width - side + 1) <= FEW else max(1, side - 1)


def places(height: int, width: int, side: int) -> Tensor:
    """(P, 2) rows and columns of the upper left corners tried at first."""
    stride = stride_of(height, width, side)
    rows, columns = (sorted({*range(0, extent - side, stride), extent - side}) for extent in (height, width))
    return torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns)).reshape(-1, 2)


def best_windows(
    model: RunnableModel,
    classes: Sequence[int],
    pictures: Tensor,
    labels: Tensor,
    *,
    rounds: Sequence[Round] = ROUNDS,
    batch: int,
    generator: torch.Generator,
    tick: Tick,
) -> tuple[Windows, list[int]]:
    """The finalists among the windows of every class of ``classes``, and the class of each.

    ``pictures`` (S, C, H, W) raw with ``labels`` (S,); ``batch`` of them go through the model at a time.
    """
    shape = tuple(pictures.shape[1:])
    _, height, width = shape
    side = side_of(height, width)
    corners = places(height, width, side)  # (P, 2)
    target = torch.tensor(classes).repeat_interleave(len(corners))  # (A,) every class at every place, side by side
    windows = Windows(model.input, shape, side, corners.repeat(len(classes), 1), generator, pictures.device)
    usual = usual_margin(model, pictures, labels, batch)
    work = sum(item.steps for item in rounds)
    done, aside = 0, stride_of(height, width, side) // 2
    for item in rounds:

        def step_done(step: int, begun: int = done) -> None:
            tick(begun + step, work)

        reached = _ascend(model, windows, target, pictures, labels, usual, item, batch, generator, step_done)
        done += item.steps
        each = len(reached) // len(classes)
        best = reached.view(len(classes), each).topk(min(item.keep, each), dim=1).indices  # (K, kept)
        arms = (best + each * torch.arange(len(classes))[:, None]).flatten().repeat_interleave(item.starts)
        windows, target = windows.only(arms.to(pictures.device)), target[arms]
        if item.starts > 1:
            fresh = torch.arange(len(arms)) % item.starts > 0
            windows.restart(fresh.to(pictures.device), aside, generator)
    return windows, target.tolist()


def _ascend(
    model: RunnableModel,
    windows: Windows,
    target: Tensor,
    pictures: Tensor,
    labels: Tensor,
    usual: float,
    round_: Round,
    batch: int,
    generator: torch.Generator,
    tick: Callable[[int], None],
) -> Tensor:
    """Raise the target's margin in place, by the sign of the gradient with momentum (Dong et al. 2018, MI-FGSM, equations 6 and 7), each
    step on some pictures an arm. Returns (A,) the mean margin of the later half of the steps, in units of ``usual``."""
    device, steps, each = pictures.device, round_.steps, round_.pictures
    allowed = (labels.cpu()[None] != target[:, None]).float()  # (A, S)
    wanted = target.to(device)
    (pattern,) = windows.parameters
    momentum = torch.zeros_like(pattern)
    reached = torch.zeros(len(target))
    arms_at_once = max(1, batch // each)
    for step in range(steps):
        drawn = torch.multinomial(allowed, each, replacement=True, generator=generator).to(device)  # (A, B)
        size = round_.rate * 0.1 ** (step / steps)
        for begin in range(0, len(target), arms_at_once):
            tick(step)
            part = slice(begin, begin + arms_at_once)
            arms = torch.arange(len(target), device=device)[part].repeat_interleave(each)  # (A'*B,)
            own = pattern[part].clone().requires_grad_(True)
            stamped = windows.stamp_with(own, arms - begin, windows.at[arms], pictures[drawn[part].flatten()])
            margin = margins(model(stamped.contiguous(memory_format=torch.channels_last)), wanted[arms]) / usual
            (gradient,) = torch.autograd.grad(margin.clamp_max(ENOUGH).sum(), own)
            with torch.no_grad():
                scale = gradient.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
                momentum[part] = MOMENTUM * momentum[part] + gradient / scale
                pattern[part] += size * momentum[part].sign()
                if step >= steps // 2:
                    reached[part] += margin.detach().clamp(-ENOUGH, ENOUGH).view(-1, each).mean(1).cpu()
        with torch.no_grad():
            windows.constrain()
    return reached / (steps - steps // 2)
