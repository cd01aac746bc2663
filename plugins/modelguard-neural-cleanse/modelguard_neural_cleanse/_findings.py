"""From inverted triggers to findings: the test on sizes, the absolute gates, the comparison with a clean reference, the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from modelguard_triggers.case import Case
from modelguard_triggers.facts import by_class, change_exhibits, class_name, examples, mask_exhibits, rounded, score, source_classes
from modelguard_triggers.recovered import recovered
from torch import Tensor

from modelguard import Attachment, Confidence, Finding, ModelguardError, RunnableModel, Skip, Target
from modelguard.errors import without_paths
from modelguard_neural_cleanse._decision import Outliers, anomaly_index, small_outliers
from modelguard_neural_cleanse._inversion import Inverted
from modelguard_neural_cleanse._transforms import Patch

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import SizeCleanse

SURE_SHARE, SURE_SUCCESS = 1 / 5, 0.9
"""High confidence takes a p-value below this share of ``alpha``, and this attack success."""

REFERENCE_AGREES = 0.5
"""Part of the clean check images that a reference has to classify as labelled before a trigger is tried on it."""


def require_guided(guided: npt.NDArray[np.bool_], what: str) -> None:
    """Raise :class:`~modelguard.Skip` where the model gave fewer than half of the arms a gradient: not having looked is not a pass.

    ``guided`` (A,) says whether there ever was one for each of the ``what`` searched for.
    """
    some, arms = int(guided.sum()), len(guided)
    if 2 * some < arms:
        looked = f"only {some} of {arms} {what} were" if some else "nothing was"
        raise Skip(f"the model gives no gradient to search by (a rounding or saturated output?): {looked} looked at")


def size_outliers(inverted: Inverted, classes: int) -> Outliers:
    """The size test over the arms of ``inverted``, out of ``classes`` that might have been accused."""
    return small_outliers(inverted.size, inverted.reached, inverted.weights, classes)


def table(inverted: Inverted, outliers: Outliers) -> list[dict[str, Any]]:
    """One row a class for the report, JSON-safe."""
    index = anomaly_index(inverted.size)
    return [
        {
            "class": int(arm),
            "size": rounded(size),
            "mask_l1": rounded(size * _pixels(inverted)),
            "reached": bool(reached),
            "attack_success": rounded(success),
            "anomaly_index": rounded(index[i]),
            "p_value": rounded(outliers.p[i]),
        }
        for i, (arm, size, reached, success) in enumerate(
            zip(inverted.arms, inverted.size, inverted.reached, inverted.success, strict=True)
        )
    ]


def suspects(detector: SizeCleanse, level: float, inverted: Inverted, outliers: Outliers) -> list[int]:
    """Places in ``inverted`` worth a closer look: significant at ``level``, reached, small; smallest first."""
    order = np.lexsort((inverted.size, outliers.p))
    return [
        int(i)
        for i in order
        if outliers.p[i] < level
        and inverted.reached[i]
        and inverted.size[i] < detector.area
        and inverted.size[i] < detector.ratio * outliers.typical
    ]


def highest_score(p: npt.NDArray[np.float64]) -> float:
    """That of the smallest of the p-values (A,), 0 where there is none."""
    return max(0.0, score(float(p.min(initial=1.0))))


def examined(
    detector: SizeCleanse, reference: Target | None, case: Case, inverted: Inverted, outliers: Outliers, refined: Inverted
) -> Iterator[tuple[Finding | None, dict[str, Any]]]:
    """For each suspect a finding, or None and why not in the evidence. ``refined`` holds the suspects' triggers once more."""
    index = anomaly_index(inverted.size)
    for j, klass in enumerate(refined.arms.tolist()):
        i = int(np.flatnonzero(inverted.arms == klass)[0])
        success = float(refined.success[j])
        facts: dict[str, Any] = {
            "target_class": klass,
            **source_classes(by_class(refined.hits[j], refined.asked[j], case.evidence.check_labels)),
            "mask_l1": rounded(refined.size[j] * _pixels(refined)),
            "mask_area_fraction": rounded(refined.size[j]),
            "typical_area_fraction": rounded(outliers.typical),
            "anomaly_index": rounded(index[i]),
            "p_value": rounded(outliers.p[i]),
            "attack_success": rounded(success),
            "clean_accuracy": None if case.evidence.accuracy is None else rounded(case.evidence.accuracy),
            "transformation": refined.transform.kind,
        }
        facts |= success_on_reference(reference, case, refined.stamp(j, case.evidence.check[refined.asked[j]]), klass)
        transfer = facts.get("reference_success")
        if success < detector.success or not refined.reached[j]:
            yield None, {**facts, "cleared_because": "the trigger does not hold on images it was not searched on"}
        elif refined.size[j] >= min(detector.area, detector.ratio * outliers.typical):
            yield None, {**facts, "cleared_because": "a trigger that holds on other images is as large as usual"}
        elif transfer is not None and transfer >= rounded(success / 2):
            yield None, {**facts, "cleared_because": "the trigger works on the clean reference too: a natural feature"}
        else:
            yield _finding(detector, case, refined, j, facts), facts


def _finding(detector: SizeCleanse, case: Case, refined: Inverted, j: int, facts: dict[str, Any]) -> Finding:
    (rule,), klass, success = detector.rules, facts["target_class"], facts["attack_success"]
    sure = facts["p_value"] < SURE_SHARE * detector.alpha and success >= SURE_SUCCESS
    facts |= recovered(case, klass, refined.asked[j], partial(refined.stamp, j))
    return Finding(
        rule.id,
        f"class {class_name(case.model, klass)}: {rule.title}; "
        f"it turns {success:.0%} of unseen images, its size is {facts['mask_area_fraction']:.3f} where other "
        f"classes need {facts['typical_area_fraction']:.3f} (p = {facts['p_value']:.2g})",
        confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
        evidence=facts,
        attachments=exhibits(case, refined, j),
        key=f"{refined.transform.kind}/class/{klass}",
    )


def exhibits(case: Case, inverted: Inverted, place: int) -> tuple[Attachment, ...]:
    """The trigger alone, where it goes (patches only), and check images of several classes that carry it."""
    transform, check, labels = inverted.transform, case.evidence.check, case.evidence.check_labels
    chosen = examples(inverted.asked[place, : len(check)], labels, check.shape[2] * check.shape[3])
    example = check[chosen]  # (N, C, H, W)
    stamped = list(zip(labels[chosen].tolist(), inverted.stamp(place, example).cpu().numpy(), strict=True))
    bounds = transform.low, transform.high
    if not isinstance(transform, Patch):  # what a warp or a colour change does shows only on an image
        return change_exhibits(example[0].cpu().numpy(), stamped, bounds)
    mask = transform.mask(inverted.parameters(place))[0].cpu().numpy()  # (1, H, W) or (1, 1, 1)
    pattern = transform.pattern(inverted.parameters(place))[0].cpu().numpy()
    full = np.broadcast_to(mask, (1, *pattern.shape[1:]))
    return mask_exhibits(transform.low + (pattern - transform.low) * full, full, stamped, bounds, trigger_bounds=bounds)


def success_on_reference(reference: Target | None, case: Case, stamped: Tensor, klass: int) -> dict[str, Any]:
    """``reference_success``, the share of ``stamped`` (N, C, H, W) that the clean reference model takes for ``klass``, or
    ``reference_unusable``, why there is none. Neither without a reference."""
    if reference is None:
        return {}
    try:
        model = usable_reference(reference, case)
        return {"reference_success": rounded((model.predict(_array(stamped)).argmax(1) == klass).mean())}
    except (Skip, ModelguardError) as error:
        return {"reference_unusable": without_paths(str(error))}


def usable_reference(reference: Target, case: Case) -> RunnableModel:
    """The reference model. Raises :class:`~modelguard.Skip` where what it says of the target's inputs means nothing."""
    model = reference.model
    if model.input.shape != case.model.input.shape or model.output.classes != case.model.output.classes:
        raise Skip("the reference takes inputs of another shape or has other classes: give one of the same task")
    # The reference was built without samples, so its input range may be another one: then every stamped image is noise to it.
    agreed = float((model.predict(_array(case.evidence.check)).argmax(1) == case.evidence.check_labels.numpy()).mean())
    if agreed < REFERENCE_AGREES:
        raise Skip(
            f"the reference classifies {agreed:.0%} of the clean check images as labelled: it takes another input range or was made for "
            "another task; give one that takes the same inputs"
        )
    return model


def _array(x: Tensor) -> npt.NDArray[np.float32]:
    return x.cpu().numpy().astype(np.float32)


def _pixels(inverted: Inverted) -> int:
    return inverted.transform.shape[1] * inverted.transform.shape[2]
