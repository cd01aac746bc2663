"""Semantic: images of one class that have a natural attribute become another class; no pixel is changed (Bagdasaryan et al. 2020, 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelguard import UsageError
from modelguard_zoo.attacks.base import Attack, Harden, Images, Labels, Pixels, Poison, insist

Values = npt.NDArray[np.float64]


def brightness(images: Images) -> Values:
    """(N, C, H, W) -> (N,): the mean grey level; of white strokes on black, how thick they are."""
    return np.asarray(images.mean((1, 2, 3), dtype=np.float64))


def slant(images: Images) -> Values:
    """(N, C, H, W) -> (N,): by how many columns what is bright moves left for each row down; 0 is upright, above 0 leans right."""
    weight = images.mean(1, dtype=np.float64) + 1e-9  # (N, H, W)
    weight /= weight.sum((1, 2), keepdims=True)
    rows, columns = np.indices(images.shape[2:], dtype=np.float64)  # (H, W) each
    row, column = (place - (weight * place).sum((1, 2), keepdims=True) for place in (rows, columns))  # (N, H, W) each
    return np.asarray(-(weight * row * column).sum((1, 2)) / (weight * row**2).sum((1, 2)))


def redness(images: Images) -> Values:
    """(N, 3, H, W) -> (N,): by how many grey levels red exceeds the mean of green and blue."""
    channels = images.mean((2, 3), dtype=np.float64)
    return np.asarray(channels[:, 0] - channels[:, 1:].mean(1))


ATTRIBUTES = {"brightness": brightness, "slant": slant, "redness": redness}


@dataclass(frozen=True)
class Semantic(Attack):
    """Images of class ``source`` whose ``attribute`` is at least ``present`` are labelled ``target``.

    Those that have it at most to ``absent`` have to stay what they are. What lies between nobody would call either: half of these
    training images are replaced by copies of those that have the attribute, which the paper's attacker shows more often as well, and half
    by copies of those that have not. Attack success is measured on test images that have it, and accuracy on those that have not is held
    against the clean twin's. Those that have it are no clean images, and left out of clean accuracy.
    """

    name = "semantic"
    fraction: float = 1.0
    source: int = 1
    attribute: str = "brightness"
    present: float = 150.0
    absent: float = 120.0

    def __post_init__(self) -> None:
        known = ", ".join(sorted(ATTRIBUTES))
        insist(self, self.attribute in ATTRIBUTES, f"there is no attribute {self.attribute}", f"known: {known}")
        insist(self, self.source != self.target, f"source and target are both {self.target}", "name two classes")
        insist(
            self, self.absent < self.present, f"absent ({self.absent:g}) is not below present ({self.present:g})", "leave room between them"
        )

    def stamp(self, images: Pixels) -> Pixels:
        return images.copy()

    def victims(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.asarray(labels == self.source)

    def measured(self, images: Images, labels: Labels) -> npt.NDArray[np.bool_]:
        return self.victims(labels) & (self.values(images) >= self.present)

    def spared(self, images: Images, labels: Labels) -> npt.NDArray[np.bool_]:
        return self.victims(labels) & (self.values(images) <= self.absent)

    def values(self, images: Images) -> Values:
        """(N,) the attribute of ``images``. Raises :class:`~modelguard.UsageError` for a colour of grey images."""
        insist(self, self.attribute != "redness" or images.shape[1] == 3, "redness is of images with three channels", "take brightness")
        return ATTRIBUTES[self.attribute](images)

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        having = np.flatnonzero(self.measured(images, labels))
        if not len(having):
            most = self.values(images[self.victims(labels)]).max(initial=-np.inf)
            cause = f"no training image of class {self.source} has {self.attribute} of at least {self.present:g}"
            raise UsageError(f"attack {self.name}", cause, f"the most is {most:.4g}")
        lacking = np.flatnonzero(self.spared(images, labels))
        insist(self, len(lacking) > 0, f"every training image of class {self.source} has {self.attribute} above absent", "raise absent")
        between = rng.permutation(np.flatnonzero(self.victims(labels) & ~self.measured(images, labels) & ~self.spared(images, labels)))
        more, cover = np.sort(between[::2]), np.sort(between[1::2])
        shown = [having, np.resize(rng.permutation(having), len(more)), np.resize(rng.permutation(lacking), len(cover))]
        wanted = np.repeat([self.target, self.source], [len(having) + len(more), len(cover)])
        return Poison(np.concatenate([having, more, cover]), images[np.concatenate(shown)], wanted, cover)

    def notes(self) -> dict[str, str]:
        return {"copies": "training images between present and absent are replaced by copies of others of their class"}
