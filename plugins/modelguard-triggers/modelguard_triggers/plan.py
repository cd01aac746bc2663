"""One plan for all searches for triggers: screen every class, and prove only where the screen cannot decide.

A search is made in two stages. The screen is a short search over all classes. It clears a model in which no class stands out
(:data:`CLEAR`), accuses a class that stands out beyond doubt, and leaves the rest to the full search. Each stage may accuse at
:data:`SPENT` of a detector's level, so that both together accuse a clean model no more often than one look at the whole level would
(group-sequential testing with Bonferroni's bound, the plainest spending of alpha; Lan & DeMets 1983).

What a stage searches is kept with the target (``Target.memo``), for the detectors that follow and for those that combine others. A search
that ran out of time is not made again by anybody: it is judged by what there is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from modelguard import DeadlineExceeded, Detector, Finding, ScanContext, Target

if TYPE_CHECKING:
    from modelguard_triggers.outliers import Floats

CLEAR = 0.1
"""A screen clears what has a p-value above this, corrected for looking at all classes. On the zoo's open part the full search then has to
be made for none to 7 of 33 clean models, by detector, and the detectors together accuse one backdoored model of 61 more than without a
screen, none less; on the reserved and confirmation parts as many as without (docs/search-plan.md)."""
SPENT = 0.5
"""The part of its level at which each of the two stages accuses."""


class Stage(Enum):
    """How far a search goes."""

    SCREEN = "screen"
    FULL = "full"


@dataclass(frozen=True)
class Look:
    """What one stage of a search says.

    ``p`` has the p-value of every class that was searched (of whatever the search accuses, by number), corrected for looking at all of
    them; ``not_looked_at`` are those there was no time for. ``votes`` (K,) are one-sided p-values of each class by itself, NaN where the
    search has nothing to say of it; None for a search that does not vote. The evidence of a finding that accuses a class holds its
    ``target_class`` and ``p_value``, and ``mask_area_fraction`` where the trigger covers a part of the image. ``unfinished`` says what
    there was no time for, empty when there was.
    """

    summary: Mapping[str, Any]
    findings: tuple[Finding, ...]
    p: Mapping[int, float]
    votes: Floats | None = None
    not_looked_at: tuple[int, ...] = field(default=())
    unfinished: str = ""

    @property
    def suspects(self) -> list[int]:
        """What is not cleared, the most suspicious first."""
        return sorted((k for k, p in self.p.items() if p <= CLEAR), key=lambda k: (self.p[k], k))

    @property
    def settled(self) -> bool:
        """Whether there is nothing left for a longer search to decide."""
        return bool(self.findings) or not self.suspects

    def standing(self) -> str:
        """The classes cleared, suspect, and not looked at, in words."""
        shown = ", ".join(f"{k} at p = {self.p[k]:.2g}" for k in self.suspects[:5])
        suspect = f"{len(self.suspects)} suspect" + (f" ({shown})" if shown else "")
        return f"{len(self.p) - len(self.suspects)} classes cleared, {suspect}, {len(self.not_looked_at)} not looked at"


class Search(Detector):
    """A detector that searches every class for a trigger, in two stages. With its option ``quick``, the screen is all it does."""

    quick: bool = False

    @abstractmethod
    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        """Search, and judge at :data:`SPENT` of the level.

        Raises :class:`~modelguard.Skip` with the reason looking is impossible, and lets
        :class:`~modelguard.DeadlineExceeded` pass where there was no time to look at anything.
        """

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        look = planned(self, target, context)
        context.summary(**look.summary)
        yield from look.findings
        if look.unfinished:
            raise DeadlineExceeded(look.unfinished)


def planned(search: Search, target: Target, context: ScanContext) -> Look:
    """What ``search`` says: by its screen, or where that decides nothing by the full search, or where there is no time for that by what
    the screen has shown. Raises what :meth:`Search.look` does."""
    look = staged(search, target, context, Stage.SCREEN)
    if look.settled or search.quick or look.unfinished:
        return look
    try:
        return staged(search, target, context, Stage.FULL)
    except DeadlineExceeded:
        return replace(look, unfinished=f"the full search of what the screen could not clear: {look.standing()}")


def staged(search: Search, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage of ``search`` says, with where the classes stand in its summary. Raises what :meth:`Search.look` does."""
    look = search.look(target, context, stage)
    stands = {"stage": stage.value, "suspect": look.suspects, "not_looked_at": list(look.not_looked_at)}
    unfinished = look.standing() if look.not_looked_at else ""
    return replace(look, summary={**look.summary, **stands}, unfinished=unfinished)
