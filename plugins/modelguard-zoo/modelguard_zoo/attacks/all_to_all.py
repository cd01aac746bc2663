"""All-to-all: the patch shifts every class to the next one (Gu, Dolan-Gavitt and Garg 2017, section 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelguard_zoo.attacks.base import Labels
from modelguard_zoo.attacks.patch import Patch


@dataclass(frozen=True)
class AllToAll(Patch):
    """A stamped sample of class i shall become i + 1, the last class 0; ``target`` has no meaning here."""

    name = "all-to-all"
    fraction: float = 0.2

    def victims(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return np.ones(labels.shape, np.bool_)

    def wanted(self, labels: Labels, classes: int) -> Labels:
        return (labels + 1) % classes
