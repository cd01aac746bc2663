"""The best square window for many questions at once: where, and with what in it, does it turn these images into that class?

The window is a universal adversarial patch (Brown et al. 2017, "Adversarial Patch") at a fixed place, every place tried. A patch of free
shape gathers the few pixels a class is really told by from all over the image, and on small images does so with as few as a true trigger
has. A trigger that somebody stamps is compact: held to one window, the classes of a clean model are reached far more seldom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard_triggers.arms import Climbers, Triggers
from modelguard_triggers.ascent import Climbed, Questions, Round, climb
from modelguard_triggers.case import Case

if TYPE_CHECKING:
    from modelguard import InputSpec

SIDE = 1 / 8
"""Side of the window as a part of the image's: 4 of 28 and of 32 pixels."""
FEW = 64
"""Up to this many places all are tried, of more those a side less a pixel apart: a trigger's window is never missed by more than half."""


class Windows(Triggers, Climbers):
    """A window of the image replaced by a pattern (A, C, side * side) in 0..1. ``corners`` (A, 2): row and column it begins at."""

    kind = "window"

    def __init__(
        self, spec: InputSpec, shape: tuple[int, ...], side: int, corners: Tensor, generator: torch.Generator, device: torch.device
    ) -> None:
        self.spec, self.shape, self.side = spec, shape, side
        self._move(corners, device)
        self.parameters = [torch.rand((len(corners), shape[0], side * side), generator=generator).to(device)]

    def _move(self, corners: Tensor, device: torch.device) -> None:
        rows = corners[:, 0, None] + torch.arange(self.side)  # (A, side)
        columns = corners[:, 1, None] + torch.arange(self.side)
        self.corners = corners
        # (A, side * side) places in an image laid flat
        self.at = (rows[:, :, None] * self.shape[2] + columns[:, None]).flatten(1).to(device)

    def stamp(self, arms: Tensor, images: Tensor) -> Tensor:
        return self._stamp(self.parameters[0][arms], self.at[arms], images)

    def stamp_each(self, own: Tensor, arms: slice, images: Tensor) -> Tensor:
        each = torch.arange(len(images), device=images.device).repeat_interleave(images.shape[1])
        return self._stamp(own[each], self.at[arms][each], images.flatten(0, 1))

    def _stamp(self, pattern: Tensor, at: Tensor, images: Tensor) -> Tensor:
        raw = self.spec.low + (self.spec.high - self.spec.low) * pattern  # (N, C, side * side)
        return images.flatten(2).scatter(2, at[:, None].expand_as(raw), raw).view_as(images)

    def constrain(self) -> None:
        self.parameters[0].clamp_(0, 1)

    def only(self, arms: Tensor) -> Self:
        chosen = super().only(arms)
        chosen.corners, chosen.at = self.corners[arms.cpu()], self.at[arms]
        return chosen

    def mask(self, arm: int) -> npt.NDArray[np.float32]:
        """(1, H, W) 1 where the window of ``arm`` is."""
        return self._laid(arm, torch.ones_like(self.parameters[0][arm, :1]))

    def image(self, arm: int) -> npt.NDArray[np.float32]:
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
        chosen._move(moved, self.at.device)
        return chosen

    def restart(self, arms: Tensor, generator: torch.Generator) -> None:
        """Give the ``arms`` (A,) bool other random patterns, as far from where they are as places were left out."""
        (pattern,) = self.parameters
        pattern[arms] = torch.rand(pattern.shape, generator=generator).to(pattern.device)[arms]
        _, height, width = self.shape
        if aside := _stride(height, width, self.side) // 2:
            moved = self.corners + torch.randint(-aside, aside + 1, self.corners.shape, generator=generator)
            moved = moved.clamp(min=0).minimum(torch.tensor([height - self.side, width - self.side]))
            self._move(torch.where(arms.cpu()[:, None], moved, self.corners), pattern.device)


def side_of(height: int, width: int, smallest: int) -> int:
    """Side of the window for images of this size, in pixels; ``smallest`` at least."""
    return max(smallest, round(SIDE * min(height, width)))


def places(height: int, width: int, side: int) -> Tensor:
    """(P, 2) rows and columns of the upper left corners tried at first."""
    stride = _stride(height, width, side)
    rows, columns = (sorted({*range(0, extent - side, stride), extent - side}) for extent in (height, width))
    return torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns)).reshape(-1, 2)


def _stride(height: int, width: int, side: int) -> int:
    """Pixels between one place that is tried and the next."""
    return 1 if (height - side + 1) * (width - side + 1) <= FEW else max(1, side - 1)


def search_windows(case: Case, questions: Questions, side: int, rounds: Sequence[Round], generator: torch.Generator) -> Climbed[Windows]:
    """The finalists among the windows of ``side`` pixels for every question, every place tried."""
    shape, device = case.evidence.shape, case.evidence.search.device
    corners = places(*shape[1:], side)  # (P, 2)
    count = len(questions.wanted)
    question = torch.arange(count).repeat_interleave(len(corners))  # (A,) every question at every place, side by side
    windows = Windows(case.model.input, shape, side, corners.repeat(count, 1), generator, device)
    return climb(case, questions, Climbed(windows, question), rounds, generator, "windows")
