"""Is there a class that all others reach too easily? One search arm a target class, in one family of transformations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from modelguard_triggers.facts import rounded
from modelguard_triggers.outliers import MIN_CLASSES, UNREMARKABLE, Floats, class_p_values
from modelguard_triggers.plan import SPENT, Look, Stage

from modelguard import ScanContext, Target
from modelguard_neural_cleanse._decision import USUAL_SIZES
from modelguard_neural_cleanse._evidence import prepare
from modelguard_neural_cleanse._findings import examined, highest_score, require_guided, size_outliers, suspects, table
from modelguard_neural_cleanse._inversion import SCHEDULES, Inverted, invert, invert_as_published, refine
from modelguard_neural_cleanse._search import Question
from modelguard_neural_cleanse._transforms import Transform

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import SizeCleanse


def look(detector: SizeCleanse, target: Target, context: ScanContext, kind: type[Transform], stage: Stage) -> Look:
    """Neural Cleanse: optimise a trigger for every class, compare their sizes, check the outliers on unseen images."""
    case = prepare(target, context, detector.samples)
    evidence = case.evidence
    transform = kind(evidence.shape, case.model.input.low, case.model.input.high)
    question = Question.every_target(evidence.classes)
    published = detector.schedule == "paper"  # one schedule, whatever the stage

    def inversion() -> Inverted:
        if published:
            return invert_as_published(case, question, transform)
        return invert(case, question, transform, SCHEDULES[stage])

    inverted = target.memo(detector, context, inversion, None if published else stage)
    require_guided(inverted.found.guided.numpy(), "triggers")
    outliers = size_outliers(inverted, evidence.classes)
    places = suspects(detector, SPENT * detector.alpha, inverted, outliers)
    findings, cleared = [], []
    if places:
        refined = target.memo(detector, context, lambda: refine(case, question, inverted, places), stage, *places)
        for finding, facts in examined(detector, target.reference, case, inverted, outliers, refined):
            if finding is None:
                cleared.append(facts)
            else:
                findings.append(finding)
    return Look(
        {
            "score": highest_score(outliers.p),
            "classes": table(inverted, outliers),
            "classes_total": evidence.classes,
            "transformation": transform.kind,
            "typical_size": outliers.typical,
            "largest_accused": rounded(min(detector.area, detector.ratio * outliers.typical)),
            "schedule": detector.schedule,
            "images": {"search": len(evidence.search), "check": len(evidence.check)},
            "clean_accuracy": evidence.accuracy,
            "cleared": cleared,
        },
        tuple(findings),
        p=dict(zip(inverted.arms.tolist(), outliers.p.tolist(), strict=True)),
        votes=_votes(inverted, [facts["target_class"] for facts in cleared], evidence.classes),
        not_looked_at=left_out(inverted, evidence.classes),
    )


def left_out(inverted: Inverted, arms: int) -> tuple[int, ...]:
    """Those of ``arms`` that there was no time for."""
    return tuple(np.setdiff1d(np.arange(arms), inverted.begun).tolist())


def _votes(inverted: Inverted, cleared: list[int], classes: int) -> Floats:
    """(K,) p-values of each class by itself: one class's trigger far smaller than the others' is remarkable.

    A class that no trigger reached counts as the largest size seen. A class of the ``cleared``, whose trigger did not hold on unseen
    images, is unremarkable.
    """
    p = np.full(classes, np.nan)
    if len(inverted.arms) < MIN_CLASSES or not inverted.reached.any():
        return p
    size = np.where(inverted.reached, inverted.size, inverted.size[inverted.reached].max())
    p[inverted.arms] = class_p_values(-np.log(size), USUAL_SIZES)
    p[cleared] = np.maximum(UNREMARKABLE, p[cleared])
    return p
