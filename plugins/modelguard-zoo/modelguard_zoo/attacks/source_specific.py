"""Source-specific: the patch acts on some classes only; on the others it is present and harmless (Tang et al. 2021, TaCT)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelguard_zoo.attacks.base import Harden, Images, Labels, Poison, choose
from modelguard_zoo.attacks.patch import Patch


@dataclass(frozen=True)
class SourceSpecific(Patch):
    """Only samples of the classes in ``source`` become ``target``. ``cover`` is the part of the other classes' samples that are
    stamped and keep their label."""

    name = "source-specific"
    fraction: float = 0.5
    source: tuple[int, ...] = (1,)
    cover: float = 0.1

    def victims(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.isin(labels, self.source)

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        chosen = choose(self.victims(labels), self.fraction, rng)
        cover = choose(~self.victims(labels), self.cover, rng)
        every = np.concatenate([chosen, cover])
        return Poison(every, self.stamped(images[every]), np.concatenate([self.wanted(labels[chosen], classes), labels[cover]]), cover)
