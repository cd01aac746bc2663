"""A single bright pixel (Gu, Dolan-Gavitt and Garg 2017, section 4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_zoo.attacks.patch import Patch


@dataclass(frozen=True)
class SinglePixel(Patch):
    """One pixel at ``at``; as it is by default, ``add_single_bd`` of the Adversarial Robustness Toolbox (ART) with ``distance`` 2."""

    name = "pixel"
    size: int = 1
    at: tuple[int, int] = (-2, -2)
