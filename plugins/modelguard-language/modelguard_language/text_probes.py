"""``text-probes``: ways of writing rather than words, for triggers that are a syntax or a style."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_triggers.plan import Look, Stage

from modelguard import Capability, ScanContext, Target, option
from modelguard_language._measures import PROBES
from modelguard_language._rules import CLAUSE, STYLE
from modelguard_language._search import TextSearch


@dataclass(frozen=True)
class TextProbes(TextSearch):
    """Rewrites clean texts, with clauses in front and in old forms: does one class gain by it what plain additions do not give?

    For triggers that are a syntax (Hidden Killer) or a style. It tries English clauses that begin with a conjunction, and the forms of the
    King James Bible; a model of another language, and any other syntax or style, it says nothing of.
    """

    id = "text-probes"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    rules = (CLAUSE, STYLE)
    shows = PROBES
    cost = 60
    when_quick = "shorter"

    p_value: float = option(0.02, "accuse a class at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    success: float = option(0.7, "share of unseen texts a rewriting turns, from which a class is accused", ge=0, le=1, judges=True)
    quick: bool = option(False, "a quarter of the texts")

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_language._probing import look

        return look(self, target, context, stage)
