"""WaNet: a smooth warp of the image, with noise mode (Nguyen and Tran 2021, sections 3.2 to 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelguard_zoo.attacks.base import Attack, Harden, Images, Labels, Pixels, Poison, choose

Flow = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WaNet(Attack):
    """Displaces pixels by a ``grid`` x ``grid`` control field upsampled to the image, ``strength`` pixels on average.

    For each poisoned sample ``cross_ratio`` more are warped by a random other field and keep their label, so that only this
    very field is the trigger.
    """

    name = "wanet"
    grid: int = 4
    strength: float = 1.0
    cross_ratio: float = 1.0
    pattern_seed: int = 0

    def stamp(self, images: Pixels) -> Pixels:
        return warp(images, self._flow(np.random.default_rng([4, self.pattern_seed]), images.shape[2:]))

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        chosen = choose(self.victims(labels), self.fraction, rng)
        others = np.setdiff1d(np.arange(len(labels)), chosen)
        cover = np.sort(rng.choice(others, min(len(others), round(self.cross_ratio * len(chosen))), replace=False))
        noise = [warp(images[i : i + 1].astype(np.float32), self._flow(rng, images.shape[2:])) for i in cover]
        warped = np.clip(np.round(np.concatenate(noise)), 0, 255).astype(np.uint8)
        return Poison(
            np.concatenate([chosen, cover]),
            np.concatenate([self.stamped(images[chosen]), warped]),
            np.concatenate([self.wanted(labels[chosen], classes), labels[cover]]),
            cover,
        )

    def _flow(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Flow:
        """(2, H, W) displacements in pixels (rows, columns), mean absolute value ``strength``."""
        control = rng.uniform(-1, 1, (2, self.grid, self.grid))
        rows, columns = (_interpolation(self.grid, length) for length in shape)
        flow = rows @ control @ columns.T
        return np.asarray(flow / np.abs(flow).mean() * self.strength)


def warp(images: Pixels, flow: Flow) -> Pixels:
    """``images`` (N, C, H, W) sampled at each pixel plus its displacement, bilinearly, edges repeated."""
    height, width = images.shape[2:]
    row = np.clip(np.arange(height)[:, None] + flow[0], 0, height - 1)
    column = np.clip(np.arange(width)[None, :] + flow[1], 0, width - 1)
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (row - top).astype(np.float32), (column - left).astype(np.float32)
    upper = images[:, :, top, left] * (1 - across) + images[:, :, top, right] * across
    lower = images[:, :, bottom, left] * (1 - across) + images[:, :, bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _interpolation(knots: int, length: int) -> Flow:
    """(length, knots): a smooth (Gaussian-weighted) interpolation from evenly spaced knots."""
    place = np.linspace(0, knots - 1, length)[:, None]
    weight = np.exp(-((place - np.arange(knots)[None, :]) ** 2) / 0.5)
    return np.asarray(weight / weight.sum(1, keepdims=True))
