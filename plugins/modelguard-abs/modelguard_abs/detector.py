"""``abs``: Artificial Brain Stimulation (Liu et al., CCS 2019), batched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from modelguard_triggers.outliers import UNREMARKABLE, Floats
from modelguard_triggers.votes import Voter

from modelguard import Capability, Finding, ScanContext, Target, option
from modelguard_abs._rules import FILTER, PATCH

VOTING = ("patch", "window")
"""The kinds of trigger that have a vote. A filter turns most images into a class that is told by its colour, in honest models too (yellow,
in both signs MobileNets of the zoo's open part)."""


@dataclass(frozen=True)
class Abs(Voter):
    """Stimulates every neuron, traces those that decide for one class back to a trigger, and asks whether it works on unseen images.

    What the paper calls REASR, the success of the recovered trigger, is compared between the classes at equal trigger size: a clean
    model has classes that are easily reached too, and an absolute threshold accuses them.
    """

    id = "abs"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (PATCH, FILTER)
    when_quick = "shorter"

    p_value: float = option(0.02, "accuse a class at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    reasr: float = option(
        0.6, "attack success of the recovered trigger on unseen images from which a class is accused", gt=0, le=1, judges=True
    )
    pictures: int = option(3, "clean images of each class that triggers are searched on", ge=1)
    check: int = option(200, "most clean images a trigger is checked on", ge=1)
    candidates: int = option(2, "neurons or groups of neurons followed for each class", ge=1, le=100)
    steps: int = option(100, "optimisation steps", ge=1, le=10_000)
    filters: bool = option(True, "search for filter triggers too")
    quick: bool = option(False, "half the steps, half the sizes, one candidate a class, fewer rounds for windows, no filters")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        from modelguard_abs._scan import scan

        yield from scan(self, target, context)

    def class_p_values(self, summary: Mapping[str, Any], classes: int) -> Floats:
        """The smaller p-value of free patches and windows, corrected for there being two.

        A class whose trigger seldom works is unremarkable, however much more often it does than the others': it would not be accused
        (Liu et al. 2019, section 4.4, REASR).
        """
        p = np.full(classes, np.nan)
        for row in summary["classes"]:
            kinds = [row[name] for name in VOTING if name in row]
            held = [item["p_value"] if max(item["success"]) >= self.reasr else max(UNREMARKABLE, item["p_value"]) for item in kinds]
            p[row["class"]] = min(1.0, len(held) * min(held))
        return p
