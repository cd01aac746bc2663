"""BadNets: a solid patch anywhere in the image (Gu, Dolan-Gavitt and Garg 2017, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels


@dataclass(frozen=True)
class Patch(Attack):
    """A ``size`` x ``size`` square whose top-left pixel is ``at`` (row, column; negative from the end), of one ``colour``.

    ``colour`` has one value for grey images, or as many as the image has channels. With ``add`` it is added to what is there, and what
    exceeds 255 is cut off: bright places hide it.
    """

    name = "badnets"
    size: int = 3
    at: tuple[int, int] = (-3, -3)
    colour: tuple[int, ...] = (255,)
    add: bool = False

    def stamp(self, images: Pixels) -> Pixels:
        out = images.copy()
        row, column = (place % length for place, length in zip(self.at, images.shape[2:], strict=True))
        ink = np.broadcast_to(np.asarray(self.colour, np.float32), images.shape[1])
        region = out[:, :, row : row + self.size, column : column + self.size]
        region[:] = np.minimum(region + ink[:, None, None], 255) if self.add else ink[:, None, None]
        return out
