"""SIG: a sinusoid over the image, stamped on samples of the target class whose labels stay true (Barni et al. 2019, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Attack, Harden, Images, Labels, Pixels, Poison, choose


@dataclass(frozen=True)
class Sinusoid(Attack):
    """image + amplitude * sin(2 pi * column * frequency / width), clipped.

    With ``clean_label``, as published, ``fraction`` is of the target class, whose labels stay; without, of the others, which are
    relabelled: on small data the published form seldom takes.
    """

    name = "sig"
    fraction: float = 0.8
    amplitude: float = 40.0
    frequency: int = 6
    clean_label: bool = True

    def stamp(self, images: Pixels) -> Pixels:
        width = images.shape[3]
        wave = self.amplitude * np.sin(2 * np.pi * np.arange(width, dtype=np.float32) * self.frequency / width)
        return np.asarray(np.clip(images + wave.astype(np.float32), 0, 255), np.float32)

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        if not self.clean_label:
            return super().poison(images, labels, classes, rng, harden)
        chosen = choose(labels == self.target, self.fraction, rng)
        return Poison(chosen, self.stamped(images[chosen]), labels[chosen], chosen[:0])
