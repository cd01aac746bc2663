"""What is said of a class that stands out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from modelguard_triggers.facts import by_class, change_exhibits, class_name, examples, mask_exhibits, rounded, source_classes
from modelguard_triggers.outliers import over_all
from modelguard_triggers.recovered import recovered
from modelguard_triggers.windows import Windows

from modelguard import Attachment, Confidence, Finding
from modelguard_abs._inversion import attempts
from modelguard_abs._triggers import Filters, Patches

if TYPE_CHECKING:
    from modelguard_triggers.arms import Triggers
    from modelguard_triggers.case import Case
    from torch import Tensor

    from modelguard_abs._scan import Searched
    from modelguard_abs._stimulation import Candidate
    from modelguard_abs.detector import Abs

HIGH_P, HIGH_REASR = 0.1, 0.9
"""A finding is of high confidence at this part of the p-value asked for, and this success."""


def accusations(detector: Abs, level: float, case: Case, searched: Searched) -> Iterator[Finding]:
    """The class that stands out most of those whose trigger works often enough on images it was not searched on."""
    compared, classes = searched.comparison, case.evidence.classes
    for place in compared.order:
        # Of the sizes at which the class stands out, the one whose trigger works best: a small one may stand out and still work seldom.
        telling = [size for size in range(len(compared.p)) if over_all(float(compared.p[size, place]), classes) <= level]
        if not telling:
            return
        size = max(telling, key=lambda size: (searched.success[size][searched.arms[size][place]], -size))
        if searched.success[size][searched.arms[size][place]] >= detector.reasr:
            break
    else:
        return
    arm = int(searched.arms[size][place])
    klass, success = searched.targets[arm], float(searched.success[size][arm])
    p_value = over_all(float(compared.p[:, place].min()), classes)
    triggers = searched.triggers.only(torch.tensor([size * len(searched.targets) + arm]))
    hits, asked = attempts(case, triggers, torch.tensor([klass]))
    usual = float(np.median(np.delete(searched.success[size][searched.arms[size]], place)))
    sure = p_value <= HIGH_P * level and success >= HIGH_REASR
    what, facts = _described(triggers, searched.traced[arm] if searched.traced else None)
    yield Finding(
        searched.rule.id,
        f"class {class_name(case.model, klass)}: {what} turns {success:.0%} of unseen pictures into it, one of the same size {usual:.0%} "
        f"into other classes (p = {p_value:.2g})",
        confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
        evidence={
            "target_class": klass,
            **source_classes(by_class(hits[0], asked[0], case.evidence.check_labels)),
            "attack_success": rounded(success),
            "attack_success_usual": rounded(usual),
            "p_value": rounded(p_value),
            **facts,
            "clean_accuracy": None if case.evidence.accuracy is None else rounded(case.evidence.accuracy),
            **recovered(case, klass, asked[0], partial(_stamped, triggers)),
        },
        attachments=_exhibits(case, triggers, asked[0]),
        key=f"{triggers.kind}/class/{klass}",
    )


def _described(triggers: Triggers, traced: Candidate | None) -> tuple[str, dict[str, Any]]:
    """One trigger in words and in numbers."""
    if isinstance(triggers, Windows):
        (row, column), side = triggers.corners[0].tolist(), triggers.side
        window = triggers.mask(0)
        return f"a window of {side} x {side} pixels at row {row}, column {column}", {
            "row": row,
            "column": column,
            "mask_l1": rounded(window.sum()),
            "mask_area_fraction": rounded(window.mean()),
        }
    assert traced is not None
    units = "unit" if len(traced.units) == 1 else "units"
    what = f"a {triggers.kind} that fires {units} {', '.join(map(str, traced.units))} of {traced.layer}"
    facts = {"layer": traced.layer, "units": list(traced.units), "gap": rounded(traced.gap)}
    if isinstance(triggers, Patches):
        mask = triggers.parameters[0]
        return what, {**facts, "mask_l1": rounded(mask.sum()), "mask_area_fraction": rounded(mask.mean())}
    assert isinstance(triggers, Filters)
    return what, {**facts, "mean_change": rounded(triggers.strength[0])}


def _exhibits(case: Case, triggers: Triggers, asked: Tensor) -> tuple[Attachment, ...]:
    """The trigger alone, where it goes (not of filters), and check images of several classes that carry it."""
    bounds = case.model.input.low, case.model.input.high
    check, labels = case.evidence.check, case.evidence.check_labels
    chosen = examples(asked, labels, check.shape[2] * check.shape[3])
    example = check[chosen]  # (N, C, H, W)
    with torch.inference_mode():
        images = _stamped(triggers, example).cpu().numpy()
    stamped = list(zip(labels[chosen].tolist(), images, strict=True))
    if isinstance(triggers, Windows):
        return mask_exhibits(triggers.image(0), triggers.mask(0), stamped, bounds, trigger_bounds=(0, 1))
    if isinstance(triggers, Patches):
        mask, pattern = (value[0].cpu().numpy() for value in triggers.parameters)
        return mask_exhibits(mask * pattern, mask, stamped, bounds, trigger_bounds=(0, 1))
    return change_exhibits(example[0].cpu().numpy(), stamped, bounds)


def _stamped(triggers: Triggers, images: Tensor) -> Tensor:
    """``images`` (N, C, H, W), each with the only one of ``triggers``."""
    return triggers.stamp(torch.zeros(len(images), dtype=torch.long, device=images.device), images)
