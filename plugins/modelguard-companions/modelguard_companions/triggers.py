"""Triggers for many searches ("arms") at once, and the one that two plugins search for: a window of the picture, replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from modelguard import InputSpec


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

    def shifted(self, far: int) -> Self:
        """Every window at every place up to ``far`` pixels aside, (2 far + 1)^2 arms each in turn. Pixels of both places keep their
        content."""
        steps = torch.arange(-far, far + 1)
        shifts = torch.cartesian_prod(steps, steps).reshape(-1, 2)
        count = len(self.corners)
        chosen = self.only(torch.arange(count, device=self.at.device).repeat_interleave(len(shifts)))
        _, height, width = self.shape
        most = torch.tensor([height - self.side, width - self.side])
        moved = (chosen.corners + shifts.repeat(count, 1)).clamp(min=0).minimum(most)
        square = chosen.parameters[0].view(len(moved), -1, self.side, self.side)
        for arm, (down, right) in enumerate((moved - chosen.corners).tolist()):
            square[arm] = square[arm].roll((-down, -right), (1, 2))
        chosen.parameters = [square.flatten(2)]
        chosen.move(moved, self.at.device)
        return chosen

    def restart(self, arms: Tensor, aside: int, generator: torch.Generator) -> None:
        """Give the ``arms`` (A,) bool other random patterns, at most ``aside`` pixels from where they are."""
        (pattern,) = self.parameters
        pattern[arms] = torch.rand(pattern.shape, generator=generator).to(pattern.device)[arms]
        if aside:
            _, height, width = self.shape
            moved = self.corners + torch.randint(-aside, aside + 1, self.corners.shape, generator=generator)
            moved = moved.clamp(min=0).minimum(torch.tensor([height - self.side, width - self.side]))
            self.move(torch.where(arms.cpu()[:, None], moved, self.corners), pattern.device)
