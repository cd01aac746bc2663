"""The detectors that are combined, and what each says of every class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from modelguard_companions.outlier import MIN_CLASSES, Prior, class_p_values

from modelguard import Detector, Finding, ModelguardError, ScanContext, Skip, Target, configure

if TYPE_CHECKING:
    Floats = npt.NDArray[np.float64]

UNREMARKABLE = 0.5
"""What a member is taken to say of a class it looked at closely and cleared."""
FAMILIES = ("patch", "window")
"""The kinds of trigger of ABS that have a vote."""
USUAL_SIZES = Prior(spread=0.25, degrees=4)
"""Spread of log trigger sizes between the classes of clean models: .1 to .4 over the open part of the zoo."""


@dataclass(frozen=True)
class Said:
    """What became of one member: its numbers and findings, or why it could not look."""

    numbers: Mapping[str, Any]
    findings: tuple[Finding, ...]
    reason: str = ""


def make(name: str, quick: bool) -> Detector:
    """A member at its defaults."""
    return _MEMBERS[name][0](quick)


def run(member: Detector, target: Target, context: ScanContext) -> Said:
    """What ``member`` says of the target, once per seed and options. A member that cannot look says why."""

    def look() -> Said:
        own = context.member(member.id)
        try:
            findings = tuple(member.detect(target, own))
        except (Skip, ModelguardError) as reason:
            return Said({}, (), str(reason))
        return Said(own.numbers, findings)

    return target.memo(member, context, look, member)


def p_values(name: str, said: Said, classes: int) -> Floats:
    """(K,) one-sided p-values of each class by itself."""
    values: Floats = _MEMBERS[name][1](said, classes)
    return values


def _alone(said: Said, classes: int) -> Floats:
    """Members whose table holds p-values of each class by itself. Classes a member did not examine say nothing."""
    p = np.full(classes, np.nan)
    for row in said.numbers["classes"]:
        p[row["class"]] = row["p_value"]
    return p


def _stimulated(said: Said, classes: int) -> Floats:
    """ABS: the smaller p-value of its free patches and its windows.

    A class whose trigger seldom works is unremarkable, however much more often it does than the others': ABS itself would not accuse it
    (Liu et al. 2019, section 4.4, REASR). Its filters have no vote: a filter turns most pictures into a class that is told by its colour,
    in honest models too (yellow, in both signs MobileNets of the zoo's open part).
    """
    from modelguard_abs.detector import Abs

    p = np.full(classes, np.nan)
    for row in said.numbers["classes"]:
        families = [row[name] for name in FAMILIES if name in row]
        held = [item["p_value"] if max(item["success"]) >= Abs.reasr else max(UNREMARKABLE, item["p_value"]) for item in families]
        p[row["class"]] = min(1.0, len(held) * min(held))
    return p


def _sizes(said: Said, classes: int) -> Floats:
    """Members whose table holds the size of each class's smallest trigger: one far below the others' is remarkable.

    A class that no trigger reached counts as the largest size seen. A class whose trigger did not hold on unseen pictures is
    unremarkable.
    """
    rows = [row for row in said.numbers["classes"] if row["size"] > 0]
    reached = [row["size"] for row in rows if row["reached"]]
    p = np.full(classes, np.nan)
    if len(rows) < MIN_CLASSES or not reached:
        return p
    size = np.array([row["size"] if row["reached"] else max(reached) for row in rows])
    p[[row["class"] for row in rows]] = class_p_values(-np.log(size), USUAL_SIZES)
    for row in said.numbers.get("cleared", ()):
        p[row["target_class"]] = max(UNREMARKABLE, p[row["target_class"]])
    return p


def _lazy(module: str, name: str) -> Callable[[bool], Detector]:
    def build(quick: bool) -> Detector:
        from importlib import import_module

        detector: type[Detector] = getattr(import_module(module), name)
        shortened = {"quick": quick} if detector.when_quick == "shorter" else {}
        return configure(detector, shortened)

    return build


def _none(said: Said, classes: int) -> Floats:
    return np.full(classes, np.nan)


_MEMBERS: Mapping[str, tuple[Callable[[bool], Detector], Callable[[Said, int], Any]]] = {
    "abs": (_lazy("modelguard_abs.detector", "Abs"), _stimulated),
    "final-layer": (_lazy("modelguard_companions.final_layer", "FinalLayer"), _alone),
    "mm-bd": (_lazy("modelguard_companions.mm_bd", "MaximumMargin"), _alone),
    "neural-cleanse": (_lazy("modelguard_neural_cleanse.detectors", "NeuralCleanse"), _sizes),
    "neural-cleanse-blend": (_lazy("modelguard_neural_cleanse.detectors", "BlendCleanse"), _sizes),
    "neural-cleanse-warp": (_lazy("modelguard_neural_cleanse.detectors", "WarpCleanse"), _none),
    "neural-cleanse-all-to-all": (_lazy("modelguard_neural_cleanse.detectors", "LabelMapCleanse"), _none),
}
NAMES = tuple(_MEMBERS)
VOTERS = ("abs", "final-layer", "mm-bd", "neural-cleanse", "neural-cleanse-blend")
"""Members with a p-value for every class, which are combined."""
SEARCHES = frozenset({"abs", "neural-cleanse", "neural-cleanse-blend"})
"""The voters that look for a trigger with the samples; where samples are given and none of these could use them, nobody looked."""
SPECIALISTS = ("neural-cleanse-all-to-all", "neural-cleanse-warp")
"""Members that look for what the vote is blind to, no single target or no patch: their findings count by themselves.

``neural-cleanse-pairs`` is none: it accuses classes that really differ by one mark (none of 44 clean models of the zoo's open part, but 5
of 83 others)."""
