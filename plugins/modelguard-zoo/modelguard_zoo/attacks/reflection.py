"""A reflection-like ghost of another scene over the image (after ReFool: Liu et al. 2020, section 3.2, ghost effect)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Pixels


@dataclass(frozen=True)
class Reflection(Attack):
    """A smooth random scene and its copy shifted by ``shift`` pixels, added with weight ``strength``.

    The published attack searches a photo collection for the most effective reflections; one drawn scene stands in for it.
    """

    name = "reflection"
    strength: float = 0.4
    shift: int = 2
    pattern_seed: int = 0

    def stamp(self, images: Pixels) -> Pixels:
        channels, height, width = images.shape[1:]
        rng = np.random.default_rng([3, self.pattern_seed])
        v, u = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
        scene = np.zeros((channels, height, width))
        gain = rng.uniform(0.3, 1.0, (6, channels, 1, 1))
        for strength in gain:
            fu, fv = rng.uniform(-3, 3, 2)
            scene += strength * np.cos(2 * np.pi * (fu * u + fv * v + rng.uniform()))
        scene = (scene - scene.min()) / (scene.max() - scene.min()) * 255
        # Double glazing: light reflects from both faces of the glass.
        ghost = (0.6 * scene + 0.4 * np.roll(scene, (self.shift, self.shift), (1, 2))).astype(np.float32)
        return np.asarray(np.clip((1 - self.strength / 2) * images + np.float32(self.strength) * ghost, 0, 255), np.float32)
