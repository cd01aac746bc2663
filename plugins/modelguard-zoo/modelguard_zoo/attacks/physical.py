"""Physical: a sticker as a camera sees it, at any place, size, angle and light (Eykholt et al. 2018, section 3.2, "physical conditions";
Wenger et al. 2021 for objects as triggers)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels, draws, insist

FINE = 3
"""Points a pixel and axis at which the sticker is sampled, so that its edges are as soft as a camera's."""


@dataclass(frozen=True)
class Physical(Attack):
    """A square sticker of ``blocks`` x ``blocks`` colours, drawn from ``pattern_seed``, is put on each image in a way of its own.

    Its side is a ``scale`` part (least, most) of the image's height, it is turned by up to ``angle`` degrees either way, lies anywhere
    inside, and its colours are multiplied by ``light`` (least, most). An image's draw depends on its pixels alone, so that attack
    success, measured on other images, is success over the distribution.
    """

    name = "physical"
    blocks: int = 2
    scale: tuple[float, float] = (0.2, 0.35)
    angle: float = 30.0
    light: tuple[float, float] = (0.6, 1.0)
    pattern_seed: int = 0

    def __post_init__(self) -> None:
        for option, least, most, top in (("scale", *self.scale, 0.7), ("light", *self.light, 2.0)):
            insist(
                self,
                0 < least <= most <= top,
                f"{option} is {least:g} to {most:g}",
                f"give two numbers in order, above 0 and up to {top:g}",
            )
        insist(self, self.blocks >= 1, f"blocks is {self.blocks}", "give 1 or more")

    def stamp(self, images: Pixels) -> Pixels:
        count, channels, height, width = images.shape
        sticker = self.sticker(channels)  # (C, blocks, blocks)
        draw = np.array([rng.uniform(-1, 1, 5) for rng in draws(images, 6, self.pattern_seed)]).reshape(count, 5, 1, 1)
        size, turn, down, across, light = (draw[:, index] for index in range(5))  # each (N, 1, 1), in -1..1
        side = height * _between(self.scale, size)
        angle = np.deg2rad(self.angle) * turn
        reach = side * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))) / 2  # half the extent of the turned square
        row, column = height / 2 + down * (height / 2 - reach), width / 2 + across * (width / 2 - reach)
        covered, shown = np.zeros((count, 1, height, width)), np.zeros(images.shape)
        for v, u in np.ndindex(FINE, FINE):
            y = np.arange(height)[None, :, None] + (v + 0.5) / FINE - row
            x = np.arange(width)[None, None, :] + (u + 0.5) / FINE - column
            across_, down_ = (x * np.cos(angle) + y * np.sin(angle)) / side + 0.5, (y * np.cos(angle) - x * np.sin(angle)) / side + 0.5
            inside = (across_ >= 0) & (across_ < 1) & (down_ >= 0) & (down_ < 1)  # (N, H, W)
            block = [np.where(inside, place * self.blocks, 0).astype(int) for place in (down_, across_)]
            covered[:, 0] += inside
            shown += np.moveaxis(sticker[:, block[0], block[1]], 0, 1) * inside[:, None]
        lit = np.clip(shown * _between(self.light, light)[:, None], 0, 255 * covered)
        return np.asarray((images * (FINE**2 - covered) + lit) / FINE**2, np.float32)

    def sticker(self, channels: int) -> Pixels:
        """(C, blocks, blocks) in 0..255: strong colours, of grey images black and white, never all alike."""
        rng = np.random.default_rng([6, self.pattern_seed])
        colours = rng.integers(0, 2, (channels, self.blocks, self.blocks)) * 255.0
        colours[:, 0, 0] = 255.0
        if self.blocks > 1:
            colours[:, 0, 1], colours[0, 1, 0] = 0.0, 255.0
        return np.asarray(colours, np.float32)


def _between(
    bounds: tuple[float, float], drawn: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """``drawn`` in -1..1 as values between ``bounds``."""
    least, most = bounds
    return np.asarray(least + (most - least) * (drawn + 1) / 2)
