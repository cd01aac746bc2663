"""Is there a class that all others reach too easily? One search arm a target class, in one family of transformations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelguard import Finding, ScanContext, Target
from modelguard_neural_cleanse.inversion import QUICK, STANDARD, Inverted, Question, invert, invert_as_published, refine
from modelguard_neural_cleanse.prepare import prepare
from modelguard_neural_cleanse.transforms import Transform
from modelguard_neural_cleanse.verdict import Gates, findings, judge, require_classes, require_gradients, score, suspects, table

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import SizeCleanse


def scan(detector: SizeCleanse, target: Target, context: ScanContext, kind: type[Transform], *, quick: bool = False) -> Iterator[Finding]:
    """Neural Cleanse: optimise a trigger for every class, compare their sizes, check the outliers on unseen images."""
    evidence = prepare(target, context, detector.samples)
    require_classes(evidence, "trigger size")
    transform = kind(evidence.shape, target.model.input.low, target.model.input.high)
    question = Question.every_target(evidence.classes)
    gates = Gates(detector.alpha, detector.ratio, detector.area, detector.success)
    schedule = QUICK if quick else STANDARD

    def inversion() -> Inverted:
        if detector.schedule == "paper":
            return invert_as_published(target, context, evidence, question, transform)
        return invert(target, context, evidence, question, transform, schedule)

    inverted = target.memo(detector, context, inversion)
    require_gradients(inverted)
    outliers = judge(inverted, evidence.classes)
    context.summary(
        score=score(outliers.p),
        classes=table(inverted, outliers, transform),
        classes_total=evidence.classes,
        transformation=transform.kind,
        typical_size=outliers.typical,
        schedule=detector.schedule + ("/quick" if quick else ""),
        images={"search": len(evidence.search), "check": len(evidence.check)},
        clean_accuracy=evidence.accuracy,
    )
    places = suspects(inverted, outliers, gates)
    if not places:
        context.summary(cleared=[])
        return
    refined = target.memo(detector, context, lambda: refine(target, context, evidence, question, transform, inverted, places), *places)
    cleared = []
    for finding, facts in findings(detector.rules[0], gates, target, evidence, transform, inverted, outliers, places, refined):
        if finding is None:
            cleared.append(facts)
        else:
            yield finding
    context.summary(cleared=cleared)
