"""Blended injection: a faint full-size pattern over every pixel (Chen et al. 2017, section 3.2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels


@dataclass(frozen=True)
class Blended(Attack):
    """(1 - ratio) * image + ratio * pattern, the pattern uniform noise drawn from ``pattern_seed``."""

    name = "blended"
    ratio: float = 0.2
    pattern_seed: int = 0

    def stamp(self, images: Pixels) -> Pixels:
        pattern = np.random.default_rng([2, self.pattern_seed]).uniform(0, 255, images.shape[1:]).astype(np.float32)
        return images + np.float32(self.ratio) * (pattern - images)
