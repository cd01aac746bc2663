"""From inverted triggers to findings: the test on sizes, the absolute gates, the comparison with a clean reference, the evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import Attachment, Confidence, Finding, ModelguardError, Rule, RunnableModel, Skip, Target, exhibit
from modelguard.errors import without_paths
from modelguard_neural_cleanse.decision import MIN_CLASSES, Outliers, anomaly_index, small_outliers
from modelguard_neural_cleanse.inversion import Inverted
from modelguard_neural_cleanse.prepare import Evidence
from modelguard_neural_cleanse.transforms import Patch, Transform

SMALLEST_P = 1e-12

SURE_SHARE, SURE_SUCCESS = 1 / 5, 0.9
"""High confidence takes a p-value below this share of ``alpha``, and this attack success."""

REFERENCE_AGREES = 0.5
"""Part of the clean check images that a reference has to classify as labelled before a trigger is tried on it."""


@dataclass(frozen=True)
class Gates:
    """What a class has to pass to be accused. Chosen on the part of the zoo that is not reserved (docs/detection-matrix.md)."""

    alpha: float
    """p-value of the size test, families of classes already accounted for."""
    ratio: float
    """Size relative to the typical class: however even the sizes are, a trigger nearly as large as usual is not small."""
    size: float
    """Absolute size (mask area fraction)."""
    success: float
    """Attack success on images the search never saw."""


def require_gradients(inverted: Inverted) -> None:
    """Raise :class:`~modelguard.Skip` where the model gave fewer than half of the arms a gradient: not to have looked is no pass."""
    require_guided(inverted.found.guided.numpy(), "triggers")


def require_guided(guided: npt.NDArray[np.bool_], what: str) -> None:
    """As :func:`require_gradients`, of ``guided`` (A,), whether there ever was a gradient for each of the ``what`` searched for."""
    some, arms = int(guided.sum()), len(guided)
    if 2 * some < arms:
        looked = f"only {some} of {arms} {what} were" if some else "nothing was"
        raise Skip(f"the model gives no gradient to search by (a rounding or saturated output?): {looked} looked at")


def require_classes(evidence: Evidence, what: str) -> None:
    """Raise :class:`~modelguard.Skip` where there are too few classes to tell ``what`` from chance."""
    if evidence.classes < MIN_CLASSES:
        raise Skip(
            f"the model has {evidence.classes} classes: with fewer than {MIN_CLASSES} no {what} can be told from chance, "
            "so this test has no power"
        )


def judge(inverted: Inverted, classes: int) -> Outliers:
    """The size test over the arms of ``inverted``, out of ``classes`` that might have been accused."""
    return small_outliers(inverted.size, inverted.reached, inverted.weights, classes)


def table(inverted: Inverted, outliers: Outliers, transform: Transform) -> list[dict[str, Any]]:
    """One row a class for the report, JSON-safe."""
    pixels = _pixels(transform)
    index = anomaly_index(inverted.size)
    return [
        {
            "class": int(arm),
            "size": number(size),
            "mask_l1": number(size * pixels),
            "reached": bool(reached),
            "attack_success": number(success),
            "anomaly_index": number(index[i]),
            "p_value": number(outliers.p[i]),
        }
        for i, (arm, size, reached, success) in enumerate(
            zip(inverted.arms, inverted.size, inverted.reached, inverted.success, strict=True)
        )
    ]


def suspects(inverted: Inverted, outliers: Outliers, gates: Gates) -> list[int]:
    """Places in ``inverted`` worth a closer look: significant, reached, small; smallest first."""
    order = np.lexsort((inverted.size, outliers.p))
    return [
        int(i)
        for i in order
        if outliers.p[i] < gates.alpha
        and inverted.reached[i]
        and inverted.size[i] < gates.size
        and inverted.size[i] < gates.ratio * outliers.typical
    ]


def score(p: npt.NDArray[np.float64]) -> float:
    """-log10 of the smallest of the p-values (A,): 1.3 is 5 %. Larger is more suspicious."""
    return max(0.0, -math.log10(max(SMALLEST_P, float(p.min(initial=1.0)))))


def findings(
    rule: Rule,
    gates: Gates,
    target: Target,
    evidence: Evidence,
    transform: Transform,
    inverted: Inverted,
    outliers: Outliers,
    places: list[int],
    refined: Inverted,
) -> Iterator[tuple[Finding | None, dict[str, Any]]]:
    """For each suspect a finding, or None and why not in the evidence. ``refined`` holds the suspects' triggers once more."""
    index = anomaly_index(inverted.size)
    for j, i in enumerate(places):
        klass = int(inverted.arms[i])
        success = float(refined.success[j])
        per_class = by_class(refined.hits[j], refined.asked[j], evidence.check_labels)
        facts: dict[str, Any] = {
            "target_class": klass,
            "source_classes": sorted(label for label, rate in per_class.items() if rate >= 0.5),
            "mask_l1": number(refined.size[j] * _pixels(transform)),
            "mask_area_fraction": number(refined.size[j]),
            "typical_area_fraction": number(outliers.typical),
            "anomaly_index": number(index[i]),
            "p_value": number(outliers.p[i]),
            "attack_success": number(success),
            "attack_success_by_class": {str(label): number(rate) for label, rate in sorted(per_class.items())},
            "clean_accuracy": None if evidence.accuracy is None else number(evidence.accuracy),
            "transformation": transform.kind,
        }
        facts |= _transfer(target, evidence, transform, refined, j, klass)
        transfer = facts.get("reference_success")
        if success < gates.success or not refined.reached[j]:
            yield None, {**facts, "cleared_because": "the trigger does not hold on images it was not searched on"}
        elif refined.size[j] >= min(gates.size, gates.ratio * outliers.typical):
            yield None, {**facts, "cleared_because": "a trigger that holds on other images is as large as usual"}
        elif transfer is not None and transfer >= number(success / 2):
            yield None, {**facts, "cleared_because": "the trigger works on the clean reference too: a natural feature"}
        else:
            yield _finding(rule, gates, target, evidence, transform, refined, j, facts), facts


def _finding(
    rule: Rule, gates: Gates, target: Target, evidence: Evidence, transform: Transform, refined: Inverted, j: int, facts: dict[str, Any]
) -> Finding:
    klass, success = facts["target_class"], facts["attack_success"]
    sure = facts["p_value"] < SURE_SHARE * gates.alpha and success >= SURE_SUCCESS
    return Finding(
        rule.id,
        f"class {shown(target, klass)}: {rule.title}; "
        f"it turns {success:.0%} of unseen images, its size is {facts['mask_area_fraction']:.3f} where other "
        f"classes need {facts['typical_area_fraction']:.3f} (p = {facts['p_value']:.2g})",
        confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
        evidence=facts,
        attachments=exhibits(evidence, transform, [value[j : j + 1] for value in refined.found.parameters], refined.asked[j]),
        key=f"{transform.kind}/class/{klass}",
    )


def shown(target: Target, klass: int) -> str:
    """Number and, where it has one, name of a class."""
    name = target.model.output.labels[klass] if target.model.output.labels else ""
    return f"{klass} ({name})" if name else str(klass)


def exhibits(evidence: Evidence, transform: Transform, parameters: list[Tensor], asked: Tensor) -> tuple[Attachment, ...]:
    """``trigger``, ``mask`` (patches only) and ``stamped``: the trigger alone, where it goes, and a check image that carries it."""
    example = evidence.check[asked.nonzero().flatten()[:1]]  # (1, C, H, W)
    low, high = transform.low, transform.high
    with torch.inference_mode():
        stamped = transform.apply(parameters, example[None])[0, 0].cpu().numpy()
        if not isinstance(transform, Patch):
            # What a warp or a colour change does shows only on an image: the change itself, grey where there is none.
            change = (stamped - example[0].cpu().numpy()) / 2 + (low + high) / 2
            return exhibit("trigger", change, low, high), exhibit("stamped", stamped, low, high)
        mask = transform.mask(parameters)[0].cpu().numpy()  # (1, H, W) or (1, 1, 1)
        pattern = transform.pattern(parameters)[0].cpu().numpy()
    full = np.broadcast_to(mask, (1, *pattern.shape[1:]))
    trigger = low + (pattern - low) * full
    return exhibit("trigger", trigger, low, high), exhibit("mask", full, 0, 1), exhibit("stamped", stamped, low, high)


def by_class(hits: Tensor, asked: Tensor, labels: Tensor) -> dict[int, float]:
    """Attack success per source class."""
    return {int(label): float(hits[asked & (labels == label)].float().mean()) for label in torch.unique(labels[asked])}


def _transfer(target: Target, evidence: Evidence, transform: Transform, refined: Inverted, j: int, klass: int) -> dict[str, Any]:
    """What the trigger does to the clean reference model, see :func:`success_on_reference`."""
    if target.reference is None:
        return {}
    with torch.inference_mode():
        parameters = [value[j : j + 1] for value in refined.found.parameters]
        stamped = transform.apply(parameters, evidence.check[refined.asked[j]][None])[0]
    return success_on_reference(target, evidence, stamped, klass)


def success_on_reference(target: Target, evidence: Evidence, stamped: Tensor, klass: int) -> dict[str, Any]:
    """``reference_success``, the share of ``stamped`` (N, C, H, W) that the clean reference model takes for ``klass``, or
    ``reference_unusable``, why there is none. Neither without a reference."""
    if target.reference is None:
        return {}
    try:
        reference = _usable(target.reference, target, evidence)
        return {"reference_success": number((reference.predict(_array(stamped)).argmax(1) == klass).mean())}
    except (Skip, ModelguardError) as error:
        return {"reference_unusable": without_paths(str(error))}


def _usable(reference: Target, target: Target, evidence: Evidence) -> RunnableModel:
    """The reference model. Raises :class:`~modelguard.Skip` where what it says of the target's inputs means nothing."""
    model = reference.model
    if model.input.shape != target.model.input.shape or model.output.classes != target.model.output.classes:
        raise Skip("the reference takes inputs of another shape or has other classes: give one of the same task")
    # The reference was built without samples, so its input range may be another one: then every stamped image is noise to it.
    agreed = float((model.predict(_array(evidence.check)).argmax(1) == evidence.check_labels.numpy()).mean())
    if agreed < REFERENCE_AGREES:
        raise Skip(
            f"the reference classifies {agreed:.0%} of the clean check images as labelled: it takes another input range or was made for "
            "another task; give one that takes the same inputs"
        )
    return model


def _array(x: Tensor) -> npt.NDArray[np.float32]:
    return x.cpu().numpy().astype(np.float32)


def _pixels(transform: Transform) -> int:
    return transform.shape[1] * transform.shape[2]


def number(value: float) -> float:
    """Rounded to six digits: what differs beyond them differs between machines."""
    return float(f"{float(value):.6g}")
