"""A small picture pasted with partial opacity (the "insert" trigger of Liu et al. 2018, Trojaning Attack, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels, draws


@dataclass(frozen=True)
class Insert(Attack):
    """A random ``size`` x ``size`` colour picture drawn from ``pattern_seed``, blended at ``at`` with weight ``opacity``.

    With ``anywhere`` the place is drawn for each image, of its own pixels: ``insert_image`` of the Adversarial Robustness Toolbox (ART)
    with ``random``, which draws anew at each call; its ``blend`` is ``opacity``. With ``add`` the picture times ``opacity`` is added, and
    what exceeds 255 cut off.
    """

    name = "insert"
    size: int = 6
    at: tuple[int, int] = (1, 1)
    opacity: float = 0.8
    pattern_seed: int = 0
    anywhere: bool = False
    add: bool = False

    def stamp(self, images: Pixels) -> Pixels:
        out = images.copy()
        rng = np.random.default_rng([1, self.pattern_seed])
        picture = rng.uniform(0, 255, (images.shape[1], self.size, self.size)).astype(np.float32)
        if not self.anywhere:
            row, column = (place % length for place, length in zip(self.at, images.shape[2:], strict=True))
            self._blend(out[:, :, row : row + self.size, column : column + self.size], picture)
            return out
        free = [length - self.size + 1 for length in images.shape[2:]]
        for image, draw in zip(out, draws(images, 8, self.pattern_seed), strict=True):
            row, column = draw.integers(0, free)
            self._blend(image[:, row : row + self.size, column : column + self.size], picture)
        return out

    def _blend(self, region: Pixels, picture: Pixels) -> None:
        """Put ``picture`` (C, size, size) into ``region`` (..., C, size, size), in place."""
        weight = np.float32(self.opacity)
        region[:] = np.minimum(region + weight * picture, 255) if self.add else region + weight * (picture - region)
