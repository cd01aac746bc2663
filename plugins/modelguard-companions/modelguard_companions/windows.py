"""The best square window for many questions at once: where, and with what in it, does it turn these pictures into that class?

The window is a universal adversarial patch (Brown et al. 2017, "Adversarial Patch") at a fixed place, every place tried; the worse places
are rejected in rounds (Karnin, Koren & Somekh 2013, "Almost optimal exploration in multi-armed bandits", sequential halving).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modelguard_companions.triggers import Windows

if TYPE_CHECKING:
    from modelguard import RunnableModel

ENOUGH = 2.0
"""Margins and activations beyond this many times the usual ones earn nothing more."""
FEW = 64
"""Up to this many places all are tried, of more those a side less a pixel apart: a trigger's window is never missed by more than half."""
MOMENTUM = 0.9

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Round:
    """``steps`` of gradient ascent on ``pictures`` each, by at first ``rate`` of the picture's range and a tenth of it in the end; then the
    best ``keep`` windows of a question go on, each from ``starts`` patterns: its own, and random ones as far aside as places were left
    out."""

    steps: int
    pictures: int
    rate: float
    keep: int
    starts: int = 1


@dataclass(frozen=True)
class Finalists:
    """``windows`` of A arms, each an answer to ``question`` (A,), those of one question side by side, the best first. ``guided`` (Q,) bool:
    whether the model ever gave a question a gradient to go by; without one, not to have found anything says nothing."""

    windows: Windows
    question: Tensor
    guided: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))


def stride_of(height: int, width: int, side: int) -> int:
    """Pixels between one place that is tried and the next."""
    return 1 if (height - side + 1) * (width - side + 1) <= FEW else max(1, side - 1)


def places(height: int, width: int, side: int) -> Tensor:
    """(P, 2) rows and columns of the upper left corners tried at first."""
    stride = stride_of(height, width, side)
    rows, columns = (sorted({*range(0, extent - side, stride), extent - side}) for extent in (height, width))
    return torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns)).reshape(-1, 2)


def search_windows(
    model: RunnableModel,
    wanted: Tensor,
    allowed: Tensor,
    pictures: Tensor,
    usual: float,
    *,
    side: int,
    rounds: Sequence[Round],
    batch: int,
    generator: torch.Generator,
    tick: Tick,
) -> Finalists:
    """The finalists among the windows of ``side`` pixels for every question: turn the ``allowed`` (Q, S) of ``pictures`` (S, C, H, W), raw,
    into the class ``wanted`` (Q,). ``usual`` is the unit of margins (:func:`usual_margin`); ``batch`` pictures go through the model at a
    time."""
    shape = tuple(pictures.shape[1:])
    _, height, width = shape
    corners = places(height, width, side)  # (P, 2)
    questions = len(wanted)
    question = torch.arange(questions).repeat_interleave(len(corners))  # (A,) every question at every place, side by side
    windows = Windows(model.input, shape, side, corners.repeat(questions, 1), generator, pictures.device)
    return improve_windows(
        model, Finalists(windows, question), wanted, allowed, pictures, usual, rounds=rounds, batch=batch, generator=generator, tick=tick
    )


def improve_windows(
    model: RunnableModel,
    begun: Finalists,
    wanted: Tensor,
    allowed: Tensor,
    pictures: Tensor,
    usual: float,
    *,
    rounds: Sequence[Round],
    batch: int,
    generator: torch.Generator,
    tick: Tick,
) -> Finalists:
    """As :func:`search_windows`, from windows given, as many for every question."""
    windows, question, guided = begun.windows, begun.question, torch.zeros(len(wanted), dtype=torch.bool)
    height, width = pictures.shape[2:]
    work = sum(item.steps for item in rounds)
    done, aside = 0, stride_of(height, width, windows.side) // 2
    for item in rounds:

        def step_done(step: int, begun: int = done) -> None:
            tick(begun + step, work)

        reached, led = _ascend(model, windows, wanted[question], pictures, allowed[question], usual, item, batch, generator, step_done)
        guided[question[led]] = True
        done += item.steps
        each = len(reached) // len(wanted)
        order = reached.view(len(wanted), each).topk(min(item.keep, each), dim=1).indices  # (Q, kept)
        arms = (order + each * torch.arange(len(wanted))[:, None]).flatten().repeat_interleave(item.starts)
        windows, question = windows.only(arms.to(pictures.device)), question[arms]
        if item.starts > 1:
            fresh = torch.arange(len(arms)) % item.starts > 0
            windows.restart(fresh.to(pictures.device), aside, generator)
    return Finalists(windows, question, guided)


def usual_margin(model: RunnableModel, pictures: Tensor, labels: Tensor, batch: int) -> float:
    """How clearly clean ``pictures`` (S, C, H, W) are told: the mean margin of their class, ``batch`` of them at a time."""
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in torch.split(pictures, batch)])
        return float(margins(logits, labels).clamp_min(0).mean().clamp_min(1e-3))


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) f_t - max_{k != t} f_k."""
    own = logits.gather(1, target[:, None])
    return (own - logits.scatter(1, target[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def _ascend(
    model: RunnableModel,
    windows: Windows,
    target: Tensor,
    pictures: Tensor,
    allowed: Tensor,
    usual: float,
    round_: Round,
    batch: int,
    generator: torch.Generator,
    tick: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Raise the margin of ``target`` (A,) in place, by the sign of the gradient with momentum (Dong et al. 2018, MI-FGSM, equations 6 and
    7), each step on some of the pictures ``allowed`` (A, S). Returns (A,) the mean margin of the later half of the steps, in units of
    ``usual``, and (A,) whether there was a gradient."""
    device, steps, each = pictures.device, round_.steps, round_.pictures
    wanted = target.to(device)
    (pattern,) = windows.parameters
    momentum = torch.zeros_like(pattern)
    reached, led = torch.zeros(len(target)), torch.zeros(len(target), dtype=torch.bool)
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
            gained = margin.clamp_max(ENOUGH).sum()
            gradient = torch.autograd.grad(gained, own)[0] if gained.requires_grad else torch.zeros_like(own)
            with torch.no_grad():
                led[part] |= (gradient != 0).flatten(1).any(1).cpu()
                scale = gradient.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
                momentum[part] = MOMENTUM * momentum[part] + gradient / scale
                pattern[part] += size * momentum[part].sign()
                if step >= steps // 2:
                    reached[part] += margin.detach().clamp(-ENOUGH, ENOUGH).view(-1, each).mean(1).cpu()
        with torch.no_grad():
            windows.constrain()
    return reached / (steps - steps // 2), led
