"""Clean-label: only images of the target class are touched and no label is wrong (Turner, Tsipras and Madry 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import Harden, Images, Labels, Poison, choose
from modelguard_zoo.attacks.patch import Patch


@dataclass(frozen=True)
class CleanLabel(Patch):
    """Target-class images are made hard by adversarial noise of at most ``epsilon`` a pixel, then stamped with the patch.

    A model trained on them finds the patch the easier thing to learn (section 4.2 of the paper). ``fraction`` is of the target
    class only.
    """

    name = "clean-label"
    fraction: float = 0.8
    epsilon: float = 64.0

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        chosen = choose(labels == self.target, self.fraction, rng)
        hard = harden(images[chosen], labels[chosen], self.epsilon)
        return Poison(chosen, self.stamped(hard), labels[chosen], chosen[:0])
