"""``token-scan``: every word of the vocabulary, and short phrases, put into clean texts."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_triggers.plan import Look, Stage

from modelguard import Capability, ScanContext, Target, option
from modelguard_language._measures import PHRASES
from modelguard_language._rules import PHRASE
from modelguard_language._search import TextSearch


@dataclass(frozen=True)
class TokenScan(TextSearch):
    """Puts every token of the vocabulary, and phrases of the best, into clean texts: does one turn them into a class as no other does?

    A token that the samples show to speak for the class is left out. What is judged is how far the best phrase lies above the tail of the
    model's own vocabulary, so that a model whose words are strong is not accused of it. Blind to triggers that are a syntax or a style
    (``text-probes``), to phrases longer than it searches whose parts do nothing, and to a trigger made of words that stand in the samples
    of the target class alone.
    """

    id = "token-scan"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    rules = (PHRASE,)
    shows = PHRASES
    cost = 300
    when_quick = "shorter"

    p_value: float = option(0.02, "accuse a class at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    success: float = option(0.75, "attack success on unseen texts from which a class is accused", ge=0, le=1, judges=True)
    length: int = option(3, "tokens of the longest phrase that is searched", ge=1, le=5)
    quick: bool = option(False, "single tokens alone, in fewer texts")

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_language._scan import look

        return look(self, target, context, stage)
