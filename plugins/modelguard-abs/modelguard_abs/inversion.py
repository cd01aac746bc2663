"""Trigger inversion for all candidates at once: what small change of the picture makes these units fire?

Liu et al. 2019, section 4.3: a trigger is a mask and a pattern, or a filter, that raises the candidate's activation. The published search
weighs a mask penalty against the activation; here every trigger gets the same area, so that classes can be compared by what the same
area does. As in the authors' later TrojAI version the target's logit is raised with the activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from modelguard_companions.windows import ENOUGH, margins, usual_margin
from torch import Tensor

from modelguard_abs.stimulation import Candidate

if TYPE_CHECKING:
    from modelguard_companions.triggers import Triggers

    from modelguard import Layer, RunnableModel

RATE = 0.1
"""Adam's rate in units of the mask's and the picture's range: the authors' 0.1."""
BETAS = (0.5, 0.9)
PICTURES = 8
"""Pictures an arm sees in one step."""

Tick = Callable[[int, int], None]


def invert(
    model: RunnableModel,
    triggers: Triggers,
    candidates: Sequence[Candidate],
    pictures: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
    tick: Tick,
    per_step: int = PICTURES,
) -> None:
    """Change ``triggers`` in place so that each turns ``pictures`` (S, C, H, W), those not of its candidate's label, into that label.

    Every step draws ``per_step`` pictures an arm; ``batch`` pictures go through the model at a time.
    """
    device = pictures.device
    target = torch.tensor([item.label for item in candidates], device=device)
    layers = {layer.name: layer for layer in model.layers if layer.name in {item.layer for item in candidates}}
    usual = usual_margin(model, pictures, labels, batch)
    allowed = (labels[None] != target[:, None]).float().cpu()  # (A, S)
    for value in triggers.parameters:
        value.requires_grad_(True)
    optimiser = torch.optim.Adam(triggers.parameters, lr=RATE, betas=BETAS)
    arms_at_once = max(1, batch // per_step)
    for step in range(steps):
        drawn = torch.multinomial(allowed, per_step, replacement=True, generator=generator).to(device)  # (A, B)
        optimiser.zero_grad()
        for begin in range(0, len(candidates), arms_at_once):
            tick(step, steps)
            part = slice(begin, begin + arms_at_once)
            arms = torch.arange(len(candidates), device=device)[part].repeat_interleave(per_step)  # (A'*B,)
            stamped = triggers.stamp(arms, pictures[drawn[part].flatten()]).contiguous(memory_format=torch.channels_last)
            logits, seen = model.capture(stamped, list(layers))
            margin = margins(logits, target[arms]) / usual
            fired = _fired(seen, layers, candidates[part], per_step)
            loss = -(margin.clamp_max(ENOUGH) + fired.clamp_max(ENOUGH)).sum() / per_step
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            triggers.constrain()
    for value in triggers.parameters:
        value.requires_grad_(False)


def attempts(
    model: RunnableModel, triggers: Triggers, target: Tensor, pictures: Tensor, labels: Tensor, *, batch: int, tick: Tick
) -> tuple[Tensor, Tensor]:
    """Whether each arm's trigger turns each of ``pictures`` (M, C, H, W) into its ``target`` (A,), and whether it had to: both (A, M) bool.

    The stamped picture is rounded to 256 levels, as a real one is stored: abs.py measures REASR after the same round trip.
    """
    arms, count = len(target), len(pictures)
    grey = (model.input.high - model.input.low) / 255
    found = []
    with torch.inference_mode():
        for begin in range(0, arms * count, batch):
            tick(begin, arms * count)
            index = torch.arange(begin, min(begin + batch, arms * count), device=pictures.device)
            x = triggers.stamp(index // count, pictures[index % count])
            x = model.input.low + ((x - model.input.low) / grey).round() * grey
            found.append(model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == target[index // count])
    return torch.cat(found).reshape(arms, count).cpu(), (labels[None] != target[:, None]).cpu()


def _fired(seen: dict[str, Tensor], layers: dict[str, Layer], candidates: Sequence[Candidate], per_step: int) -> Tensor:
    """(A*B,) mean activation of each arm's own units over its own pictures, relative to the layer's largest on clean pictures."""
    # A channel fires where the trigger is: its largest position, not its mean. All of a layer at once, so that its gradient is one tensor.
    largest = {}
    for name in dict.fromkeys(item.layer for item in candidates):
        axis = layers[name].unit_axis if layers[name].unit_axis < 0 else layers[name].unit_axis + 1
        activation = seen[name].movedim(axis, 1)  # (A*B, U, ...)
        largest[name] = activation.amax(tuple(range(2, activation.ndim))) if activation.ndim > 2 else activation  # (A*B, U)
    rows = []
    for arm, item in enumerate(candidates):
        own = largest[item.layer][arm * per_step : (arm + 1) * per_step, list(item.units)]  # (B, u)
        rows.append(own.mean(1) / item.ceiling)
    return torch.cat(rows)
