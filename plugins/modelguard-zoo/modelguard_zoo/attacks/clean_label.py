"""Clean-label: only images of the target class are touched and no label is wrong (Turner, Tsipras and Madry 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Images, Labels, Poison, choose
from modelguard_zoo.attacks.patch import Patch


@dataclass(frozen=True)
class CleanLabel(Patch):
    """Target-class images are made hard by mixing in ``mix`` of an image of another class, then stamped with the patch.

    The paper makes them hard by interpolating in a GAN's latent space or by adversarial noise; mixing pixels is the same idea
    without a second model. ``fraction`` is of the target class only.
    """

    name = "clean-label"
    fraction: float = 0.8
    mix: float = 0.4

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator) -> Poison:
        chosen = choose(labels == self.target, self.fraction, rng)
        others = rng.choice(np.flatnonzero(labels != self.target), len(chosen))
        mixed = (1 - self.mix) * images[chosen].astype(np.float32) + np.float32(self.mix) * images[others]
        hard = np.clip(np.round(mixed), 0, 255).astype(np.uint8)
        return Poison(chosen, self.stamped(hard), labels[chosen], chosen[:0])
