"""Many searches side by side. An arm is one of them: one trigger in the making, for one question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import ClassVar, Self

import torch
from torch import Tensor


class Arms(ABC):
    """``parameters`` (A, ...) of A arms are what a search changes, in place."""

    parameters: list[Tensor]

    @abstractmethod
    def constrain(self) -> None:
        """Bring the parameters back to the nearest that are allowed."""

    def only(self, arms: Tensor) -> Self:
        """A copy with some of the arms (indices)."""
        chosen = copy(self)
        chosen.parameters = [value.detach()[arms].clone() for value in self.parameters]
        return chosen


class Triggers(Arms):
    """Triggers over images (N, C, H, W) in the raw range."""

    kind: ClassVar[str]

    @abstractmethod
    def stamp(self, arms: Tensor, images: Tensor) -> Tensor:
        """``images`` (N, C, H, W), each carrying the trigger of its arm (N,)."""


class Climbers(Arms):
    """Arms of one parameter each, that :func:`~modelguard_triggers.climb` searches for."""

    pace: float = 1.0
    """The unit of a round's rate."""

    @abstractmethod
    def stamp_each(self, own: Tensor, arms: slice, images: Tensor) -> Tensor:
        """``images`` (a, b, C, H, W), b of each of the ``arms``, as (a*b, C, H, W) with triggers of the parameters ``own`` (a, ...)."""

    def restart(self, arms: Tensor, generator: torch.Generator) -> None:
        """Give the ``arms`` (A,) bool other random parameters. Only what is searched in rounds of several starts needs it."""
        raise NotImplementedError
