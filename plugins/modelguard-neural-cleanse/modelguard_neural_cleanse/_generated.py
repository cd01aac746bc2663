"""Triggers made for each image: how little room does a generator need to turn images of all classes into one, or each into another?

A model with such a backdoor answers to the changes that its trigger's generator learnt to make, and another generator finds them again; a
clean model gives way only to changes nearly as large as the difference between real images. So what is judged is absolute, not one class
beside the others: an attacker who chooses the class of every image (Marksman) leaves none that stands out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.case import Case
from modelguard_triggers.facts import change_exhibits, class_name, examples, rounded
from modelguard_triggers.plan import Look, Stage
from torch import Tensor

from modelguard import Attachment, Confidence, Finding, ModelguardError, ScanContext, Skip, Target
from modelguard.errors import without_paths
from modelguard_neural_cleanse._evidence import prepare
from modelguard_neural_cleanse._findings import require_guided, success_on_reference, usable_reference
from modelguard_neural_cleanse._generator import LADDER, Climbed, Floats, changed, climb, passes
from modelguard_neural_cleanse._levels import beside, level_of, measured_on
from modelguard_neural_cleanse._rules import GENERATED, GENERATED_MAP
from modelguard_neural_cleanse._trodo import trodo

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import GeneratorInversion

STREAMS = {Stage.SCREEN: ("first",), Stage.FULL: ("first", "second")}
"""Generators that are trained, each from a start of its own. A class is accused only where both say so, so the screen accuses nobody."""
SUSPECT = 0.8
"""A class is cleared whose ease in the screen is below this part of what accuses."""
MANY = 0.5
"""Part of the classes that were looked at from which on they are accused together: the attacker chooses."""
SURE = 1.25
"""High confidence takes an ease of so many times what accuses."""
SHOWN = 1
"""The step of the ladder that findings tell and show."""
MIN_SHOWN = 3
"""Classes that search and check images each have to show: a class alone says nothing of the others."""


def ease(climbed: Climbed) -> Floats:
    """(K,) for each wanted class the success averaged over source classes and the steps of the ladder, 0..1; NaN of those not looked at.

    The area under success against the logarithm of the room, nearly: the steps are almost evenly spaced there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN is a class not looked at
        return np.asarray(np.nanmean(climbed.success, axis=(0, 1)), np.float64)


def look_at_generated(detector: GeneratorInversion, target: Target, context: ScanContext, stage: Stage) -> Look:
    """Train one generator in the screen, and a second in the full search; accuse what both turn images into too easily."""
    case = prepare(target, context, detector.samples)
    evidence = case.evidence
    for labels in (evidence.search_labels, evidence.check_labels):
        if (shown := len(torch.unique(labels))) < min(MIN_SHOWN, evidence.classes):
            raise Skip(f"samples show {shown} of {evidence.classes} classes; give samples of more classes")
    level, reference_ease = detector.ease or level_of(case.model), None
    models = 2 if level is None and target.reference is not None else 1
    classes = target.memo(
        detector, context, lambda: case.affordable(lambda n: models * passes(n, len(evidence.check)), evidence.classes), "classes", models
    )
    runs = [target.memo(detector, context, partial(climb, case, classes, stream), stream) for stream in STREAMS[stage]]
    require_guided(np.array([run.guided for run in runs]), "generators")
    eases = np.stack([ease(run) for run in runs])  # (S, K)
    agreed = eases.min(0)  # (K,) NaN of classes not looked at
    best = int(np.nanargmax(agreed))
    rise = target.memo(detector, context, lambda: trodo(case, LADDER[-1] * runs[0].unit), "outliers")
    measured = {
        "target_class": best,
        "ease": rounded(agreed[best]),
        "trodo": rounded(rise),
        "room": [rounded(part) for part in LADDER],
        "natural_distance": rounded(runs[0].unit),
        "classes": [
            {"class": int(k), "ease": rounded(agreed[k]), "success": [rounded(value) for value in _success(runs, int(k))]} for k in classes
        ],
        "images": {"search": len(evidence.search), "check": len(evidence.check)},
        "clean_accuracy": evidence.accuracy,
    }
    if level is None:
        context.summary(stage=stage.value, **measured)  # what was measured is told, though nothing can be concluded from it
        reference_ease = _reference_ease(detector, target, context, case, classes, stage)
        level = beside(reference_ease)
        measured["reference_ease"] = rounded(reference_ease)
    accused = np.flatnonzero(agreed >= level) if stage is Stage.FULL else np.arange(0)
    findings, cleared = _findings(level, target.reference, case, runs, agreed, accused, len(classes), reference_ease)
    return Look(
        {"score": rounded(agreed[best] / level), **measured, "accusing_ease": rounded(level), "cleared": cleared},
        findings,
        # No p-value decides: a class is open while what the runs made so far agree on is near what accuses.
        p={int(k): 0.0 if agreed[k] >= SUSPECT * level else 1.0 for k in classes},
        not_looked_at=tuple(np.setdiff1d(np.arange(evidence.classes), classes).tolist()),
    )


def _reference_ease(
    detector: GeneratorInversion, target: Target, context: ScanContext, case: Case, classes: npt.NDArray[np.int64], stage: Stage
) -> float:
    """The largest ease of any class of the clean reference, by the networks of ``stage``. Raises :class:`~modelguard.Skip` without one."""
    unknown = f"the level at which it accuses was measured for {measured_on()} alone"
    if target.reference is None:
        raise Skip(f"{unknown}, and clean models of other kinds reach it: give --reference, a clean model of the same architecture")
    try:
        model = usable_reference(target.reference, case)
    except (Skip, ModelguardError) as error:
        raise Skip(f"{unknown}, and the reference cannot be compared: {without_paths(str(error))}") from None
    if [(layer.kind, layer.shape) for layer in model.layers] != [(layer.kind, layer.shape) for layer in case.model.layers]:
        raise Skip(f"{unknown}, and the reference is of another architecture: give a clean model of the same one")
    beside_it = replace(case, model=model)
    runs = [target.memo(detector, context, partial(climb, beside_it, classes, stream), "reference", stream) for stream in STREAMS[stage]]
    if not all(run.guided for run in runs):
        raise Skip(f"{unknown}, and the reference gives no gradient to search by: give another clean model")
    return max(float(np.nanmax(ease(run))) for run in runs)


def _success(runs: Sequence[Climbed], wanted: int) -> Floats:
    """(R,) at each step of the ladder, the success that all runs reach."""
    return np.asarray(np.stack([np.nanmean(run.success[:, :, wanted], 1) for run in runs]).min(0), np.float64)


def _findings(
    level: float,
    reference: Target | None,
    case: Case,
    runs: Sequence[Climbed],
    agreed: Floats,
    accused: npt.NDArray[np.int64],
    looked: int,
    reference_ease: float | None,
) -> tuple[tuple[Finding, ...], list[dict[str, Any]]]:
    """One finding for each accused class, or one for all of them where they are many; and those that the reference clears."""
    together = len(accused) >= max(2, MANY * looked)
    found, cleared = [], []
    for group in [accused] if together else accused[:, None]:
        easiest = int(group[agreed[group].argmax()])
        others = case.evidence.check_labels != easiest
        stamped = _stamped(case, runs[0], case.evidence.check[others], easiest)
        turned = float((case.model.predict(stamped.cpu().numpy()).argmax(1) == easiest).mean())
        evidence: dict[str, Any] = {
            "target_class": None if together else easiest,
            "targets": [int(k) for k in group],
            "ease": rounded(agreed[easiest]),
            "accusing_ease": rounded(level),
            **({} if reference_ease is None else {"reference_ease": rounded(reference_ease)}),
            "ease_by_run": [rounded(ease(run)[easiest]) for run in runs],
            "success": [rounded(value) for value in _success(runs, easiest)],
            "room": [rounded(part) for part in LADDER],
            "attack_success": rounded(turned),
            "clean_accuracy": case.evidence.accuracy,
            **success_on_reference(reference, case, stamped, easiest),
        }
        if evidence.get("reference_success", 0.0) > turned / 2:
            cleared.append({**evidence, "cleared_because": "the changes work on the clean reference too"})
            continue
        rule, what = (
            (GENERATED_MAP, f"any of {len(group)} classes") if together else (GENERATED, f"class {class_name(case.model, easiest)}")
        )
        sure = agreed[easiest] >= SURE * level
        found.append(
            Finding(
                rule.id,
                f"a network turns images into {what} by faint changes: {turned:.0%} of unseen images within {LADDER[SHOWN]:.0%} of the "
                f"distance between classes (ease {agreed[easiest]:.2f}, {level:.2f} accuses)",
                confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
                evidence=evidence,
                attachments=_exhibits(case, runs[0], easiest),
                key="classes" if together else f"class/{easiest}",
            )
        )
    return tuple(found), cleared


def _stamped(case: Case, run: Climbed, images: Tensor, wanted: int) -> Tensor:
    """``images`` (N, C, H, W) as the network changes them, at the step of the ladder that findings show."""
    spec, budget = case.model.input, LADDER[SHOWN] * run.unit
    with torch.no_grad():
        parts = [
            changed(run.network, part, torch.full((len(part),), wanted, device=part.device), budget, spec.low, spec.high)[0]
            for part in torch.split(images, case.batch)
        ]
    return torch.cat(parts)


def _exhibits(case: Case, run: Climbed, wanted: int) -> tuple[Attachment, ...]:
    """What the network does to check images of other classes."""
    check, labels, spec = case.evidence.check, case.evidence.check_labels, case.model.input
    chosen = examples(labels != wanted, labels, check.shape[2] * check.shape[3])
    stamped = _stamped(case, run, check[chosen], wanted).cpu().numpy()
    return change_exhibits(check[chosen[0]].cpu().numpy(), list(zip(labels[chosen].tolist(), stamped, strict=True)), (spec.low, spec.high))
