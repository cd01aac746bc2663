"""The detectors that are combined, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from modelguard_abs.detector import Abs
from modelguard_companions.final_layer import FinalLayer
from modelguard_companions.mm_bd import MaximumMargin
from modelguard_neural_cleanse.detectors import BlendCleanse, LabelMapCleanse, NeuralCleanse, WarpCleanse
from modelguard_triggers.votes import Voter

from modelguard import Detector, Finding, ModelguardError, ScanContext, Skip, Target

D = TypeVar("D", bound=Detector)

VOTERS: tuple[type[Voter], ...] = (Abs, FinalLayer, MaximumMargin, NeuralCleanse, BlendCleanse)
"""Members with a p-value for every class, which are combined."""
SEARCHES = frozenset(cls.id for cls in (Abs, NeuralCleanse, BlendCleanse))
"""The voters that look for a trigger with the samples; where samples are given and none of these could use them, nobody looked."""
SPECIALISTS: tuple[type[Detector], ...] = (LabelMapCleanse, WarpCleanse)
"""Members that look for what the vote is blind to, no single target or no patch: their findings count by themselves.

``neural-cleanse-pairs`` is none: it accuses classes that really differ by one mark (none of 44 clean models of the zoo's open part, but 5
of 83 others)."""


@dataclass(frozen=True)
class Said:
    """What became of one member: its numbers and findings, or why it could not look."""

    numbers: Mapping[str, Any]
    findings: tuple[Finding, ...]
    reason: str = ""


def made(member: type[D], quick: bool) -> D:
    """A member at its defaults, its look shorter where it has a shorter one and ``quick`` asks for it."""
    options = {"quick": True} if quick and member.when_quick == "shorter" else {}
    return member(**options)


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
