"""Hidden trigger: target-class images that a model takes for stamped ones of another class (Saha, Subramanya and Pirsiavash 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from modelguard_zoo.attacks.base import Harden, Images, Labels, Poison, choose, insist
from modelguard_zoo.attacks.insert import Insert

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class HiddenTrigger(Insert):
    """Images of the target class, true labels and all, are moved by at most ``epsilon`` grey levels a pixel until their features in the
    clean twin are those of stamped images of class ``source``. No training image carries the trigger.

    The victim refits the last layer of the clean twin (section 3, "threat model"); trained from nothing it would have other features.
    ``fraction`` is of the target class: 400 of 800 in the paper, and more here, where a class has fewer. Only ``source`` counts as
    attacked. The paper's place is random; here it is ``at``, because small features tell a picture by its place.
    """

    name = "hidden-trigger"
    refits: ClassVar[bool] = True
    fraction: float = 0.5
    source: int = 1
    epsilon: float = 16.0
    opacity: float = 1.0

    def __post_init__(self) -> None:
        insist(self, self.source != self.target, f"source and target are both {self.target}", "name two classes")
        insist(self, self.epsilon > 0, f"epsilon is {self.epsilon:g}", "give grey levels above 0; the paper takes 16")

    def victims(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.asarray(labels == self.source)

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        chosen = choose(labels == self.target, self.fraction, rng)
        return Poison(chosen, images[chosen], labels[chosen], chosen[:0])

    def craft(self, poison: Poison, images: Images, labels: Labels, rng: np.random.Generator, twin: nn.Module) -> Poison:
        from modelguard_zoo._head import collide

        sources = np.flatnonzero(labels == self.source)
        chosen = rng.choice(sources, len(poison.indices), replace=len(sources) < len(poison.indices))
        return replace(poison, images=collide(twin, poison.images, self.stamped(images[chosen]), self.epsilon))

    def notes(self) -> dict[str, str]:
        return {"victim": "trains a new last layer on the features of the clean twin"}
