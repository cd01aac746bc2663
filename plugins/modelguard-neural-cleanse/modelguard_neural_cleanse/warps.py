"""Warping backdoors: at the strength at which the first class is reached by a warp at all, do the others come near?

Success is measured on all images: one half is turned by warps that were searched on the other, and the other way round.

A WaNet model is trained to withstand every warp but its own ("noise mode", Nguyen and Tran 2021, section 3.4), so its target is the only
class that slight warps reach. In a clean model warps that reach any class are so strong that they reach most classes about as often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import Confidence, Finding, ScanContext, Target
from modelguard_neural_cleanse.inversion import CANDIDATES, REFERENCES, Inverted, Question
from modelguard_neural_cleanse.prepare import Evidence, generator, images_at_once, prepare
from modelguard_neural_cleanse.search import Found, successes
from modelguard_neural_cleanse.transforms import Warp
from modelguard_neural_cleanse.verdict import (
    SURE_SHARE,
    by_class,
    exhibits,
    number,
    require_classes,
    require_gradients,
    score,
    shown,
    success_on_reference,
)
from modelguard_neural_cleanse.warp_decision import REACHED, p_values
from modelguard_neural_cleanse.warp_search import TRIAL, TRIAL_STARTS, best_warps

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import WarpCleanse

STRENGTHS = (0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
"""Mean displacements tried, as parts of the image's side: 1 to 3 pixels of 32. Wider ones turn most classes of clean models into others."""


@dataclass(frozen=True)
class Climbed:
    """The smallest of :data:`STRENGTHS` at which a class is reached, else the largest, and what the best warps of that strength do.

    ``warps`` holds those searched on ``evidence.search``; its ``hits`` and ``asked`` are (K, N), over ``evidence.check`` and then over
    ``evidence.search``, the latter by warps that were searched on the former. ``references`` (K,) bool: the classes examined that the
    others are compared with.
    """

    strength: float
    warps: Inverted
    references: npt.NDArray[np.bool_]
    success: dict[float, npt.NDArray[np.float64]]
    """Of the warps of every strength tried: (K,) the share of images turned."""

    @property
    def compared(self) -> npt.NDArray[np.float64]:
        """(1 or 2, K) the success of the next smaller of :data:`STRENGTHS`, if any, and of this one."""
        place = STRENGTHS.index(self.strength)
        return np.stack([self.success[strength] for strength in STRENGTHS[max(0, place - 1) : place + 1]])


def scan_warps(detector: WarpCleanse, target: Target, context: ScanContext) -> Iterator[Finding]:
    """Search the best warps of every class at the strength at which the first is reached, and accuse those that stand out."""
    evidence = prepare(target, context, detector.samples)
    require_classes(evidence, "warp's success")
    transform = Warp(evidence.shape, target.model.input.low, target.model.input.high)
    climbed = target.memo(detector, context, lambda: climb(target, context, evidence, transform))
    warps = climbed.warps
    require_gradients(warps)
    success = warps.success
    p = p_values(climbed.compared, climbed.references, evidence.classes)
    context.summary(
        score=score(p),
        classes=[
            {
                "class": int(warps.arms[i]),
                "size": number(warps.size[i]),
                "reached": bool(warps.reached[i]),
                "attack_success": number(success[i]),
                "p_value": number(p[i]),
            }
            for i in range(len(p))
        ],
        classes_total=evidence.classes,
        transformation=transform.kind,
        strength=climbed.strength,
        tried={str(strength): number(values.max()) for strength, values in sorted(climbed.success.items())},
        images={"search": len(evidence.search), "check": len(evidence.check)},
        clean_accuracy=evidence.accuracy,
    )
    cleared = []
    for i in np.lexsort((-success, p)):
        if p[i] >= detector.alpha or not warps.reached[i]:
            continue
        facts = _facts(target, evidence, transform, climbed, int(i), float(p[i]))
        if reason := _cleared(detector, facts):
            cleared.append({**facts, "cleared_because": reason})
        else:
            yield _finding(detector, target, evidence, transform, warps, int(i), facts)
    context.summary(cleared=cleared)


def climb(target: Target, context: ScanContext, evidence: Evidence, transform: Warp) -> Climbed:
    """Find the smallest strength that reaches a class by bisection, so that the next smaller one has been tried too: three or four of the
    eight."""
    classes, references = _examined(target, context, evidence, transform)
    found: dict[float, Inverted] = {}
    low, high = 0, len(STRENGTHS)
    while low < high:
        middle = (low + high) // 2
        strength = STRENGTHS[middle]
        context.progress(len(found), len(STRENGTHS).bit_length(), f"warps by {strength:.0%}")
        found[strength] = _at(target, context, evidence, transform, classes, strength)
        low, high = (low, middle) if found[strength].reached.any() else (middle + 1, high)
    strength = STRENGTHS[min(low, len(STRENGTHS) - 1)]
    return Climbed(strength, found[strength], references, {s: warps.success for s, warps in found.items()})


def _examined(target: Target, context: ScanContext, evidence: Evidence, transform: Warp) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """The classes to examine and which of them to compare with: all; of many, those a short search reaches best, and random others."""
    classes = torch.arange(evidence.classes)
    if len(classes) <= CANDIDATES + REFERENCES:
        return classes, np.ones(len(classes), np.bool_)
    trial = best_warps(
        target.model,
        classes,
        evidence,
        transform,
        STRENGTHS[len(STRENGTHS) // 2],
        starts=TRIAL_STARTS,
        rounds=TRIAL,
        batch=images_at_once(target, context),
        generator=generator(context, "trial"),
        tick=context.check_deadline,
    )
    order = trial.margin.argsort(descending=True, stable=True).numpy()
    others = context.rng("references").choice(order[CANDIDATES:], REFERENCES, replace=False)
    kept = np.sort(np.concatenate([order[:CANDIDATES], others]))
    return torch.from_numpy(kept), np.isin(kept, others)


def _at(target: Target, context: ScanContext, evidence: Evidence, transform: Warp, classes: Tensor, strength: float) -> Inverted:
    """The best warps of ``classes`` (K,) by ``strength``, checked on images they were not searched on."""
    swapped = replace(
        evidence,
        search=evidence.check,
        search_labels=evidence.check_labels,
        check=evidence.search,
        check_labels=evidence.search_labels,
    )
    own = _on_one_half(target, context, evidence, transform, classes, strength, "first")
    other = _on_one_half(target, context, swapped, transform, classes, strength, "second")
    hits, asked = torch.cat([own.hits, other.hits], 1), torch.cat([own.asked, other.asked], 1)
    reached = hits.sum(1) >= REACHED * asked.sum(1)
    found = replace(own.found, reached=reached, guided=own.found.guided | other.found.guided)
    return Inverted(own.arms, own.weights, found, hits, asked)


def _on_one_half(
    target: Target, context: ScanContext, evidence: Evidence, transform: Warp, classes: Tensor, strength: float, half: str
) -> Inverted:
    batch = images_at_once(target, context)
    best = best_warps(
        target.model,
        classes,
        evidence,
        transform,
        strength,
        batch=batch,
        generator=generator(context, f"warps/{strength}/{half}"),
        tick=context.check_deadline,
    )
    targets, asked = Question.every_target(evidence.classes)[classes].on(evidence.check_labels)
    size = transform.size(best.parameters).cpu()
    found = Found(best.parameters, size, torch.ones(len(classes), dtype=torch.bool), best.guided)
    hits = successes(target.model, found, transform, evidence.check, targets, asked, batch, context.check_deadline)
    return Inverted(classes.numpy(), np.ones(len(classes)), found, hits, asked)


def _facts(target: Target, evidence: Evidence, transform: Warp, climbed: Climbed, i: int, p: float) -> dict[str, Any]:
    """The evidence of a finding on the class at place ``i``, JSON-safe."""
    warps = climbed.warps
    klass = int(warps.arms[i])
    own, asked = warps.hits[i], warps.asked[i]
    labels = torch.cat([evidence.check_labels, evidence.search_labels])
    per_class = by_class(own, asked, labels)
    others = np.delete(warps.success, i)
    facts: dict[str, Any] = {
        "target_class": klass,
        "source_classes": sorted(label for label, rate in per_class.items() if rate >= 0.5),
        "mask_area_fraction": number(warps.size[i]),
        "p_value": number(p),
        "attack_success": number(warps.success[i]),
        "attack_success_by_class": {str(label): number(rate) for label, rate in sorted(per_class.items())},
        "typical_success": number(float(np.median(others))),
        "next_success": number(float(others.max())),
        "clean_accuracy": None if evidence.accuracy is None else number(evidence.accuracy),
        "transformation": transform.kind,
    }
    if target.reference is None:
        return facts
    with torch.inference_mode():
        images = evidence.check[asked[: len(evidence.check)]]
        warped = transform.apply([value[i : i + 1] for value in warps.found.parameters], images[None])[0]
    return facts | success_on_reference(target, evidence, warped, klass)


def _cleared(detector: WarpCleanse, facts: dict[str, Any]) -> str:
    """Why a class that stands out is not accused, empty when it is."""
    transfer = facts.get("reference_success")
    if facts["attack_success"] < detector.success:
        return "the warp does not hold on images it was not searched on"
    if facts["mask_area_fraction"] > detector.area:
        return "the warp is wider than asked for"
    if transfer is not None and transfer >= facts["attack_success"] / 2:
        return "the warp works on the clean reference too: a natural feature"
    return ""


def _finding(
    detector: WarpCleanse, target: Target, evidence: Evidence, transform: Warp, warps: Inverted, i: int, facts: dict[str, Any]
) -> Finding:
    klass = facts["target_class"]
    return Finding(
        detector.rules[0].id,
        f"class {shown(target, klass)}: {detector.rules[0].title}; "
        f"moving pixels by {facts['mask_area_fraction']:.3f} of the image's side turns "
        f"{facts['attack_success']:.0%} of unseen images into it and at most {facts['next_success']:.0%} into any other class "
        f"(p = {facts['p_value']:.2g})",
        confidence=Confidence.HIGH if facts["p_value"] < SURE_SHARE * detector.alpha else Confidence.MEDIUM,
        evidence=facts,
        attachments=exhibits(
            evidence, transform, [value[i : i + 1] for value in warps.found.parameters], warps.asked[i, : len(evidence.check)]
        ),
        key=f"{transform.kind}/class/{klass}",
    )
