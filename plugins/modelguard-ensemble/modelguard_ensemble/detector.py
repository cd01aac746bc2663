"""``backdoor-ensemble``: one decision from several detectors, naming those that agree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from modelguard_triggers.facts import class_name, rounded, score

from modelguard import Capability, Confidence, Detector, Finding, ScanContext, Skip, Target, option
from modelguard_ensemble._members import SEARCHES, SPECIALISTS, VOTERS, Said, made, run
from modelguard_ensemble._rules import AGREEMENT, SPECIALIST

MIN_VOTERS = 2
AGREES = 0.05
"""A member agrees with the accusation of a class when its own p-value for that class is this or less."""
NOTHING_SAID = "says nothing of any class"
HIGH_P, HIGH_AGREEING = 0.25, 2
"""A finding is of high confidence at this part of the p-value asked for, when so many members agree."""


@dataclass(frozen=True)
class BackdoorEnsemble(Detector):
    """Runs the backdoor detectors that can look at the target and combines what they say of each class into one calibrated p-value.

    Members are run once per scan and seed: one that shares its work (``Target.memo``) costs nothing more when it is scanned with too.
    """

    id = "backdoor-ensemble"
    requires = frozenset({Capability.GRADIENTS})
    rules = (AGREEMENT, SPECIALIST)
    when_quick = "shorter"

    p_value: float = option(0.02, "accuse a class at or below this combined probability under no backdoor", gt=0, le=0.5, judges=True)
    specialists: bool = option(True, "also run the tests for all-to-all and warping backdoors")
    quick: bool = option(False, "members with reduced budgets, no specialists")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        from modelguard_ensemble._combine import combine

        model = target.model
        if model.output.kind != "classifier":
            raise Skip(f"the model is {model.output.described}, and only a classifier's classes can be compared")
        classes = model.output.classes
        specialists = SPECIALISTS if self.specialists and not self.quick else ()
        voters = [made(cls, self.quick) for cls in VOTERS]
        said: dict[str, Said] = {}
        for member in [*voters, *(made(cls, self.quick) for cls in specialists)]:
            context.check_deadline()
            said[member.id] = run(member, target, context)
        votes = {voter.id: voter.class_p_values(said[voter.id].numbers, classes) for voter in voters if not said[voter.id].reason}
        votes = {name: values for name, values in votes.items() if not np.isnan(values).all()}
        if target.samples is not None and not votes.keys() & SEARCHES:
            raise Skip(f"none of the trigger searches could use the samples ({_reasons(said, SEARCHES)})")
        if len(votes) < MIN_VOTERS:
            silent = [voter.id for voter in voters if voter.id not in votes]
            raise Skip(f"{len(votes)} of its members could look, {MIN_VOTERS} are needed ({_reasons(said, silent)})")
        combined = combine(votes)
        agreeing = sorted(name for name, values in votes.items() if values[combined.accused] <= AGREES)
        specialised = [
            (cls.id, finding) for cls in specialists for finding in said[cls.id].findings if finding.confidence >= Confidence.MEDIUM
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
                for k in range(classes)
            ],
        )
        if combined.p_value <= self.p_value:
            yield self._accusation(target, combined.accused, combined.p_value, agreeing, votes, said)
        for name, finding in specialised:
            yield Finding(
                "MG3036",
                f"{name}: {finding.message}",
                confidence=finding.confidence,
                evidence={"detector": name, **finding.evidence},
                attachments=finding.attachments,
                key=f"{name}/{finding.key}",
            )

    def _accusation(
        self, target: Target, accused: int, p_value: float, agreeing: list[str], votes: dict[str, Any], said: dict[str, Said]
    ) -> Finding:
        shows = [f for name in agreeing for f in said[name].findings if f.evidence.get("target_class") == accused and f.attachments]
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


def _reasons(said: Mapping[str, Said], names: Collection[str]) -> str:
    """Why each of ``names`` has no vote, each reason once."""
    grouped: dict[str, list[str]] = {}
    for name in sorted(names):
        grouped.setdefault(said[name].reason or NOTHING_SAID, []).append(name)
    return "; ".join(f"{', '.join(members)}: {reason}" for reason, members in grouped.items())
