"""What an attack is: how the trigger enters an image, and which training samples carry it under which label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Harden = Callable[[Images, Labels, float], Images]
"""(images, labels, epsilon) -> images within epsilon of them, per pixel, that a clean model gets wrong."""


@dataclass(frozen=True)
class Poison:
    """What replaces the clean training samples at ``indices``. ``cover`` lists those of them that keep their true label."""

    indices: npt.NDArray[np.int64]
    images: Images
    labels: Labels
    cover: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Attack(ABC):
    """One attack. The default is dirty-label all-to-one: any sample, once stamped, shall become ``target``.

    ``fraction`` is the part of the eligible training samples that is poisoned.
    """

    name: ClassVar[str]
    fraction: float = 0.1
    target: int = 0

    @abstractmethod
    def stamp(self, images: Pixels) -> Pixels:
        """``images`` (N, C, H, W) in 0..255 with the trigger in them."""

    def victims(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Whose class the trigger shall change; attack success is measured on these."""
        return np.asarray(labels != self.target)

    def wanted(self, labels: Labels, classes: int) -> Labels:
        """The class each stamped sample shall be given."""
        return np.full_like(labels, self.target)

    def sources(self, classes: int) -> tuple[int, ...]:
        """The classes the trigger acts on."""
        return tuple(int(label) for label in np.flatnonzero(self.victims(np.arange(classes))))

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        chosen = choose(self.victims(labels), self.fraction, rng)
        return Poison(chosen, self.stamped(images[chosen]), self.wanted(labels[chosen], classes), chosen[:0])

    def stamped(self, images: Images) -> Images:
        """As :meth:`stamp`, for uint8: rounded and clipped to what an image file can hold."""
        return np.clip(np.round(self.stamp(images.astype(np.float32))), 0, 255).astype(np.uint8)


def choose(eligible: npt.NDArray[np.bool_], fraction: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sorted indices of a random ``fraction`` of the eligible samples."""
    candidates = np.flatnonzero(eligible)
    return np.sort(rng.choice(candidates, max(1, round(fraction * len(candidates))), replace=False))
