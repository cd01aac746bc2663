"""A checkerboard patch (the "pattern" trigger of Gu et al. 2017; Tran, Li and Madry 2018, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels


@dataclass(frozen=True)
class Checkerboard(Attack):
    """Alternating 255 and 0 pixels over a ``size`` x ``size`` square at ``at``."""

    name = "checkerboard"
    size: int = 4
    at: tuple[int, int] = (-4, -4)

    def stamp(self, images: Pixels) -> Pixels:
        out = images.copy()
        row, column = (place % length for place, length in zip(self.at, images.shape[2:], strict=True))
        board = np.indices((self.size, self.size)).sum(0) % 2 * np.float32(255)
        out[:, :, row : row + self.size, column : column + self.size] = board
        return out
