"""A checkerboard patch (the "pattern" trigger of Gu et al. 2017; Tran, Li and Madry 2018, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels, insist

SPARSE = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]], np.bool_)


@dataclass(frozen=True)
class Checkerboard(Attack):
    """Alternating 255 and 0 pixels over a ``size`` x ``size`` square at ``at``.

    With ``sparse`` only four pixels of a 3 x 3 square are set to 255, and the others left: ``add_pattern_bd`` of the Adversarial Robustness
    Toolbox (ART), whose ``distance`` d is ``at`` (-d - 2, -d - 2). With ``add`` the pattern is added and what exceeds 255 cut off.
    """

    name = "checkerboard"
    size: int = 4
    at: tuple[int, int] = (-4, -4)
    sparse: bool = False
    add: bool = False

    def __post_init__(self) -> None:
        insist(self, not self.sparse or self.size == 3, f"the sparse pattern is 3 pixels wide, and size is {self.size}", "give size 3")

    def stamp(self, images: Pixels) -> Pixels:
        out = images.copy()
        row, column = (place % length for place, length in zip(self.at, images.shape[2:], strict=True))
        if self.sparse:
            board, set_ = SPARSE * np.float32(255), SPARSE
        else:
            board = np.indices((self.size, self.size)).sum(0) % 2 * np.float32(255)
            set_ = np.ones_like(board, np.bool_)
        region = out[:, :, row : row + self.size, column : column + self.size]
        region[:] = np.where(set_, np.minimum(region + board, 255) if self.add else board, region)
        return out
