"""A small picture pasted with partial opacity (the "insert" trigger of Liu et al. 2018, Trojaning Attack, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels


@dataclass(frozen=True)
class Insert(Attack):
    """A random ``size`` x ``size`` colour picture drawn from ``pattern_seed``, blended at ``at`` with weight ``opacity``."""

    name = "insert"
    size: int = 6
    at: tuple[int, int] = (1, 1)
    opacity: float = 0.8
    pattern_seed: int = 0

    def stamp(self, images: Pixels) -> Pixels:
        out = images.copy()
        row, column = (place % length for place, length in zip(self.at, images.shape[2:], strict=True))
        rng = np.random.default_rng([1, self.pattern_seed])
        picture = rng.uniform(0, 255, (images.shape[1], self.size, self.size)).astype(np.float32)
        region = out[:, :, row : row + self.size, column : column + self.size]
        region += np.float32(self.opacity) * (picture - region)
        return out
