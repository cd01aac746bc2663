"""Trigger inversion for all candidates at once: what small change of the image makes these units fire?

Liu et al. 2019, section 4.3: a trigger is a mask and a pattern, or a filter, that raises the candidate's activation. The published search
weighs a mask penalty against the activation; here every trigger gets the same area, so that classes can be compared by what the same
area does. As in the authors' later TrojAI version the target's logit is raised with the activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from modelguard_triggers.ascent import ENOUGH
from modelguard_triggers.case import margins, quantised
from torch import Tensor

from modelguard_abs._stimulation import Candidate

if TYPE_CHECKING:
    from modelguard_triggers.arms import Triggers
    from modelguard_triggers.case import Case

    from modelguard import Layer

RATE = 0.1
"""Adam's rate in units of the mask's and the image's range: the authors' 0.1."""
BETAS = (0.5, 0.9)
IMAGES = 8
"""Images an arm sees in one step."""


def invert(
    case: Case, triggers: Triggers, candidates: Sequence[Candidate], steps: int, generator: torch.Generator, *, per_step: int = IMAGES
) -> None:
    """Change ``triggers`` in place so that each turns the images to search on, those not of its candidate's label, into that label.

    Every step draws ``per_step`` images an arm.
    """
    model, images, labels = case.model, case.evidence.search, case.evidence.search_labels
    device = images.device
    target = torch.tensor([item.label for item in candidates], device=device)
    layers = {layer.name: layer for layer in model.layers if layer.name in {item.layer for item in candidates}}
    allowed = (labels[None] != target[:, None].cpu()).float()  # (A, S)
    for value in triggers.parameters:
        value.requires_grad_(True)
    optimiser = torch.optim.Adam(triggers.parameters, lr=RATE, betas=BETAS)
    usual = case.usual_margin

    def slopes(drawn: Tensor, part: slice) -> tuple[Tensor, ...]:
        """What the arms in ``part`` add to the gradient of each parameter, on their images of those ``drawn`` (A, B)."""
        arms = torch.arange(len(candidates), device=device)[part].repeat_interleave(per_step)  # (A'*B,)
        stamped = triggers.stamp(arms, images[drawn[part].flatten()]).contiguous(memory_format=torch.channels_last)
        logits, seen = model.capture(stamped, list(layers))
        margin = margins(logits, target[arms]) / usual
        fired = _fired(seen, layers, candidates[part], per_step)
        loss = -(margin.clamp_max(ENOUGH) + fired.clamp_max(ENOUGH)).sum() / per_step
        return torch.autograd.grad(loss, triggers.parameters, materialize_grads=True)

    parts = case.shares(len(candidates), case.batch // per_step)
    for step in range(steps):
        drawn = torch.multinomial(allowed, per_step, replacement=True, generator=generator).to(device)  # (A, B)
        found = case.side_by_side(partial(slopes, drawn), parts, partial(_tick, case, step, steps, triggers.kind))
        for value, *of_parts in zip(triggers.parameters, *found, strict=True):
            value.grad = torch.stack(of_parts).sum(0)
        optimiser.step()
        with torch.no_grad():
            triggers.constrain()
    for value in triggers.parameters:
        value.requires_grad_(False)


def _tick(case: Case, step: int, steps: int, note: str, done: int) -> None:
    case.tick(step, steps, note)


def attempts(case: Case, triggers: Triggers, target: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each arm's trigger turns each of the M images to check on into its ``target`` (A,), and whether it had to: both (A, M) bool.

    The stamped image is rounded to 256 levels, as a real one is stored: abs.py measures REASR after the same round trip.
    """
    images = case.evidence.check
    arms, count = len(target), len(images)
    wanted = target.to(images.device)

    def tried(index: Tensor) -> Tensor:
        with torch.inference_mode():
            x = quantised(triggers.stamp(index // count, images[index % count]), case.model.input)
            return case.model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == wanted[index // count]

    parts = torch.split(torch.arange(arms * count, device=images.device), case.batch)
    found = case.side_by_side(tried, parts, lambda done: case.tick(done, len(parts), f"{triggers.kind}, checked"))
    return torch.cat(found).reshape(arms, count).cpu(), case.evidence.check_labels[None] != target[:, None].cpu()


def _fired(seen: dict[str, Tensor], layers: dict[str, Layer], candidates: Sequence[Candidate], per_step: int) -> Tensor:
    """(A*B,) mean activation of each arm's own units over its own images, relative to the layer's largest on clean images."""
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
