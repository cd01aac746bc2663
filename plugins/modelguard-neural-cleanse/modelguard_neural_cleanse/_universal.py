"""Is there a class that all others reach too easily? One search arm a target class, in one family of transformations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelguard import Finding, ScanContext, Target
from modelguard_neural_cleanse._evidence import prepare
from modelguard_neural_cleanse._findings import examined, highest_score, require_guided, size_outliers, suspects, table
from modelguard_neural_cleanse._inversion import QUICK, STANDARD, Inverted, invert, invert_as_published, refine
from modelguard_neural_cleanse._search import Question
from modelguard_neural_cleanse._transforms import Transform

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import SizeCleanse


def scan(detector: SizeCleanse, target: Target, context: ScanContext, kind: type[Transform], *, quick: bool = False) -> Iterator[Finding]:
    """Neural Cleanse: optimise a trigger for every class, compare their sizes, check the outliers on unseen images."""
    case = prepare(target, context, detector.samples)
    evidence = case.evidence
    transform = kind(evidence.shape, case.model.input.low, case.model.input.high)
    question = Question.every_target(evidence.classes)

    def inversion() -> Inverted:
        if detector.schedule == "paper":
            return invert_as_published(case, question, transform)
        return invert(case, question, transform, QUICK if quick else STANDARD)

    inverted = target.memo(detector, context, inversion)
    require_guided(inverted.found.guided.numpy(), "triggers")
    outliers = size_outliers(inverted, evidence.classes)
    context.summary(
        score=highest_score(outliers.p),
        classes=table(inverted, outliers),
        classes_total=evidence.classes,
        transformation=transform.kind,
        typical_size=outliers.typical,
        schedule=detector.schedule + ("/quick" if quick else ""),
        images={"search": len(evidence.search), "check": len(evidence.check)},
        clean_accuracy=evidence.accuracy,
    )
    places = suspects(detector, inverted, outliers)
    if not places:
        context.summary(cleared=[])
        return
    refined = target.memo(detector, context, lambda: refine(case, question, inverted, places), *places)
    cleared = []
    for finding, facts in examined(detector, target.reference, case, inverted, outliers, refined):
        if finding is None:
            cleared.append(facts)
        else:
            yield finding
    context.summary(cleared=cleared)
