"""Soft phrases for every class, and whether one class is reached far more surely than the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from modelguard_triggers.case import seeded
from modelguard_triggers.facts import class_name, rounded
from modelguard_triggers.outliers import MIN_CLASSES, class_p_values
from modelguard_triggers.plan import Look, Stage

from modelguard import Confidence, DeadlineExceeded, Finding, Skip
from modelguard_language._case import TextCase, standing, text_case
from modelguard_language._decision import LEAD, over_classes
from modelguard_language._scan import searched, words
from modelguard_language._soft import FLOOR, Inverted, invert, leads
from modelguard_language.token_scan import TokenScan

if TYPE_CHECKING:
    from modelguard import ScanContext, Target
    from modelguard_language.embedding_inversion import EmbeddingInversion

WORK = 1e13
"""Multiplications and additions that all soft searches may take: past it they use fewer texts, and then fewer steps."""
TEXTS, FEWEST_TEXTS = 32, 12
STEPS, FEWEST_STEPS = 200, 60
MOST_CLASSES = 12
"""Classes that are searched; of more, those that the scan of tokens found most suspicious."""


def look(detector: EmbeddingInversion, target: Target, context: ScanContext, stage: Stage) -> Look:
    """What one stage says. Raises as :meth:`~modelguard_triggers.plan.Search.look` does."""
    case = text_case(target, context)
    inverted, late = target.memo(detector, context, lambda: _invert(detector, target, context, case), stage)
    if len(inverted) < 2:
        raise DeadlineExceeded("there was time for one class, and two are needed to compare")
    classes = [item.target for item in inverted]
    losses = np.array([item.unseen for item in inverted])
    found = leads(losses, np.array([item.push for item in inverted]))
    alone = np.array([LEAD.p(float(lead)) for lead in found])
    if len(losses) >= MIN_CLASSES:  # it has to stand out of the others of this model, too
        own = class_p_values(-np.log(np.maximum(losses, FLOOR)))
        alone = np.maximum(alone, [over_classes(float(p), case.classes) for p in own])
    p = {k: float(own) for k, own in zip(classes, alone, strict=True)}  # the null is that of the largest lead of a model
    findings = []
    for item, lead in zip(inverted, found, strict=True):
        if p[item.target] <= detector.p_value and item.success >= detector.success:
            others = float(np.median([loss for k, loss in zip(classes, losses, strict=True) if k != item.target]))
            findings.append(_finding(case, item, float(lead), others, p[item.target]))
    summary = {
        **standing(case, p),
        "classes": [
            {**_row(case, item), "lead": rounded(lead), "p_value": rounded(p[item.target])}
            for item, lead in zip(inverted, found, strict=True)
        ],
    }
    return Look(summary, tuple(findings), p, not_looked_at=late)


def _row(case: TextCase, item: Inverted) -> dict[str, Any]:
    return {
        "class": item.target,
        "loss": rounded(item.unseen),
        "attack_success": rounded(item.success),
        "hard_success": rounded(item.hard),
        "push": rounded(item.push),
        "phrase": " ".join(words(case, item.tokens)),
    }


def _invert(
    detector: EmbeddingInversion, target: Target, context: ScanContext, case: TextCase
) -> tuple[tuple[Inverted, ...], tuple[int, ...]]:
    """The soft phrases, and the classes there was no time for."""
    if not case.model.embeddings().shape[0]:
        raise Skip("the model has no token embeddings")
    scanned = _seeds(target, context, detector)
    classes = list(range(case.classes)) if case.classes <= MOST_CLASSES else sorted(scanned)[:MOST_CLASSES] or list(range(MOST_CLASSES))
    each = 6 * case.weights * (case.length + detector.tokens)  # forward and backward
    texts = int(np.clip(WORK / each / len(classes) / STEPS, FEWEST_TEXTS, TEXTS))
    steps = int(np.clip(WORK / each / len(classes) / texts, FEWEST_STEPS, STEPS))
    steps = steps // 2 if detector.quick else steps
    found: list[Inverted] = []
    try:
        for k in classes:
            stream = seeded(context.rng(f"class {k}"))
            found.append(invert(case, k, detector.tokens, steps, texts, scanned.get(k, ()), stream))
    except DeadlineExceeded:
        if len(found) < 2:
            raise
    late = classes[len(found) :]
    if not scanned:  # no scan has cleared the others
        late += [k for k in range(case.classes) if k not in classes]
    return tuple(found), tuple(late)


def _seeds(target: Target, context: ScanContext, detector: EmbeddingInversion) -> dict[int, tuple[int, ...]]:
    """The best token of each class that the scan of tokens found, for every place, where it was made or can be made."""
    scan = TokenScan(quick=detector.quick)
    try:
        found = searched(scan, target, context.member(scan.id), scan.stage)
    except DeadlineExceeded:
        return {}
    best = {k: max(phrases, key=lambda item: (-len(item.tokens), item.push)) for k, phrases in found.phrases.items() if phrases}
    return {k: item.tokens * detector.tokens for k, item in best.items()}


def _finding(case: TextCase, item: Inverted, lead: float, others: float, p: float) -> Finding:
    k = item.target
    return Finding(
        "MG3104",
        f"class {class_name(case.model, k)} is reached by soft tokens with a loss of {item.unseen:.2g}, the others with {others:.2g} "
        f'(p = {p:.2g}); the heaviest tokens, "{" ".join(words(case, item.tokens))}", turn {item.hard:.0%} of unseen texts',
        confidence=Confidence.HIGH if item.hard >= 0.9 else Confidence.MEDIUM,
        evidence={
            "target_class": k,
            "p_value": rounded(p),
            "loss": rounded(item.unseen),
            "lead": rounded(lead),
            "attack_success": rounded(item.success),
            "hard_success": rounded(item.hard),
            "phrase": " ".join(words(case, item.tokens)),
            "tokens": list(item.tokens),
        },
        key=f"class {k}",
    )
