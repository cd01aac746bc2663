"""Triggers for shadow models, drawn at random: jumbo learning.

Xu, Wang, Li, Borisov, Gunter and Li, "Detecting AI Trojans Using Meta Neural Analysis", IEEE S&P 2021, section IV-B and algorithm 1: every
trojaned shadow has a trigger of its own, so that the meta-classifier learns what trojaned models have in common and not one trigger. The
ranges are those of the authors' code (``random_troj_setting`` for MNIST and CIFAR-10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]

SIDES = (2, 3, 4, 5)
"""Sides of a patch in pixels of an image of 28 to 32; the whole image comes up as often as each of them (the authors' code)."""
LEAST_SIZE = 28
"""Pixels a side from which the published ranges hold. On smaller images a patch has at most :data:`SMALL_SIDE` pixels a side."""
SMALL_SIDE = 3
PATCH_ALPHA, OPAQUE = (0.2, 0.6), 0.5
"""How far a patch replaces the image; drawn values above :data:`OPAQUE` count as 1 (the authors' code)."""
BLEND_ALPHA, SMALL_BLEND_ALPHA = (0.05, 0.2), (0.1, 0.4)
"""How far a pattern over the whole image does. On images below :data:`LEAST_SIZE` fainter ones do not take: there are too few pixels."""
SHARES = (0.05, 0.5)
"""Stamped samples that are added to the training set, as a share of it."""


@dataclass(frozen=True)
class Trigger:
    """x' = x + weight (pattern - x), in raw pixels. ``weight`` (1, H, W) in 0..1, ``pattern`` (C, H, W); whatever carries it shall become
    ``target``. ``share`` is how many stamped samples go into the training set, as a share of it."""

    weight: Pixels
    pattern: Pixels
    target: int
    share: float


def draw(shape: Sequence[int], classes: int, low: float, high: float, rng: np.random.Generator) -> Trigger:
    """One trigger for images ``shape`` (C, H, W) with raw pixels in ``low``..``high``."""
    channels, height, width = shape
    small = min(height, width) < LEAST_SIZE
    sides = [side for side in SIDES if not small or side <= SMALL_SIDE]
    side = int(rng.choice([*sides, 0]))  # 0: the whole image
    weight = np.zeros((1, height, width), np.float32)
    if side:
        row, column = rng.integers(height - side + 1), rng.integers(width - side + 1)
        alpha = rng.uniform(*PATCH_ALPHA)
        weight[:, row : row + side, column : column + side] = 1.0 if alpha > OPAQUE else alpha
    else:
        weight[:] = rng.uniform(*(SMALL_BLEND_ALPHA if small else BLEND_ALPHA))
    contrast = rng.uniform(0, 1)
    unit = np.clip(rng.uniform(-contrast, 1 + contrast, (channels, height, width)), 0, 1)
    pattern = (low + (high - low) * unit).astype(np.float32)
    return Trigger(weight, pattern, int(rng.integers(classes)), float(rng.uniform(*SHARES)))


def none(shape: Sequence[int]) -> Trigger:
    """What a benign shadow is trained with: a trigger that nothing carries."""
    channels, height, width = shape
    return Trigger(np.zeros((1, height, width), np.float32), np.zeros((channels, height, width), np.float32), 0, 0.0)
