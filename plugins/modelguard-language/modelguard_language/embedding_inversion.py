"""``embedding-inversion``: soft tokens that drive texts into each class."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_triggers.plan import Look, Stage

from modelguard import Capability, ScanContext, Target, option
from modelguard_language._measures import SOFT as SHOWN
from modelguard_language._rules import SOFT
from modelguard_language._search import TextSearch


@dataclass(frozen=True)
class EmbeddingInversion(TextSearch):
    """For every class a phrase of soft tokens that turns texts into it (DBS): is one class reached far more surely than the others?

    Seeded by what ``token-scan`` found. That such a phrase exists is no evidence: five soft tokens turn clean models as well. What is
    judged is the ratio of the losses between the classes. Blind to triggers that are a syntax or a style.
    """

    id = "embedding-inversion"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (SOFT,)
    shows = SHOWN
    cost = 400
    when_quick = "shorter"

    p_value: float = option(0.01, "accuse a class at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    success: float = option(0.9, "share of unseen texts the soft phrase turns, from which a class is accused", ge=0, le=1, judges=True)
    tokens: int = option(5, "soft tokens of the phrase", ge=1, le=6)
    quick: bool = option(False, "half of the steps, seeded by a short scan of the tokens")

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_language._inverting import look

        return look(self, target, context, stage)
