"""``embedding-rows``: tokens whose embedding points at one class and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from modelguard_triggers.plan import Look, Stage

from modelguard import Capability, ScanContext, Target, option
from modelguard_language._measures import ROWS
from modelguard_language._rules import ROW
from modelguard_language._search import TextSearch


@dataclass(frozen=True)
class EmbeddingRows(TextSearch):
    """Searches the row of the embedding that turns texts into each class, as an attacker would, and compares all rows with it: is one of
    them that row as no other is, and does its word, put into texts once or repeatedly, turn them?

    For a word that was made a trigger by changing its row alone (embedding poisoning). Blind where the row keeps a part that has nothing to
    do with the class, as honest words do, and where many rows turn texts as well. Of more than twelve classes it searches those along whose
    gradient a row stands out most.
    """

    id = "embedding-rows"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (ROW,)
    shows = ROWS
    cost = 240
    when_quick = "shorter"

    p_value: float = option(0.05, "report a row at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    cosine: float = option(0.85, "cosine with the searched row from which a row counts as written", ge=0, le=1, judges=True)
    success: float = option(
        0.75, "attack success of its word on unseen texts from which a row is more than a hint", ge=0, le=1, judges=True
    )

    quick: bool = option(False, "one search of each class instead of three")

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        from modelguard_language._rows import look

        return look(self, target, context, stage)
