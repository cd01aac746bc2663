"""Warping backdoors: at the strength at which the first class is reached by a warp at all, do the others come near?

Success is measured on all images: one half is turned by warps that were searched on the other, and the other way round.

A WaNet model is trained to withstand every warp but its own ("noise mode", Nguyen and Tran 2021, section 3.4), so its target is the only
class that slight warps reach. In a clean model warps that reach any class are so strong that they reach most classes about as often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.ascent import Round, passes
from modelguard_triggers.case import Case
from modelguard_triggers.evidence import CANDIDATES, REFERENCES, shortlist
from modelguard_triggers.facts import by_class, class_name, rounded, source_classes
from modelguard_triggers.plan import SPENT, Look, Stage
from modelguard_triggers.recovered import recovered
from torch import Tensor

from modelguard import Confidence, Finding, ScanContext, Target
from modelguard_neural_cleanse._evidence import prepare
from modelguard_neural_cleanse._findings import SURE_SHARE, exhibits, highest_score, require_guided, success_on_reference
from modelguard_neural_cleanse._inversion import Inverted, checked
from modelguard_neural_cleanse._search import Found, Question
from modelguard_neural_cleanse._transforms import Warp
from modelguard_neural_cleanse._universal import left_out
from modelguard_neural_cleanse._warp_decision import REACHED, p_values
from modelguard_neural_cleanse._warp_search import ROUNDS, SCREEN, SCREEN_STARTS, STARTS, TRIAL, TRIAL_STARTS, best_warps

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import WarpCleanse

STRENGTHS = (0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
"""Mean displacements tried, as parts of the image's side: 1 to 3 pixels of 32. Wider ones turn most classes of clean models into others."""


@dataclass(frozen=True)
class Bisected:
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


def look_at_warps(detector: WarpCleanse, target: Target, context: ScanContext, stage: Stage) -> Look:
    """Search the best warps of every class at the strength at which the first is reached, and accuse those that stand out."""
    case = prepare(target, context, detector.samples)
    evidence = case.evidence
    transform = Warp(evidence.shape, case.model.input.low, case.model.input.high)
    bisected = target.memo(detector, context, lambda: bisect(case, transform, stage), stage)
    warps = bisected.warps
    require_guided(warps.found.guided.numpy(), "triggers")
    success = warps.success
    p = p_values(bisected.compared, bisected.references, evidence.classes)
    findings, cleared = [], []
    for i in np.lexsort((-success, p)):
        if p[i] >= SPENT * detector.alpha or not warps.reached[i]:
            continue
        facts = _facts(case, target.reference, warps, int(i), float(p[i]))
        if reason := _cleared(detector, facts):
            cleared.append({**facts, "cleared_because": reason})
        else:
            findings.append(_finding(detector, case, warps, int(i), facts))
    return Look(
        {
            "score": highest_score(p),
            "classes": [
                {
                    "class": int(warps.arms[i]),
                    "size": rounded(warps.size[i]),
                    "reached": bool(warps.reached[i]),
                    "attack_success": rounded(success[i]),
                    "p_value": rounded(p[i]),
                }
                for i in range(len(p))
            ],
            "classes_total": evidence.classes,
            "transformation": transform.kind,
            "strength": bisected.strength,
            "tried": {str(strength): rounded(values.max()) for strength, values in sorted(bisected.success.items())},
            "images": {"search": len(evidence.search), "check": len(evidence.check)},
            "clean_accuracy": evidence.accuracy,
            "cleared": cleared,
        },
        tuple(findings),
        p=dict(zip(warps.arms.tolist(), p.tolist(), strict=True)),
        not_looked_at=left_out(warps, evidence.classes),
    )


def bisect(case: Case, transform: Warp, stage: Stage) -> Bisected:
    """Find the smallest strength that reaches a class by bisection, so that the next smaller one has been tried too: three or four of the
    eight."""
    begun = case.affordable(partial(_passes, stage), case.evidence.classes)
    classes, references = _examined(case, transform, torch.from_numpy(begun))
    found: dict[float, Inverted] = {}
    low, high = 0, len(STRENGTHS)
    while low < high:
        middle = (low + high) // 2
        strength = STRENGTHS[middle]
        found[strength] = _at(case, transform, classes, strength, stage)
        low, high = (low, middle) if found[strength].reached.any() else (middle + 1, high)
    strength = STRENGTHS[min(low, len(STRENGTHS) - 1)]
    warps = replace(found[strength], begun=begun)
    return Bisected(strength, warps, references, {s: warps.success for s, warps in found.items()})


def _passes(stage: Stage, classes: int) -> int:
    """Images that go through the model in :func:`bisect` for so many classes, forward and backward, at most."""
    many = CANDIDATES + REFERENCES
    each = passes(SCREEN, SCREEN_STARTS) if stage is Stage.SCREEN else 2 * passes(ROUNDS, STARTS)
    trial = passes(TRIAL, TRIAL_STARTS) if classes > many else 0
    return classes * trial + min(classes, many) * each * len(STRENGTHS).bit_length()


def _examined(case: Case, transform: Warp, classes: Tensor) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """Of ``classes`` those to examine, and which of them to compare with: all; of many, those a short search reaches best, and random
    others."""
    if len(classes) <= CANDIDATES + REFERENCES:
        return classes, np.ones(len(classes), np.bool_)
    strength = STRENGTHS[len(STRENGTHS) // 2]
    trial = best_warps(case, classes, transform, strength, case.generator("trial"), starts=TRIAL_STARTS, rounds=TRIAL)
    kept, references = shortlist(-trial.margin.numpy(), case.rng("references"))
    return classes[torch.from_numpy(kept)], references


def _at(case: Case, transform: Warp, classes: Tensor, strength: float, stage: Stage) -> Inverted:
    """The best warps of ``classes`` (K,) by ``strength``, checked on images they were not searched on: a screen's on one half."""
    if stage is Stage.SCREEN:
        screened = _on_one_half(case, transform, classes, strength, "first", SCREEN_STARTS, SCREEN)
        return replace(screened, found=replace(screened.found, reached=torch.from_numpy(screened.success >= REACHED)))
    evidence = case.evidence
    swapped = replace(
        evidence,
        search=evidence.check,
        search_labels=evidence.check_labels,
        check=evidence.search,
        check_labels=evidence.search_labels,
    )
    own = _on_one_half(case, transform, classes, strength, "first", STARTS, ROUNDS)
    other = _on_one_half(replace(case, evidence=swapped), transform, classes, strength, "second", STARTS, ROUNDS)
    hits, asked = torch.cat([own.hits, other.hits], 1), torch.cat([own.asked, other.asked], 1)
    reached = hits.sum(1) >= REACHED * asked.sum(1)
    found = replace(own.found, reached=reached, guided=own.found.guided | other.found.guided)
    return replace(own, found=found, hits=hits, asked=asked)


def _on_one_half(
    case: Case, transform: Warp, classes: Tensor, strength: float, half: str, starts: int, rounds: tuple[Round, ...]
) -> Inverted:
    generator = case.generator(f"warps/{strength}/{half}")
    best = best_warps(case, classes, transform, strength, generator, starts=starts, rounds=rounds)
    parameters = best.arms.parameters
    found = Found(parameters, transform.size(parameters).cpu(), torch.ones(len(classes), dtype=torch.bool), best.guided)
    question = Question.every_target(case.evidence.classes)[classes]
    return checked(case, question, transform, found, classes.numpy(), np.ones(len(classes)))


def _facts(case: Case, reference: Target | None, warps: Inverted, i: int, p: float) -> dict[str, Any]:
    """The evidence of a finding on the class at place ``i``, JSON-safe."""
    evidence, klass = case.evidence, int(warps.arms[i])
    labels = torch.cat([evidence.check_labels, evidence.search_labels])[: warps.asked.shape[1]]  # a screen's are on one half
    others = np.delete(warps.success, i)
    facts: dict[str, Any] = {
        "target_class": klass,
        **source_classes(by_class(warps.hits[i], warps.asked[i], labels)),
        "mask_area_fraction": rounded(warps.size[i]),
        "p_value": rounded(p),
        "attack_success": rounded(warps.success[i]),
        "typical_success": rounded(float(np.median(others))),
        "next_success": rounded(float(others.max())),
        "clean_accuracy": None if evidence.accuracy is None else rounded(evidence.accuracy),
        "transformation": warps.transform.kind,
    }
    asked = warps.asked[i, : len(evidence.check)]
    return facts | success_on_reference(reference, case, warps.stamp(i, evidence.check[asked]), klass)


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


def _finding(detector: WarpCleanse, case: Case, warps: Inverted, i: int, facts: dict[str, Any]) -> Finding:
    (rule,), klass = detector.rules, facts["target_class"]
    return Finding(
        rule.id,
        f"class {class_name(case.model, klass)}: {rule.title}; "
        f"moving pixels by {facts['mask_area_fraction']:.3f} of the image's side turns "
        f"{facts['attack_success']:.0%} of unseen images into it and at most {facts['next_success']:.0%} into any other class "
        f"(p = {facts['p_value']:.2g})",
        confidence=Confidence.HIGH if facts["p_value"] < SURE_SHARE * detector.alpha else Confidence.MEDIUM,
        evidence={**facts, **recovered(case, klass, warps.asked[i, : len(case.evidence.check)], partial(warps.stamp, i))},
        attachments=exhibits(case, warps, i),
        key=f"{warps.transform.kind}/class/{klass}",
    )
