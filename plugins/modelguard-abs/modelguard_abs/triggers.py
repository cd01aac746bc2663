"""What a trigger may do to a picture: a patch of fixed area, or a filter of fixed strength. One of each per arm, all at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from modelguard import InputSpec

BISECTIONS = 20


class Triggers(ABC):
    """Triggers of A arms over pictures (N, C, H, W) in the raw range. ``parameters`` are what a search changes, in place."""

    kind: ClassVar[str]
    parameters: list[Tensor]

    @abstractmethod
    def stamp(self, arms: Tensor, pictures: Tensor) -> Tensor:
        """``pictures`` (N, C, H, W), each carrying the trigger of its arm (N,)."""

    @abstractmethod
    def constrain(self) -> None:
        """Bring the parameters back to the nearest that are allowed."""

    def only(self, arms: Tensor) -> Self:
        """A copy with some of the arms."""
        chosen = copy(self)
        chosen.parameters = [value.detach()[arms].clone() for value in self.parameters]
        return chosen


class Patches(Triggers):
    """x' = (1 - m) x + m p with mask m (A, 1, H, W) in 0..1 that sums to ``budget`` (A,) pixels or less, pattern p (A, C, H, W).

    The masks start even, at random; ``area`` is the budget as a part of the picture.
    """

    kind = "patch"

    def __init__(self, spec: InputSpec, shape: tuple[int, ...], area: Tensor, generator: torch.Generator, device: torch.device) -> None:
        channels, height, width = shape
        arms = len(area)
        self.spec, self.area = spec, area.to(device)
        start = 2 * torch.rand((arms, 1, height, width), generator=generator).to(device) * self.area[:, None, None, None]
        pattern = torch.rand((arms, channels, height, width), generator=generator).to(device)
        self.parameters = [project(start, self.area * height * width), pattern]

    def stamp(self, arms: Tensor, pictures: Tensor) -> Tensor:
        mask, pattern = (value[arms] for value in self.parameters)
        return (1 - mask) * pictures + mask * (self.spec.low + (self.spec.high - self.spec.low) * pattern)

    def constrain(self) -> None:
        mask, pattern = self.parameters
        pattern.clamp_(0, 1)
        mask.copy_(project(mask, self.area * mask[0].numel()))

    def only(self, arms: Tensor) -> Self:
        chosen = super().only(arms)
        chosen.area = self.area[arms]
        return chosen


class Windows(Triggers):
    """A window of the picture replaced by a pattern (A, C, side * side) in 0..1. ``corners`` (A, 2): row and column it begins at."""

    kind = "window"

    def __init__(
        self, spec: InputSpec, shape: tuple[int, ...], side: int, corners: Tensor, generator: torch.Generator, device: torch.device
    ) -> None:
        self.spec, self.shape, self.side = spec, shape, side
        self.move(corners, device)
        self.parameters = [torch.rand((len(corners), shape[0], side * side), generator=generator).to(device)]

    def move(self, corners: Tensor, device: torch.device) -> None:
        """Put the windows elsewhere."""
        rows = corners[:, 0, None] + torch.arange(self.side)  # (A, side)
        columns = corners[:, 1, None] + torch.arange(self.side)
        self.corners = corners
        # (A, side * side) places in a picture laid flat
        self.at = (rows[:, :, None] * self.shape[2] + columns[:, None]).flatten(1).to(device)

    def stamp(self, arms: Tensor, pictures: Tensor) -> Tensor:
        return self.stamp_with(self.parameters[0], arms, self.at[arms], pictures)

    def stamp_with(self, pattern: Tensor, arms: Tensor, at: Tensor, pictures: Tensor) -> Tensor:
        """As :meth:`stamp`, with the patterns given and ``at`` (N, side * side) the places they go to."""
        raw = self.spec.low + (self.spec.high - self.spec.low) * pattern[arms]  # (N, C, side * side)
        return pictures.flatten(2).scatter(2, at[:, None].expand_as(raw), raw).view_as(pictures)

    def constrain(self) -> None:
        self.parameters[0].clamp_(0, 1)

    def only(self, arms: Tensor) -> Self:
        chosen = super().only(arms)
        chosen.corners, chosen.at = self.corners[arms.cpu()], self.at[arms]
        return chosen

    def mask(self, arm: int) -> npt.NDArray[np.float32]:
        """(1, H, W) 1 where the window of ``arm`` is."""
        return self._laid(arm, torch.ones_like(self.parameters[0][arm, :1]))

    def picture(self, arm: int) -> npt.NDArray[np.float32]:
        """(C, H, W) in 0..1: the window of ``arm`` on black."""
        return self._laid(arm, self.parameters[0][arm])

    def _laid(self, arm: int, pattern: Tensor) -> npt.NDArray[np.float32]:
        _, height, width = self.shape
        flat = torch.zeros(len(pattern), height * width, device=pattern.device)
        flat[:, self.at[arm]] = pattern
        laid: npt.NDArray[np.float32] = flat.view(-1, height, width).cpu().numpy()
        return laid

    def restart(self, arms: Tensor, aside: int, generator: torch.Generator) -> None:
        """Give the ``arms`` (A,) bool other random patterns, at most ``aside`` pixels from where they are."""
        (pattern,) = self.parameters
        pattern[arms] = torch.rand(pattern.shape, generator=generator).to(pattern.device)[arms]
        if aside:
            _, height, width = self.shape
            moved = self.corners + torch.randint(-aside, aside + 1, self.corners.shape, generator=generator)
            moved = moved.clamp(min=0).minimum(torch.tensor([height - self.side, width - self.side]))
            self.move(torch.where(arms.cpu()[:, None], moved, self.corners), pattern.device)


class Filters(Triggers):
    """x' = x + d, d a linear map of each pixel and the largest, smallest and average value around it (A, C, 4C) and a shift (A, C).

    The map of abs.py's filter triggers (12 x 3 for three channels). The authors hold SSIM up; here the mean absolute change is at most
    ``strength`` of the raw range, by shrinking d picture by picture.
    """

    kind = "filter"

    def __init__(self, spec: InputSpec, shape: tuple[int, ...], strength: Tensor, generator: torch.Generator, device: torch.device) -> None:
        channels, arms = shape[0], len(strength)
        self.spec, self.strength = spec, strength.to(device)
        weights = 0.2 * (torch.rand((arms, channels, 4 * channels), generator=generator) - 0.5)
        self.parameters = [weights.to(device), torch.zeros(arms, channels, device=device)]

    def stamp(self, arms: Tensor, pictures: Tensor) -> Tensor:
        weights, shift = (value[arms] for value in self.parameters)
        unit = (pictures - self.spec.low) / (self.spec.high - self.spec.low)  # (N, C, H, W) in 0..1
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
