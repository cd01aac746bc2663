"""What a trigger may do to an image: a patch of fixed area, or a filter of fixed strength. One of each per arm, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from modelguard_triggers.arms import Triggers
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from modelguard import InputSpec

BISECTIONS = 20


class Patches(Triggers):
    """x' = (1 - m) x + m p with mask m (A, 1, H, W) in 0..1 that sums to ``budget`` (A,) pixels or less, pattern p (A, C, H, W).

    The masks start even, at random; ``area`` is the budget as a part of the image.
    """

    kind = "patch"

    def __init__(self, spec: InputSpec, shape: tuple[int, ...], area: Tensor, generator: torch.Generator, device: torch.device) -> None:
        channels, height, width = shape
        arms = len(area)
        self.spec, self.area = spec, area.to(device)
        start = 2 * torch.rand((arms, 1, height, width), generator=generator).to(device) * self.area[:, None, None, None]
        pattern = torch.rand((arms, channels, height, width), generator=generator).to(device)
        self.parameters = [project(start, self.area * height * width), pattern]

    def stamp(self, arms: Tensor, images: Tensor) -> Tensor:
        mask, pattern = (value[arms] for value in self.parameters)
        return (1 - mask) * images + mask * (self.spec.low + (self.spec.high - self.spec.low) * pattern)

    def constrain(self) -> None:
        mask, pattern = self.parameters
        pattern.clamp_(0, 1)
        mask.copy_(project(mask, self.area * mask[0].numel()))

    def only(self, arms: Tensor) -> Self:
        chosen = super().only(arms)
        chosen.area = self.area[arms]
        return chosen


class Filters(Triggers):
    """x' = x + d, d a linear map of each pixel and the largest, smallest and average value around it (A, C, 4C) and a shift (A, C).

    The map of abs.py's filter triggers (12 x 3 for three channels). The authors hold SSIM up; here the mean absolute change is at most
    ``strength`` of the raw range, by shrinking d image by image.
    """

    kind = "filter"

    def __init__(self, spec: InputSpec, shape: tuple[int, ...], strength: Tensor, generator: torch.Generator, device: torch.device) -> None:
        channels, arms = shape[0], len(strength)
        self.spec, self.strength = spec, strength.to(device)
        weights = 0.2 * (torch.rand((arms, channels, 4 * channels), generator=generator) - 0.5)
        self.parameters = [weights.to(device), torch.zeros(arms, channels, device=device)]

    def stamp(self, arms: Tensor, images: Tensor) -> Tensor:
        weights, shift = (value[arms] for value in self.parameters)
        unit = (images - self.spec.low) / (self.spec.high - self.spec.low)  # (N, C, H, W) in 0..1
        around = F.pad(unit, (1, 1, 1, 1), mode="replicate")
        largest, smallest = F.max_pool2d(around, 3, 1), -F.max_pool2d(-around, 3, 1)
        seen = torch.cat([unit, largest, smallest, F.avg_pool2d(around, 3, 1)], 1)  # (N, 4C, H, W)
        change = torch.einsum("ncd,ndhw->nchw", weights, seen) + shift[..., None, None]
        changed = (unit + change).clamp(0, 1)
        change = changed - unit
        size = change.abs().mean((1, 2, 3)).clamp_min(1e-12)  # (N,)
        scale = (self.strength[arms] / size).clamp_max(1.0)
        return self.spec.low + (self.spec.high - self.spec.low) * (unit + scale[:, None, None, None] * change)

    def constrain(self) -> None:
        for value in self.parameters:
            value.clamp_(-2, 2)

    def only(self, arms: Tensor) -> Self:
        chosen = super().only(arms)
        chosen.strength = self.strength[arms]
        return chosen


def project(mask: Tensor, budget: Tensor) -> Tensor:
    """The nearest mask (A, 1, H, W) in 0..1 that sums to ``budget`` (A,) or less: clamp(mask - tau) with tau >= 0 found by bisection."""
    clamped = mask.clamp(0, 1)
    over = clamped.flatten(1).sum(1) > budget
    if not bool(over.any()):
        return clamped
    low, high = torch.zeros_like(budget), mask.flatten(1).amax(1).clamp_min(0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = (mask - middle[:, None, None, None]).clamp(0, 1).flatten(1).sum(1) > budget
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(over[:, None, None, None], (mask - high[:, None, None, None]).clamp(0, 1), clamped)
