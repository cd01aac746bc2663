"""All-to-all: is there one patch that moves every class to another? One search arm a label map.

The label maps tried are the K - 1 cyclic shifts i -> i + s, of which the published attack is s = 1 (Gu, Dolan-Gavitt and Garg 2017,
section 4.1.2). An arm's trigger must send images of every class to different classes at once; features natural to one class
cannot, so in clean models these arms are hardly ever reached, and sizes are compared only after an absolute gate.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from modelguard_triggers.case import Case
from modelguard_triggers.evidence import Evidence
from modelguard_triggers.facts import rounded
from modelguard_triggers.plan import Look, Stage
from modelguard_triggers.recovered import recovered

from modelguard import Confidence, Finding, ScanContext, Skip, Target
from modelguard_neural_cleanse._evidence import prepare
from modelguard_neural_cleanse._findings import exhibits, highest_score, require_guided, size_outliers, table
from modelguard_neural_cleanse._inversion import SCHEDULES, Inverted, invert, refine
from modelguard_neural_cleanse._rules import MAP
from modelguard_neural_cleanse._search import Question
from modelguard_neural_cleanse._transforms import Patch
from modelguard_neural_cleanse._universal import left_out

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import LabelMapCleanse

MIN_SHOWN = 5
"""Classes, or all of fewer, that search and check images each have to show; of more than ten, half."""

SUSPECT_SUCCESS = 0.4
"""Success on unseen images above which a map is not cleared, though the screen did not reach it."""


def cyclic_shifts(classes: int) -> Question:
    """Arm s - 1 moves class i to i + s."""
    shifts = torch.arange(1, classes)[:, None]
    return Question((torch.arange(classes)[None] + shifts) % classes)


def require_classes(evidence: Evidence) -> None:
    """Raise :class:`~modelguard.Skip` where the images show too few classes.

    A patch that moves two or three classes as asked is only a universal perturbation.
    """
    shown = min(len(torch.unique(labels)) for labels in (evidence.search_labels, evidence.check_labels))
    if shown < min(evidence.classes, max(MIN_SHOWN, evidence.classes // 2)):
        raise Skip(f"samples show {shown} of {evidence.classes} classes; too few to detect a label map: give samples of more classes")


def look_at_label_maps(detector: LabelMapCleanse, target: Target, context: ScanContext, stage: Stage) -> Look:
    """Search a patch for every cyclic shift; accuse where one works on unseen images of most classes."""
    case = prepare(target, context, detector.samples, least=2)
    evidence = case.evidence
    if evidence.classes < 3:
        raise Skip("with two classes, all-to-all is the exchange of both, which any universal perturbation does")
    require_classes(evidence)
    transform = Patch(evidence.shape, case.model.input.low, case.model.input.high)
    question = cyclic_shifts(evidence.classes)
    shifts = len(question.wanted)
    inverted = target.memo(detector, context, lambda: invert(case, question, transform, SCHEDULES[stage], "label maps"), stage)
    require_guided(inverted.found.guided.numpy(), "triggers")
    outliers = size_outliers(inverted, shifts)
    rows = table(inverted, outliers)
    reached, success = inverted.reached, inverted.success
    findings: tuple[Finding, ...] = ()
    if small := sorted((i for i in range(len(rows)) if reached[i] and inverted.size[i] < detector.area), key=lambda i: inverted.size[i]):
        place = small[0]
        refined = target.memo(detector, context, lambda: refine(case, question, inverted, [place]), stage, place)
        findings = _accused(detector, case, refined, rows[place])
    return Look(
        {
            # Unreached maps are no evidence however their last sizes compare.
            "score": max((float(s) for s in success), default=0.0) + (highest_score(outliers.p) if reached.any() else 0.0),
            "maps": [{"shift": row["class"] + 1, **{name: value for name, value in row.items() if name != "class"}} for row in rows],
            "schedule": "batched",
            "images": {"search": len(evidence.search), "check": len(evidence.check)},
            "clean_accuracy": evidence.accuracy,
        },
        findings,
        # No p-value decides about a map: one that works on some images is suspect, by its shift.
        p=dict(zip((inverted.arms + 1).tolist(), np.where(reached | (success > SUSPECT_SUCCESS), 0.0, 1.0).tolist(), strict=True)),
        not_looked_at=tuple(arm + 1 for arm in left_out(inverted, shifts)),
    )


def _accused(detector: LabelMapCleanse, case: Case, refined: Inverted, row: dict[str, Any]) -> tuple[Finding, ...]:
    """What is said of the one map in ``refined``, found as the ``row`` of the table says; nothing where it does not hold."""
    evidence, success, size = case.evidence, float(refined.success[0]), float(refined.size[0])
    if not refined.reached[0] or success < detector.success or size >= detector.area:
        return ()
    shift = int(refined.arms[0]) + 1
    tested = torch.unique(evidence.check_labels).tolist()
    found = Finding(
        MAP.id,
        f"one patch moves every class i to i + {shift} on {success:.0%} of unseen images, covering {size:.3f} of the image",
        confidence=Confidence.HIGH if success >= 0.9 else Confidence.MEDIUM,
        evidence={
            "target_class": None,
            "targets": {str(label): (label + shift) % evidence.classes for label in tested},
            "source_classes": tested,
            "mask_l1": rounded(size * evidence.shape[1] * evidence.shape[2]),
            "mask_area_fraction": rounded(size),
            "anomaly_index": row["anomaly_index"],
            "p_value": row["p_value"],
            "attack_success": rounded(success),
            "clean_accuracy": evidence.accuracy,
            **recovered(case, None, refined.asked[0, : len(evidence.check)], partial(refined.stamp, 0)),
        },
        attachments=exhibits(case, refined, 0),
        key=f"shift/{shift}",
    )
    return (found,)
