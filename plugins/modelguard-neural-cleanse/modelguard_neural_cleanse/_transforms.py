"""The families of input transformation a trigger is searched in, each for many searches ("arms") at once.

A transformation has unconstrained parameters, maps images (A, B, C, H, W) in ``low``..``high`` to images in the same range, and
has a size (A,) between 0 (the identity) and about 1 (no image left) that the search makes small.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Transform(ABC):
    """``shape`` is (C, H, W), ``low``/``high`` the true bounds of a raw input value."""

    kind: ClassVar[str]
    shape: tuple[int, int, int]
    low: float
    high: float

    @abstractmethod
    def start(self, arms: int, bias: float, generator: torch.Generator) -> list[Tensor]:
        """Parameters, arms first. ``bias`` 0 starts mid-way, negative near the identity, positive far from it."""

    @abstractmethod
    def apply(self, parameters: list[Tensor], images: Tensor) -> Tensor:
        """``images`` (A, B, C, H, W) transformed, arm by arm."""

    @abstractmethod
    def size(self, parameters: list[Tensor]) -> Tensor:
        """(A,) how far from the identity."""

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    def _unit(self, parameter: Tensor) -> Tensor:
        """From all reals to 0..1 (Wang et al. 2019, section V-B: optimisation in tanh space)."""
        return torch.tanh(parameter) / 2 + 0.5


class Patch(Transform):
    """x' = (1 - m) x + m p with a mask m (H, W) and a pattern p (C, H, W) (Wang et al. 2019, equation 2). Size: mean of m."""

    kind = "patch"

    def start(self, arms: int, bias: float, generator: torch.Generator) -> list[Tensor]:
        channels, height, width = self.shape
        mask = self._uniform((arms, 1, height, width), generator) + bias
        return [mask, self._uniform((arms, channels, height, width), generator)]

    def apply(self, parameters: list[Tensor], images: Tensor) -> Tensor:
        mask, pattern = self.mask(parameters)[:, None], self.pattern(parameters)[:, None]  # (A, 1, 1, H, W), (A, 1, C, H, W)
        return torch.lerp(images, pattern, mask)

    def size(self, parameters: list[Tensor]) -> Tensor:
        return self.mask(parameters).mean((1, 2, 3))

    def mask(self, parameters: list[Tensor]) -> Tensor:
        """(A, 1, H, W) in 0..1."""
        return self._unit(parameters[0])

    def pattern(self, parameters: list[Tensor]) -> Tensor:
        """(A, C, H, W) in the raw range."""
        return self.low + (self.high - self.low) * self._unit(parameters[1])


class Blend(Patch):
    """x' = (1 - a) x + a p with one opacity a for the whole image: Blended, SIG and reflections. Size: a."""

    kind = "blend"

    def start(self, arms: int, bias: float, generator: torch.Generator) -> list[Tensor]:
        mask, pattern = super().start(arms, bias, generator)
        return [mask.mean((2, 3), keepdim=True), pattern]


class Warp(Transform):
    """Pixels displaced by a smooth field, a 4 x 4 control grid upsampled (WaNet: Nguyen and Tran 2021, equations 4 to 6).

    The parameters are the control grid, (A, 2, 4, 4): how far each knot moves along columns and rows, as a part of the image's side.
    Size: mean displacement, likewise.
    """

    kind = "warp"
    KNOTS: ClassVar[int] = 4
    REACH: ClassVar[float] = 0.25
    """Largest displacement of a knot at the start."""

    def start(self, arms: int, bias: float, generator: torch.Generator) -> list[Tensor]:
        return [self._uniform((arms, 2, self.KNOTS, self.KNOTS), generator) * self.REACH * (0.3 if bias < 0 else 1.0)]

    def apply(self, parameters: list[Tensor], images: Tensor) -> Tensor:
        arms, batch, channels, height, width = images.shape
        identity = F.affine_grid(torch.eye(2, 3).expand(arms, 2, 3), [arms, 1, height, width], align_corners=False)
        grid = identity.to(images.device) + 2 * self.flow(parameters).permute(0, 2, 3, 1)  # (A, H, W, 2); the image spans -1..1
        stacked = images.flatten(1, 2)  # (A, B*C, H, W): one grid an arm
        warped = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return warped.view(arms, batch, channels, height, width)

    def size(self, parameters: list[Tensor]) -> Tensor:
        return self.flow(parameters).square().sum(1).add(1e-12).sqrt().mean((1, 2))

    def within(self, parameters: list[Tensor], strength: float) -> list[Tensor]:
        """``parameters``, those of more than this size scaled down to it."""
        scale = (strength / self.size(parameters)).clamp(max=1)
        return [value * scale[:, None, None, None] for value in parameters]

    def flow(self, parameters: list[Tensor]) -> Tensor:
        """(A, 2, H, W) displacements, columns first, as parts of the image side."""
        return F.interpolate(parameters[0], self.shape[1:], mode="bicubic", align_corners=True)


class Colour(Transform):
    """An invertible colour change: x' = M x + b over the channels, both of one row a channel (after UNICORN, Wang et al. 2023).

    Size: mean of |M - I| and |b| in units of the raw range.
    """

    kind = "colour"

    def start(self, arms: int, bias: float, generator: torch.Generator) -> list[Tensor]:
        channels = self.shape[0]
        scale = 0.1 if bias < 0 else 0.5
        return [
            self._uniform((arms, channels, channels), generator) * scale,
            self._uniform((arms, channels), generator) * scale,
        ]

    def apply(self, parameters: list[Tensor], images: Tensor) -> Tensor:
        span = self.high - self.low
        mix, shift = self.mixing(parameters)
        changed = torch.einsum("aij,abjhw->abihw", mix, images - self.low) + span * shift[:, None, :, None, None]
        return self.low + changed.clamp(0, span)

    def size(self, parameters: list[Tensor]) -> Tensor:
        mix, shift = self.mixing(parameters)
        away = (mix - torch.eye(self.shape[0], device=mix.device)).abs()
        return (away.mean((1, 2)) + shift.abs().mean(1)) / 2

    def mixing(self, parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
        """M (A, C, C), kept near the identity and so invertible, and b (A, C)."""
        mix, shift = parameters
        return torch.eye(self.shape[0], device=mix.device) + 0.9 / self.shape[0] * torch.tanh(mix), torch.tanh(shift)
