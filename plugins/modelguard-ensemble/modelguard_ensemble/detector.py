"""``backdoor-ensemble``: one decision from several detectors, naming those that agree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from modelguard_language.lm.inversion import ENOUGH
from modelguard_triggers import measures
from modelguard_triggers.facts import class_name, rounded, score
from modelguard_triggers.plan import CLEAR, SPENT, Stage

from modelguard import Capability, Chart, Confidence, DeadlineExceeded, Detector, Finding, Measure, ScanContext, Skip, Target, option
from modelguard_ensemble._members import LANGUAGE, SEARCHES, SPECIALISTS, TEXT, UNFINISHED, VOTERS, Said, ask, made
from modelguard_ensemble._rules import AGREEMENT, SPECIALIST

if TYPE_CHECKING:
    from modelguard_triggers.outliers import Floats

    from modelguard_ensemble._combine import Combined

MIN_VOTERS = 2
AGREES = 0.05
"""A member agrees with the accusation of a class when its own p-value for that class is this or less."""
NOTHING_SAID = "says nothing of any class"
HIGH_P, HIGH_AGREEING = 0.25, 2
"""A finding is of high confidence at this part of the p-value asked for, when so many members agree."""


@dataclass(frozen=True)
class BackdoorEnsemble(Detector):
    """Runs the backdoor detectors that can look at the target and combines what they say of each class into one calibrated p-value.

    It asks what the members have searched already (``Target.memo``). Votes of their screens that neither clear nor accuse are cast once
    more after their full searches. Of a text classifier it asks the searches for words and for ways of writing, of a language model the
    search for texts that follow a trigger; their findings count each by itself.
    """

    id = "backdoor-ensemble"
    requires = frozenset({Capability.GRADIENTS})
    rules = (AGREEMENT, SPECIALIST)
    shows = (
        *measures.SEARCHES,
        measures.P_BY_CLASS,
        Chart("bars", "members", "What each detector says of the accused class (p-value; the taller, the less likely by chance)", unit="p"),
        measures.SUCCESS_BY_CLASS,
        Measure("agreeing", "agree", "The detectors that say the same of the class each by itself."),
        Measure("members", "members", "What each detector that was asked says of the accused class."),
    )
    cost = 5000
    when_quick = "shorter"
    runs_last = True

    p_value: float = option(0.02, "accuse a class at or below this combined probability under no backdoor", gt=0, le=0.5, judges=True)
    specialists: bool = option(True, "also run the tests for all-to-all and warping backdoors")
    quick: bool = option(False, "the screens of its members alone, no specialists")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        model = target.model
        if model.output.kind == "language-model":
            yield from self._language(target, context)
            return
        if model.output.kind != "classifier":
            raise Skip(f"the model is {model.output.described}, and only a classifier's classes can be compared")
        if model.input.kind == "text":
            yield from self._text(target, context)
            return
        # The cheapest first: where time is short, what a dear one takes to say that it is must not keep the others from being heard.
        voters = [made(cls, self.quick) for cls in sorted(VOTERS, key=lambda cls: cls.cost)]
        said = {voter.id: ask(voter, target, context, Stage.SCREEN) for voter in voters}
        combined = self._combined(target, said)
        if SPENT * self.p_value < combined.p_value <= CLEAR and not self.quick:
            # Votes that decide nothing are cast once more after a full search; where there is no time for one, the first vote stands.
            full = {voter.id: ask(voter, target, context, Stage.FULL) for voter in voters if said[voter.id].votes is not None}
            said |= {name: replace(said[name], reason=item.reason) if item.votes is None else item for name, item in full.items()}
            combined = self._combined(target, said)
        specialists = SPECIALISTS if self.specialists and not self.quick else ()
        said |= {cls.id: ask(made(cls, self.quick), target, context) for cls in specialists}
        votes = _votes(said)
        agreeing = sorted(name for name, values in votes.items() if values[combined.accused] <= AGREES)
        specialised = [
            (cls.id, finding) for cls in specialists for finding in _findings(said[cls.id]) if finding.confidence >= Confidence.MEDIUM
        ]
        smallest = min([combined.p_value, *(finding.evidence["p_value"] for _, finding in specialised)])
        context.summary(
            score=round(score(smallest), 6),
            p_value=combined.p_value,
            target_class=combined.accused,
            agreeing=agreeing,
            members={name: item.reason or "completed" for name, item in sorted(said.items())},
            classes=[
                {
                    "class": k,
                    "p_value": rounded(combined.p[k]),
                    **{name: None if np.isnan(values[k]) else rounded(values[k]) for name, values in sorted(votes.items())},
                }
                for k in range(model.output.classes)
            ],
        )
        if combined.p_value <= SPENT * self.p_value:
            yield self._accusation(target, combined.accused, combined.p_value, agreeing, votes, said)
        yield from (_specialised(name, finding) for name, finding in specialised)
        if late := sorted(name for name, item in said.items() if item.late):
            raise DeadlineExceeded(f"without all that {', '.join(late)} would say")

    def _text(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        """What the members that look at text models say. Raises as :meth:`detect` does."""
        stage = Stage.SCREEN if self.quick else Stage.FULL
        said = {cls.id: ask(made(cls, self.quick), target, context, stage) for cls in TEXT}
        looks = {name: item.look for name, item in said.items() if item.look is not None}
        if TEXT[0].id not in looks:
            if said[TEXT[0].id].late:
                raise DeadlineExceeded(f"there was no time for {TEXT[0].id}")
            raise Skip(f"none of the trigger searches could use the samples ({_reasons(said, said)})")
        classes = range(target.model.output.classes)
        p = {k: min(1.0, len(looks) * min(look.p.get(k, 1.0) for look in looks.values())) for k in classes}
        accused = min(classes, key=lambda k: p[k])
        context.summary(
            score=round(max(0.0, score(p[accused])), 6),
            p_value=p[accused],
            target_class=accused,
            agreeing=sorted(name for name, look in looks.items() if look.p.get(accused, 1.0) <= AGREES),
            members={name: item.reason or "completed" for name, item in sorted(said.items())},
            classes=[
                {"class": k, "p_value": rounded(p[k]), **{name: rounded(look.p[k]) for name, look in looks.items() if k in look.p}}
                for k in classes
            ],
        )
        for name, look in looks.items():
            yield from (_specialised(name, finding) for finding in look.findings)
        if late := sorted(name for name, item in said.items() if item.late):
            raise DeadlineExceeded(f"without all that {', '.join(late)} would say")

    def _language(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        """What the member that looks at language models says. Raises as :meth:`detect` does."""
        if self.quick:
            raise Skip("language models have no shorter look: scan without --quick")
        if target.reference is None and (target.samples is None or len(target.samples.inputs) < ENOUGH):
            given = 0 if target.samples is None else len(target.samples.inputs)
            raise Skip(
                f"texts of a backdoor look like those known by heart: give --reference, or {ENOUGH} texts as --samples (not {given})"
            )
        if LANGUAGE.id in target.lost:
            raise DeadlineExceeded(f"without all that {LANGUAGE.id} would say ({UNFINISHED}: its worker was stopped)")
        heard = LANGUAGE().heard(target, context.member(LANGUAGE.id))
        if isinstance(heard.ended, Skip):
            raise Skip(f"{LANGUAGE.id}: {heard.ended}")
        found = [finding for finding in heard.findings if finding.confidence >= Confidence.MEDIUM]
        agreeing = [LANGUAGE.id] if found else []
        context.summary(score=heard.summary.get("score", 0.0), agreeing=agreeing, members={LANGUAGE.id: str(heard.ended or "completed")})
        yield from (_specialised(LANGUAGE.id, finding) for finding in found)
        if heard.ended is not None:
            raise DeadlineExceeded(f"without all that {LANGUAGE.id} would say")

    def _combined(self, target: Target, said: Mapping[str, Said]) -> Combined:
        """The votes of the members combined. Raises :class:`~modelguard.Skip` where too few have one, and
        :class:`~modelguard.DeadlineExceeded` where that is for want of time."""
        from modelguard_ensemble._combine import combine

        votes = _votes(said)
        searched = target.samples is None or votes.keys() & SEARCHES
        if searched and len(votes) >= MIN_VOTERS:
            return combine(votes)
        if late := sorted(name for name, item in said.items() if item.late and name not in votes):
            raise DeadlineExceeded(f"there was no time for {', '.join(late)}")
        if not searched:
            raise Skip(f"none of the trigger searches could use the samples ({_reasons(said, SEARCHES)})")
        silent = [name for name in said if name not in votes]
        raise Skip(f"{len(votes)} of its members could look, {MIN_VOTERS} are needed ({_reasons(said, silent)})")

    def _accusation(
        self, target: Target, accused: int, p_value: float, agreeing: list[str], votes: Mapping[str, Floats], said: Mapping[str, Said]
    ) -> Finding:
        shows = [f for name in agreeing for f in _findings(said[name]) if f.evidence.get("target_class") == accused and f.attachments]
        shows.sort(key=lambda finding: finding.evidence.get("mask_area_fraction", 1.0))  # the smallest trigger shows most of what it is
        sure = p_value <= HIGH_P * self.p_value and len(agreeing) >= HIGH_AGREEING
        return Finding(
            "MG3035",
            f"class {class_name(target.model, accused)} is accused by {' and '.join(agreeing) or 'no member alone'}; "
            f"combined p = {p_value:.2g} over {len(votes)} members that could look",
            confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
            evidence={
                "target_class": accused,
                "p_value": p_value,
                "agreeing": agreeing,
                "members": {name: rounded(values[accused]) for name, values in sorted(votes.items()) if not np.isnan(values[accused])},
            },
            attachments=shows[0].attachments if shows else (),
            key=f"class {accused}",
        )


def _specialised(name: str, finding: Finding) -> Finding:
    """What the specialist ``name`` has found, as the ensemble says it."""
    return Finding(
        "MG3036",
        f"{name}: {finding.message}",
        confidence=finding.confidence,
        evidence={"detector": name, **finding.evidence},
        attachments=finding.attachments,
        key=f"{name}/{finding.key}",
    )


def _votes(said: Mapping[str, Said]) -> dict[str, Floats]:
    """The votes there are, (K,) each."""
    return {name: item.votes for name, item in said.items() if item.votes is not None}


def _findings(said: Said) -> tuple[Finding, ...]:
    return () if said.look is None else said.look.findings


def _reasons(said: Mapping[str, Said], names: Collection[str]) -> str:
    """Why each of ``names`` has no vote, each reason once."""
    grouped: dict[str, list[str]] = {}
    for name in sorted(names):
        grouped.setdefault(said[name].reason or NOTHING_SAID, []).append(name)
    return "; ".join(f"{', '.join(members)}: {reason}" for reason, members in grouped.items())
