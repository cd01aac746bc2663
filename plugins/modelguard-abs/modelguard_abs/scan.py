"""The steps of ABS: stimulate, choose candidates, invert, check, confirm (Liu et al. 2019, figure 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import numpy.typing as npt
import torch
from modelguard_companions.outlier import over_all
from modelguard_companions.triggers import Triggers, Windows
from torch import Tensor

from modelguard import Attachment, Confidence, Finding, Rule, ScanContext, Skip, Target, exhibit
from modelguard_abs.decision import Floats, Verdict, best_arms, judge
from modelguard_abs.evidence import Evidence, at_once, prepare
from modelguard_abs.inversion import attempts, invert
from modelguard_abs.rules import FILTER, PATCH
from modelguard_abs.stimulation import Candidate, candidate_layers, per_class, stimulate
from modelguard_abs.triggers import Filters, Patches
from modelguard_abs.windows import QUICK, ROUNDS, best_windows, side_of

if TYPE_CHECKING:
    from modelguard import RunnableModel
    from modelguard_abs.detector import Abs

AREAS = (0.01, 0.03, 0.06, 0.12)
"""Sizes of patches tried, as parts of the picture. The paper's limit is 6 to 8 %; on 8 x 8 pictures a 3 x 3 trigger is 14 %."""
STRENGTHS = (0.1,)
"""Mean change a filter may make, as a part of the raw range."""
FEWEST_POSITIONS = 2
"""A patch of fewer pixels is not tried: on small pictures the smallest areas are none."""
STIMULATED = 12
"""Pictures neurons are stimulated on, each of another class: the paper's one image per label, of no more than these."""
CANDIDATES, REFERENCES = 8, 16
"""With more classes than these together, only those whose stimulation shows the largest gaps, and a random part of the others to compare
them with, are searched."""
HIGH_P, HIGH_REASR = 0.1, 0.9
"""A finding is of high confidence at this part of the p-value asked for, and this success."""


@dataclass(frozen=True)
class Family:
    """One kind of trigger: its sizes, its rule and how to begin."""

    kind: type[Patches] | type[Filters]
    rule: Rule
    sizes: tuple[float, ...]


@dataclass(frozen=True)
class Searched:
    """``triggers`` has one arm for each size and each of ``targets`` (A,), sizes outermost. ``success`` (sizes, A) on the check pictures.

    ``traced`` are the neurons each arm was traced back from; None for windows, which are searched for directly.
    """

    rule: Rule
    triggers: Triggers
    targets: list[int]
    traced: list[Candidate] | None
    success: Floats
    labels: list[int]
    arms: list[npt.NDArray[np.int64]]
    verdict: Verdict

    @property
    def blocks(self) -> bool:
        """Whether an accusation counts against the model by itself."""
        return self.rule is PATCH


def scan(detector: Abs, target: Target, context: ScanContext) -> Iterator[Finding]:
    """Run the detector; findings are of the classes that stand out, confirmed."""
    evidence = prepare(target, context, detector.pictures, detector.check)
    candidates, layers, searches = target.memo(detector, context, lambda: _search_all(detector, target, context, evidence))
    blocking = [searched for searched in searches if searched.blocks]
    strongest = min(blocking, key=lambda item: item.verdict.p_value)
    p_value = min(1.0, len(blocking) * strongest.verdict.p_value)
    context.summary(
        score=round(-float(np.log10(max(1e-12, p_value))), 6),
        p_value=p_value,
        target_class=strongest.labels[strongest.verdict.accused],
        layers=layers,
        pictures={"search": len(evidence.search), "check": len(evidence.check)},
        clean_accuracy=evidence.accuracy,
        classes=_table(searches, candidates),
    )
    accused: dict[int, list[Finding]] = {}
    for searched in searches:
        level = detector.p_value / (len(blocking) if searched.blocks else 1)
        if searched.verdict.p_value > level:
            continue
        for finding in _accused(detector, level, target, context, evidence, searched):
            if searched.blocks:
                accused.setdefault(finding.evidence["target_class"], []).append(finding)
            else:
                yield finding
    for klass, found in sorted(accused.items()):
        yield _one(klass, found)


def _one(klass: int, found: list[Finding]) -> Finding:
    """One finding of what several searches accuse: the trigger that works best; of equals the window, which is easier to recognise."""
    best = min(found, key=lambda item: (-item.evidence["attack_success"], "row" not in item.evidence))
    kinds = sorted(item.key.partition("/")[0] for item in found)
    sure = max(item.confidence for item in found)
    return replace(best, confidence=sure, evidence={**best.evidence, "searches": kinds}, key=f"class/{klass}")


def _search_all(
    detector: Abs, target: Target, context: ScanContext, evidence: Evidence
) -> tuple[list[Candidate], list[dict[str, Any]], list[Searched]]:
    model = target.model
    layers = candidate_layers(model)
    few = _one_each(evidence.search_labels)
    pictures, labels = evidence.search[few], evidence.search_labels[few]
    stimulated = list(stimulate(model, pictures, labels, layers, at_once(model, context), context.check_deadline))
    each = 1 if detector.quick else detector.candidates
    candidates = _of_some(per_class(stimulated, model.output.classes, each), model.output.classes, context)
    table = [
        {"layer": part.layer, "sets": len(part.units), "largest_gap": _number(part.gaps.max()), "label": int(part.gaps.amax(0).argmax())}
        for part in stimulated
        if part.units
    ]
    height, width = evidence.search.shape[2:]
    areas = tuple(area for area in AREAS if area * height * width >= FEWEST_POSITIONS)
    if not areas:
        raise Skip(f"pictures of {height} x {width} pixels are too small to tell a trigger from what is in them")
    families = [Family(Patches, PATCH, areas[-1::-2] if detector.quick else areas)]
    if detector.filters and not detector.quick:
        families.append(Family(Filters, FILTER, STRENGTHS))
    searches = [_search(detector, model, context, evidence, candidates, family) for family in families if candidates]
    if side_of(height, width) <= min(height, width):
        classes = {item.label for item in candidates} or _some_classes(model.output.classes, context)
        searches.append(_windows(detector, model, context, evidence, sorted(classes)))
    if not searches:
        raise Skip("the model has no hidden layer whose neurons could be stimulated, and its pictures are too small for windows")
    return candidates, table, searches


def _one_each(labels: Tensor) -> Tensor:
    """Places of one picture of each class, of as many classes as are stimulated on."""
    classes = torch.unique(labels)[:STIMULATED]
    return torch.stack([(labels == label).nonzero()[0, 0] for label in classes])


def _of_some(candidates: list[Candidate], classes: int, context: ScanContext) -> list[Candidate]:
    """All candidates, or with many classes those of some of them."""
    if classes <= CANDIDATES + REFERENCES:
        return candidates
    gap = np.full(classes, -np.inf)
    for item in candidates:
        gap[item.label] = max(gap[item.label], item.gap)
    order = np.argsort(-gap, kind="stable")
    kept = {*order[:CANDIDATES].tolist(), *context.rng("references").choice(order[CANDIDATES:], REFERENCES, replace=False).tolist()}
    return [item for item in candidates if item.label in kept]


def _some_classes(classes: int, context: ScanContext) -> set[int]:
    """As many as are searched, for a model without neurons that could say which."""
    return set(context.rng("references").choice(classes, min(classes, CANDIDATES + REFERENCES), replace=False).tolist())


def _search(
    detector: Abs, model: RunnableModel, context: ScanContext, evidence: Evidence, candidates: list[Candidate], family: Family
) -> Searched:
    """Every candidate at every size, side by side; then every trigger on the check pictures."""
    generator = torch.Generator().manual_seed(int(context.rng(f"search/{family.kind.kind}").integers(2**62)))
    sizes = torch.tensor(family.sizes).repeat_interleave(len(candidates))  # (sizes*A,)
    arms = candidates * len(family.sizes)
    triggers = family.kind(model.input, tuple(evidence.search.shape[1:]), sizes, generator, evidence.search.device)
    steps = max(1, detector.steps // 2) if detector.quick else detector.steps
    batch = at_once(model, context)
    note = _Note(context, family.kind.kind)
    invert(model, triggers, arms, evidence.search, evidence.search_labels, steps=steps, batch=batch, generator=generator, tick=note)
    return _checked(model, evidence, family.rule, triggers, [item.label for item in candidates], candidates, len(family.sizes), batch, note)


def _windows(detector: Abs, model: RunnableModel, context: ScanContext, evidence: Evidence, classes: list[int]) -> Searched:
    """The best windows of each of ``classes``, on the check pictures."""
    generator = torch.Generator().manual_seed(int(context.rng("search/window").integers(2**62)))
    batch = at_once(model, context)
    note = _Note(context, Windows.kind)
    triggers, targets = best_windows(
        model,
        classes,
        evidence.search,
        evidence.search_labels,
        rounds=QUICK if detector.quick else ROUNDS,
        batch=batch,
        generator=generator,
        tick=note,
    )
    return _checked(model, evidence, PATCH, triggers, targets, None, 1, batch, note)


def _checked(
    model: RunnableModel,
    evidence: Evidence,
    rule: Rule,
    triggers: Triggers,
    targets: list[int],
    traced: list[Candidate] | None,
    sizes: int,
    batch: int,
    note: _Note,
) -> Searched:
    """Every trigger on pictures that it was not searched on, and what that says of the classes."""
    wanted = torch.tensor(targets, device=evidence.check.device).repeat(sizes)
    hits, asked = attempts(model, triggers, wanted, evidence.check, evidence.check_labels, batch=batch, tick=note)
    success = _rate(hits & asked, asked).reshape(sizes, len(targets))
    labels: list[int] = []
    chosen, best = [], []
    for row in success:
        labels, own = best_arms(row, targets)
        chosen.append(own)
        best.append(row[own])
    return Searched(rule, triggers, targets, traced, success, labels, chosen, judge(np.stack(best), model.output.classes))


def _accused(
    detector: Abs, level: float, target: Target, context: ScanContext, evidence: Evidence, searched: Searched
) -> Iterator[Finding]:
    """The class that stands out most of those whose trigger works often enough on pictures it was not searched on."""
    model, verdict, classes = target.model, searched.verdict, target.model.output.classes
    for place in np.lexsort((-verdict.t.max(0), verdict.p.min(0))).tolist():
        # Of the sizes at which the class stands out, the one whose trigger works best: a small one may stand out and still work seldom.
        telling = [size for size in range(len(verdict.p)) if over_all(float(verdict.p[size, place]), classes) <= level]
        if not telling:
            return
        size = max(telling, key=lambda size: (searched.success[size][searched.arms[size][place]], -size))
        arm = int(searched.arms[size][place])
        success = float(searched.success[size][arm])
        if success >= detector.reasr:
            break
    else:
        return
    klass, p_value = searched.targets[arm], over_all(float(verdict.p[:, place].min()), classes)
    triggers = searched.triggers.only(torch.tensor([size * len(searched.targets) + arm]))
    wanted = torch.tensor([klass], device=evidence.check.device)
    hits, asked = attempts(
        model, triggers, wanted, evidence.check, evidence.check_labels, batch=at_once(model, context), tick=_Note(context, "confirm")
    )
    labels = evidence.check_labels.cpu()
    by_class = {int(k): _number(hits[0, labels == k].float().mean()) for k in torch.unique(labels[asked[0]])}
    usual = float(np.median(np.delete(searched.success[size][searched.arms[size]], place)))
    sure = p_value <= HIGH_P * level and success >= HIGH_REASR
    what, facts = _described(triggers, searched.traced[arm] if searched.traced else None)
    names = model.output.labels
    shown = f"{klass} ({names[klass]})" if klass < len(names) else str(klass)
    yield Finding(
        searched.rule.id,
        f"class {shown}: {what} turns {success:.0%} of unseen pictures into it, one of the same size {usual:.0%} into other classes "
        f"(p = {p_value:.2g})",
        confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
        evidence={
            "target_class": klass,
            "source_classes": sorted(label for label, rate in by_class.items() if rate >= 0.5),
            "attack_success": _number(success),
            "attack_success_by_class": {str(label): rate for label, rate in by_class.items()},
            "attack_success_usual": _number(usual),
            "p_value": _number(p_value),
            **facts,
            "clean_accuracy": None if evidence.accuracy is None else _number(evidence.accuracy),
        },
        attachments=_exhibits(model, triggers, evidence, asked[0]),
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
            "mask_l1": _number(window.sum()),
            "mask_area_fraction": _number(window.mean()),
        }
    assert traced is not None
    units = "unit" if len(traced.units) == 1 else "units"
    what = f"a {triggers.kind} that fires {units} {', '.join(map(str, traced.units))} of {traced.layer}"
    facts = {"layer": traced.layer, "units": list(traced.units), "gap": _number(traced.gap)}
    if isinstance(triggers, Patches):
        mask = triggers.parameters[0]
        return what, {**facts, "mask_l1": _number(mask.sum()), "mask_area_fraction": _number(mask.mean())}
    assert isinstance(triggers, Filters)
    return what, {**facts, "mean_change": _number(triggers.strength[0])}


def _exhibits(model: RunnableModel, triggers: Triggers, evidence: Evidence, asked: Tensor) -> tuple[Attachment, ...]:
    """``trigger``, ``mask`` (patches only) and ``stamped``: a check picture that carries it."""
    low, high = model.input.low, model.input.high
    example = evidence.check[asked.nonzero()[0]]  # (1, C, H, W)
    with torch.inference_mode():
        stamped = triggers.stamp(torch.zeros(1, dtype=torch.long, device=example.device), example)[0].cpu().numpy()
    if isinstance(triggers, Windows):
        mask, pattern = triggers.mask(0), triggers.picture(0)
        return exhibit("trigger", pattern, 0, 1), exhibit("mask", mask, 0, 1), exhibit("stamped", stamped, low, high)
    if isinstance(triggers, Patches):
        mask, pattern = (value[0].cpu().numpy() for value in triggers.parameters)
        return exhibit("trigger", mask * pattern, 0, 1), exhibit("mask", mask, 0, 1), exhibit("stamped", stamped, low, high)
    change = (stamped - example[0].cpu().numpy()) / 2 + (low + high) / 2  # grey where nothing changes
    return exhibit("trigger", change, low, high), exhibit("stamped", stamped, low, high)


def _table(searches: list[Searched], candidates: list[Candidate]) -> list[dict[str, Any]]:
    """One row a class: its best candidate, and per family the success at every size with the class's p-value."""
    rows: dict[int, dict[str, Any]] = {}
    for item in candidates:
        if item.label not in rows:
            rows[item.label] = {"class": item.label, "layer": item.layer, "units": list(item.units), "gap": _number(item.gap)}
    for searched in searches:
        for place, label in enumerate(searched.labels):
            success = [_number(rates[arms[place]]) for rates, arms in zip(searched.success, searched.arms, strict=True)]
            p = searched.verdict.p[:, place].min()
            row = rows.setdefault(label, {"class": label})
            row[searched.triggers.kind] = {"success": success, "p_value": _number(p)}
            row["p_value"] = min(row.get("p_value", 1.0), _number(len(searches) * p))
    return [rows[label] for label in sorted(rows)]


def _rate(hits: Tensor, asked: Tensor) -> Floats:
    """(A,) hits among what was asked, 0 where nothing was."""
    return (hits.sum(1) / asked.sum(1).clamp(min=1)).double().numpy()


def _number(value: SupportsFloat) -> float:
    """Rounded to six digits: what differs beyond them differs between machines."""
    return float(f"{float(value):.6g}")


class _Note:
    """Reports progress and watches the deadline."""

    def __init__(self, context: ScanContext, note: str) -> None:
        self._context, self._note = context, note

    def __call__(self, done: int, total: int) -> None:
        self._context.check_deadline()
        self._context.progress(done, total, self._note)
