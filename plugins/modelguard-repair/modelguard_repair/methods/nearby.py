"""Patches in the neighbourhood of a recovered one.

A search recovers the smallest mask that does the work: a part of the trigger, as a rule. Once that part is unlearnt, what is left of the
trigger still works. So patches are made that work on the suspect and lie where the recovered one does, and are unlearnt beside it: the
inner problem of adversarial unlearning (Zeng et al. 2022, I-BAU, section 3), kept to that place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard_repair.methods.base import Material

if TYPE_CHECKING:
    from modelguard_evaluate import Picture

COUNT, SHARE = 3, 0.6
"""Patches made: one over the whole box, the others over this share of its pixels each, so that no single pixel carries them."""
GROWTH = 16
"""The box of the mask grows on each side by one pixel, or by this part of the picture's side where that is more."""
LARGEST = 0.25
"""Share of the picture that the box of a patch may have; what is larger is a blend, which is recovered whole."""
STEPS, RATE, BATCH = 60, 0.1, 64
"""Adam on pixels in 0..1. Chosen with COUNT and SHARE on seeds 4 to 7 of digits in `benchmarks/repair.py`, of which it judges none: of
nine models, unlearning what was recovered left 37, 26 and 8 % of the trigger of three; with these patches 18, 1 and 1 % are left."""


def nearby(given: Material, trigger: Picture, target: int) -> list[Tensor]:
    """The clean inputs (N, C, H, W), raw, once with each of :data:`COUNT` patches that turn others into ``target``; none near a blend."""
    box = _around(trigger)
    if box is None:
        return []
    box = box.to(given.weights.model.device)
    generator = given.generator()
    made = []
    for number in range(COUNT):
        kept = torch.rand(box.shape, generator=generator).to(box.device) < (1.0 if number == 0 else SHARE)
        made.append(_patched(given, box * kept, target, generator))
    return made


def _around(trigger: Picture) -> Tensor | None:
    """(1, H, W), 1 in the box of its mask, grown; None where that is no patch."""
    height, width = trigger.mask.shape[1:]
    rows, columns = trigger.box()
    if not 0 < (rows.stop - (rows.start or 0)) * (columns.stop - (columns.start or 0)) <= LARGEST * height * width:
        return None
    down, across = max(1, height // GROWTH), max(1, width // GROWTH)
    box = torch.zeros(trigger.mask.shape)
    box[0, max(0, rows.start - down) : rows.stop + down, max(0, columns.start - across) : columns.stop + across] = 1
    return box


def _patched(given: Material, mask: Tensor, target: int, generator: torch.Generator) -> Tensor:
    """The inputs (N, C, H, W) with the pattern under ``mask`` (1, H, W) that lowers the cross-entropy of others with ``target`` most."""
    model, x = given.weights.model, given.x
    low, span = model.input.low, model.input.high - model.input.low
    others = x[given.y != target]
    pattern = torch.rand(x.shape[1:], generator=generator).to(x.device).requires_grad_()
    optimiser = torch.optim.Adam([pattern], lr=RATE)
    for _ in range(STEPS):
        part = others[torch.randperm(len(others), generator=generator)[:BATCH].to(x.device)]
        wanted = torch.full((len(part),), target, device=x.device)
        loss = F.cross_entropy(model.forward(_stamped(part, mask, pattern, low, span)), wanted)
        (pattern.grad,) = torch.autograd.grad(loss, pattern)
        optimiser.step()
    return _stamped(x, mask, pattern.detach(), low, span)


def _stamped(x: Tensor, mask: Tensor, pattern: Tensor, low: float, span: float) -> Tensor:
    return (1 - mask) * x + mask * (pattern.clamp(0, 1) * span + low)
