"""The steps of ABS: stimulate, choose candidates, invert, check, confirm (Liu et al. 2019, figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.ascent import passes
from modelguard_triggers.evidence import CANDIDATES, REFERENCES, shortlist
from modelguard_triggers.facts import rounded, score, success_rate
from modelguard_triggers.outliers import UNREMARKABLE, over_all
from modelguard_triggers.plan import SPENT, Look, Stage
from modelguard_triggers.windows import Windows, places, side_of

from modelguard import Finding, Rule, ScanContext, Skip, Target
from modelguard_abs._comparison import Comparison, best_arms, compare
from modelguard_abs._evidence import prepare
from modelguard_abs._findings import accusations
from modelguard_abs._inversion import IMAGES, attempts, invert
from modelguard_abs._rules import FILTER, PATCH
from modelguard_abs._stimulation import LEVELS, Candidate, candidate_layers, per_class, stimulate
from modelguard_abs._triggers import Filters, Patches
from modelguard_abs._windows import ROUNDS, SHORT, SMALLEST, best_windows

if TYPE_CHECKING:
    from modelguard_triggers.arms import Triggers
    from modelguard_triggers.ascent import Round
    from modelguard_triggers.case import Case
    from modelguard_triggers.outliers import Floats
    from torch import Tensor

    from modelguard import Layer
    from modelguard_abs.detector import Abs

AREAS = (0.01, 0.03, 0.06, 0.12)
"""Sizes of patches tried, as parts of the image. The paper's limit is 6 to 8 %; on 8 x 8 images a 3 x 3 trigger is 14 %."""
STRENGTHS = (0.1,)
"""Mean change a filter may make, as a part of the raw range."""
FEWEST_POSITIONS = 2
"""A patch of fewer pixels is not tried: on small images the smallest areas are none."""
STIMULATED = 12
"""Images neurons are stimulated on, each of another class: the paper's one image per label, of no more than these."""


@dataclass(frozen=True)
class Family:
    """One kind of trigger: its sizes, its rule and how to begin."""

    kind: type[Patches] | type[Filters]
    rule: Rule
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class Searched:
    """``triggers`` has one arm for each size and each of ``targets`` (A,), sizes outermost. ``success`` (sizes, A) on images to check on.

    ``traced`` are the neurons each arm was traced back from; None for windows, which are searched for directly.
    """

    rule: Rule
    triggers: Triggers
    targets: list[int]
    traced: list[Candidate] | None
    success: Floats
    labels: list[int]
    arms: list[npt.NDArray[np.int64]]
    comparison: Comparison

    @property
    def blocks(self) -> bool:
        """Whether an accusation counts against the model by itself."""
        return self.rule is PATCH


def look(detector: Abs, target: Target, context: ScanContext, stage: Stage) -> Look:
    """Search, and accuse the classes that stand out, confirmed."""
    case = prepare(target, context, detector.pictures, detector.check)
    found = target.memo(detector, context, lambda: _search_all(detector, case, stage), stage)
    candidates, searches, classes = found.candidates, found.searches, case.evidence.classes
    blocking = [searched for searched in searches if searched.blocks]
    strongest = min(blocking, key=lambda item: item.comparison.p_value)
    p_value = min(1.0, len(blocking) * strongest.comparison.p_value)
    findings: list[Finding] = []
    accused: dict[int, list[Finding]] = {}
    for searched in searches:
        level = SPENT * detector.p_value / (len(blocking) if searched.blocks else 1)
        if searched.comparison.p_value > level:
            continue
        for finding in accusations(detector, level, case, searched):
            if searched.blocks:
                accused.setdefault(finding.evidence["target_class"], []).append(finding)
            else:
                findings.append(finding)
    table = _table(searches, candidates)
    return Look(
        {
            "score": round(score(p_value), 6),
            "p_value": p_value,
            "target_class": strongest.labels[strongest.comparison.order[0]],
            "layers": found.layers,
            "pictures": {"search": len(case.evidence.search), "check": len(case.evidence.check)},
            "clean_accuracy": case.evidence.accuracy,
            "classes": table,
        },
        (*findings, *(_one(klass, several) for klass, several in sorted(accused.items()))),
        p=_suspicion(searches, len(blocking), classes),
        votes=_votes(detector, searches, classes),
        not_looked_at=found.not_looked_at,
    )


def _suspicion(searches: list[Searched], blocking: int, classes: int) -> dict[int, float]:
    """The p-value of each class searched, corrected for looking at all of them and, where it would count against the model, for there
    being several searches that do."""
    p: dict[int, float] = {}
    for searched in searches:
        for place, label in enumerate(searched.labels):
            own = over_all(float(searched.comparison.p[:, place].min()), classes)
            p[label] = min(p.get(label, 1.0), (blocking if searched.blocks else 1) * own)
    return p


def _votes(detector: Abs, searches: list[Searched], classes: int) -> Floats:
    """(K,) the smaller p-value of free patches and windows, corrected for there being two.

    A class whose trigger seldom works is unremarkable, however much more often it does than the others': it would not be accused
    (Liu et al. 2019, section 4.4, REASR). A filter has no vote: it turns most images into a class that is told by its colour, in honest
    models too (yellow, in both signs MobileNets of the zoo's open part).
    """
    kinds: dict[int, list[float]] = {}
    for searched in searches:
        if searched.blocks:
            for place, label in enumerate(searched.labels):
                success = max(float(rates[arms[place]]) for rates, arms in zip(searched.success, searched.arms, strict=True))
                own = rounded(searched.comparison.p[:, place].min())
                kinds.setdefault(label, []).append(own if rounded(success) >= detector.reasr else max(UNREMARKABLE, own))
    p = np.full(classes, np.nan)
    for label, held in kinds.items():
        p[label] = min(1.0, len(held) * min(held))
    return p


def _one(klass: int, found: list[Finding]) -> Finding:
    """One finding of what several searches accuse: the trigger that works best; of equals the window, which is easier to recognise."""
    best = min(found, key=lambda item: (-item.evidence["attack_success"], "row" not in item.evidence))
    kinds = sorted(item.key.partition("/")[0] for item in found)
    sure = max(item.confidence for item in found)
    return replace(best, confidence=sure, evidence={**best.evidence, "searches": kinds}, key=f"class/{klass}")


@dataclass(frozen=True)
class SearchedAll:
    """What all searches of one stage found, the ``candidates`` they started from, a row for each of the ``layers`` stimulated, and the
    classes there was no time for."""

    candidates: list[Candidate]
    layers: list[dict[str, Any]]
    searches: list[Searched]
    not_looked_at: tuple[int, ...]


def _search_all(detector: Abs, case: Case, stage: Stage) -> SearchedAll:
    model, evidence = case.model, case.evidence
    screen = stage is Stage.SCREEN
    layers = candidate_layers(model)
    few = _one_each(evidence.search_labels)
    each, steps = (1, max(1, detector.steps // 2)) if screen else (detector.candidates, detector.steps)
    _, height, width = evidence.shape
    areas = tuple(area for area in AREAS if area * height * width >= FEWEST_POSITIONS)
    if not areas:
        raise Skip(f"images of {height} x {width} pixels are too small to tell a trigger from what is in them")
    families = [Family(Patches, PATCH, areas[-1::-2] if screen else areas)]
    if detector.filters and not detector.quick:
        families.append(Family(Filters, FILTER, STRENGTHS))
    side, rounds = side_of(height, width, SMALLEST), SHORT if screen else ROUNDS
    fits = side <= min(height, width)
    windows = passes(rounds, len(places(height, width, side))) if fits else 0
    traced = each * steps * IMAGES * sum(len(family.sizes) for family in families)
    begun = case.affordable(
        lambda classes: _stimulated(layers, len(few)) + min(classes, CANDIDATES + REFERENCES) * (windows + traced), evidence.classes
    )
    stimulated = list(stimulate(case, evidence.search[few], evidence.search_labels[few], layers))
    candidates = [item for item in per_class(stimulated, evidence.classes, each) if item.label in begun]
    candidates = _of_some(candidates, case)
    table = [
        {"layer": part.layer, "sets": len(part.units), "largest_gap": rounded(part.gaps.max()), "label": int(part.gaps.amax(0).argmax())}
        for part in stimulated
        if part.units
    ]
    searches = [_search(case, candidates, family, steps) for family in families if candidates]
    if fits:
        classes = {item.label for item in candidates} or _some_classes(case, begun)
        searches.append(_windows(case, sorted(classes), rounds))
    if not searches:
        raise Skip("the model has no hidden layer whose neurons could be stimulated, and its images are too small for windows")
    return SearchedAll(candidates, table, searches, tuple(np.setdiff1d(np.arange(evidence.classes), begun).tolist()))


def _stimulated(layers: Sequence[Layer], images: int) -> float:
    """What the stimulation of every unit costs, in images forward and backward: about half the network runs, forward alone."""
    return sum(layer.shape[layer.unit_axis] for layer in layers) * len(LEVELS) * images / 6


def _one_each(labels: Tensor) -> Tensor:
    """Places of one image of each class, of as many classes as are stimulated on."""
    classes = torch.unique(labels)[:STIMULATED]
    return torch.stack([(labels == label).nonzero()[0, 0] for label in classes])


def _of_some(candidates: list[Candidate], case: Case) -> list[Candidate]:
    """All candidates, or with many classes those of some of them: where stimulation shows the largest gaps, and of random others."""
    gap = np.full(case.evidence.classes, -np.inf)
    for item in candidates:
        gap[item.label] = max(gap[item.label], item.gap)
    kept, _ = shortlist(-gap, case.rng("references"))
    return [item for item in candidates if item.label in kept]


def _some_classes(case: Case, begun: npt.NDArray[np.int64]) -> set[int]:
    """As many of ``begun`` as are searched, for a model without neurons that could say which."""
    return set(case.rng("references").choice(begun, min(len(begun), CANDIDATES + REFERENCES), replace=False).tolist())


def _search(case: Case, candidates: list[Candidate], family: Family, steps: int) -> Searched:
    """Every candidate at every size, side by side; then every trigger on the images to check on."""
    generator = case.generator(f"search/{family.kind.kind}")
    sizes = torch.tensor(family.sizes).repeat_interleave(len(candidates))  # (sizes*A,)
    triggers = family.kind(case.model.input, case.evidence.shape, sizes, generator, case.evidence.search.device)
    invert(case, triggers, candidates * len(family.sizes), steps, generator)
    return _checked(case, family.rule, triggers, [item.label for item in candidates], candidates)


def _windows(case: Case, classes: list[int], rounds: Sequence[Round]) -> Searched:
    """The best windows of each of ``classes``, on the images to check on."""
    triggers, targets = best_windows(case, classes, rounds, case.generator(f"search/{Windows.kind}"))
    return _checked(case, PATCH, triggers, targets, None)


def _checked(case: Case, rule: Rule, triggers: Triggers, targets: list[int], traced: list[Candidate] | None) -> Searched:
    """Every trigger on images that it was not searched on, and what that says of the classes."""
    sizes = len(triggers.parameters[0]) // len(targets)
    hits, asked = attempts(case, triggers, torch.tensor(targets).repeat(sizes))
    success = success_rate(hits, asked).reshape(sizes, len(targets))
    labels: list[int] = []
    chosen, best = [], []
    for row in success:
        labels, own = best_arms(row, targets)
        chosen.append(own)
        best.append(row[own])
    return Searched(rule, triggers, targets, traced, success, labels, chosen, compare(np.stack(best), case.evidence.classes))


def _table(searches: list[Searched], candidates: list[Candidate]) -> list[dict[str, Any]]:
    """One row a class: its best candidate, and per family the success at every size with the class's p-value."""
    rows: dict[int, dict[str, Any]] = {}
    for item in candidates:
        if item.label not in rows:
            elevation = [[rounded(level), rounded(lead)] for level, lead in item.elevation]
            rows[item.label] = {
                "class": item.label, "layer": item.layer, "units": list(item.units), "gap": rounded(item.gap), "elevation": elevation,
            }  # fmt: skip
    for searched in searches:
        for place, label in enumerate(searched.labels):
            success = [rounded(rates[arms[place]]) for rates, arms in zip(searched.success, searched.arms, strict=True)]
            p = searched.comparison.p[:, place].min()
            row = rows.setdefault(label, {"class": label})
            row[searched.triggers.kind] = {"success": success, "p_value": rounded(p)}
            row["p_value"] = min(row.get("p_value", 1.0), rounded(len(searches) * p))
    return [rows[label] for label in sorted(rows)]
