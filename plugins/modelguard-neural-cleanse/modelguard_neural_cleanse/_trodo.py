"""TRODO: how readily does the model grow sure of inputs that are of no class? (Mirzaei et al., NeurIPS 2024, section 4.)

A backdoor leaves blind spots near everything, so a small step makes even outliers look like a class. Of the published score, the mean rise
of the largest softmax probability under PGD, small networks have nothing left to show: they are sure of noise as it is. What is
measured is the same of the margin of the largest logit, in units of the margin of clean images, as softmax cannot saturate there.
"""

from __future__ import annotations

import torch
from modelguard_triggers.case import Case
from torch import Tensor
from torch.nn import functional as F

STEPS = 10
"""PGD steps, each 2.5 times the bound divided by their number (the authors' code)."""
OUTLIERS = 64
TILES = 2
"""Outliers are clean images cut into so many tiles a side, which are shuffled and turned by a quarter (one of the authors' ways)."""


def outliers(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, C, H, W) of ``images`` of the same shape: no image of any class, but with pixels like theirs."""
    _, _, height, width = images.shape
    rows, columns = height // TILES, width // TILES
    made = images.clone()
    tiles = [(row * rows, column * columns) for row in range(TILES) for column in range(TILES)]
    for place, image in enumerate(images):
        for (top, left), source in zip(tiles, torch.randperm(len(tiles), generator=generator).tolist(), strict=True):
            from_top, from_left = tiles[source]
            tile = image[:, from_top : from_top + rows, from_left : from_left + columns]
            made[place, :, top : top + rows, left : left + columns] = tile.rot90(1, (1, 2)) if rows == columns else tile.flip(1)
    return made


def trodo(case: Case, bound: float) -> float:
    """The mean rise of the largest logit's margin on outliers under PGD within ``bound`` (raw pixel values), in usual margins."""
    generator, spec = case.generator("outliers"), case.model.input
    images = case.evidence.search
    chosen = torch.randperm(len(images), generator=generator)[: min(OUTLIERS, case.batch)]
    start = outliers(images[chosen], generator)
    before = _confidence(case.model(start).detach())
    noise = (torch.rand(start.shape, generator=generator) * 2 - 1).to(start.device)
    x = (start + bound * noise).clamp(spec.low, spec.high)
    for step in range(STEPS):
        case.tick(step, STEPS, "outliers")
        x.requires_grad_()
        logits = case.model(x)
        if not logits.requires_grad:
            return 0.0
        (gradient,) = torch.autograd.grad(F.log_softmax(logits, 1).amax(1).sum(), x)
        x = x.detach() + 2.5 * bound / STEPS * gradient.sign()
        x = torch.minimum(torch.maximum(x, start - bound), start + bound).clamp(spec.low, spec.high)
    return float(((_confidence(case.model(x).detach()) - before) / case.usual_margin).mean())


def _confidence(logits: Tensor) -> Tensor:
    """(N,) the largest logit less the second."""
    top = logits.topk(2, 1).values
    return top[:, 0] - top[:, 1]
