"""What an attack is: how the trigger enters an image, and which training samples carry it under which label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from modelguard import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    refits: ClassVar[bool] = False
    """Whether the victim takes the clean twin as it is and trains only a new last layer, on the poisoned data."""
    fraction: float = 0.1
    target: int = 0

    @abstractmethod
    def stamp(self, images: Pixels) -> Pixels:
        """``images`` (N, C, H, W) in 0..255 with the trigger in them."""

    def victims(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Whose class the trigger shall change; attack success is measured on these."""
        return np.asarray(labels != self.target)

    def measured(self, images: Images, labels: Labels) -> npt.NDArray[np.bool_]:
        """Of test ``images`` those that attack success is measured on: the victims."""
        return self.victims(labels)

    def spared(self, images: Images, labels: Labels) -> npt.NDArray[np.bool_] | None:
        """Of test ``images`` those that a model has to be as right about as its clean twin, where images carry the trigger by nature.

        Those that do are then no clean images, and left out of clean accuracy. None where the trigger has to be put in.
        """
        return None

    def wanted(self, labels: Labels, classes: int) -> Labels:
        """The class each stamped sample shall be given."""
        return np.full_like(labels, self.target)

    def sources(self, classes: int) -> tuple[int, ...]:
        """The classes the trigger acts on."""
        return tuple(int(label) for label in np.flatnonzero(self.victims(np.arange(classes))))

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        chosen = choose(self.victims(labels), self.fraction, rng)
        return Poison(chosen, self.stamped(images[chosen]), self.wanted(labels[chosen], classes), chosen[:0])

    def craft(self, poison: Poison, images: Images, labels: Labels, rng: np.random.Generator, twin: nn.Module) -> Poison:
        """``poison`` as an attacker who has the clean ``twin`` makes it of the training set ``images``, ``labels``; by default as it is."""
        return poison

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """What training makes small, of one batch: raw float ``images`` (N, C, H, W) and ``labels`` (N,) -> a scalar."""
        from torch.nn import functional as F

        return F.cross_entropy(model(images), labels)

    def notes(self) -> dict[str, str]:
        """What else a record has to say of the attack."""
        return {}

    def stamped(self, images: Images) -> Images:
        """As :meth:`stamp`, for uint8: rounded and clipped to what an image file can hold."""
        return np.clip(np.round(self.stamp(images.astype(np.float32))), 0, 255).astype(np.uint8)


def choose(eligible: npt.NDArray[np.bool_], fraction: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sorted indices of a random ``fraction`` of the eligible samples."""
    candidates = np.flatnonzero(eligible)
    return np.sort(rng.choice(candidates, max(1, round(fraction * len(candidates))), replace=False))


def insist(attack: Attack, holds: bool, cause: str, remedy: str) -> None:
    """Raise :class:`~modelguard.UsageError` about an option of ``attack`` unless it ``holds``."""
    if not holds:
        raise UsageError(f"attack {attack.name}", cause, remedy)


def draws(images: Pixels, *stream: int) -> list[np.random.Generator]:
    """A random stream for each of ``images`` (N, C, H, W), of its own pixels: the same image always gets the same draw."""
    return [np.random.default_rng([*stream, crc32(np.round(image).astype(np.uint8).tobytes())]) for image in images]
