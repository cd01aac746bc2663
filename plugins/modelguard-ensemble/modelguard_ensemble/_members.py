"""The detectors that are combined, and what each says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from modelguard_abs.detector import Abs
from modelguard_companions.final_layer import FinalLayer
from modelguard_companions.mm_bd import MaximumMargin
from modelguard_language.lm.inversion import LmInversion
from modelguard_language.text_probes import TextProbes
from modelguard_language.token_scan import TokenScan
from modelguard_neural_cleanse.detectors import BlendCleanse, LabelMapCleanse, NeuralCleanse, WarpCleanse
from modelguard_triggers.outliers import Floats
from modelguard_triggers.plan import Look, Search, Stage, planned, staged

from modelguard import DeadlineExceeded, ModelguardError, ScanContext, Skip, Target

S = TypeVar("S", bound=Search)

VOTERS: tuple[type[Search], ...] = (Abs, FinalLayer, MaximumMargin, NeuralCleanse, BlendCleanse)
"""Members with a p-value for every class, which are combined."""
SEARCHES = frozenset(cls.id for cls in (Abs, NeuralCleanse, BlendCleanse))
"""The voters that look for a trigger with the samples; where samples are given and none of these could use them, nobody looked."""
SPECIALISTS: tuple[type[Search], ...] = (LabelMapCleanse, WarpCleanse)
"""Members that look for what the vote is blind to, no single target or no patch: their findings count by themselves.

``neural-cleanse-pairs`` is none: it accuses classes that really differ by one mark (none of 44 clean models of the zoo's open part, but 5
of 83 others)."""
TEXT: tuple[type[Search], ...] = (TokenScan, TextProbes)
"""Members that look at text models: each for a trigger of its own shape, so their findings count by themselves, and there is no vote.

``embedding-inversion`` is none: by itself it accuses clean models (docs/detection-matrix.md)."""
LANGUAGE = LmInversion
"""The member that looks at language models, with or without a reference. The others need one, or sample the model's own words."""
UNFINISHED = "not finished"


@dataclass(frozen=True)
class Said:
    """What became of one member: its look, or why it has none."""

    look: Look | None
    reason: str = ""

    @property
    def votes(self) -> Floats | None:
        """(K,) NaN where it has nothing to say; None where it says nothing of any class."""
        votes = None if self.look is None else self.look.votes
        return None if votes is None or np.isnan(votes).all() else votes

    @property
    def late(self) -> bool:
        """Whether it had no time for something."""
        return self.reason.startswith(UNFINISHED)


def made(member: type[S], quick: bool) -> S:
    """A member at its defaults, its look shorter where it has a shorter one and ``quick`` asks for it."""
    options = {"quick": True} if quick and member.when_quick == "shorter" else {}
    return member(**options)


def ask(member: Search, target: Target, context: ScanContext, stage: Stage | None = None) -> Said:
    """What ``member`` says at one stage of its search, or without one by its own plan; where it cannot look, why."""
    if member.id in target.lost:
        return Said(None, f"{UNFINISHED}: its worker was stopped")
    own = context.member(member.id)
    try:
        look = planned(member, target, own) if stage is None else staged(member, target, own, stage)
    except (Skip, ModelguardError) as reason:
        return Said(None, str(reason))
    except DeadlineExceeded as late:
        return Said(None, f"{UNFINISHED}: {late}" if str(late) else UNFINISHED)
    return Said(look, f"{UNFINISHED}: {look.unfinished}" if look.unfinished else "")
