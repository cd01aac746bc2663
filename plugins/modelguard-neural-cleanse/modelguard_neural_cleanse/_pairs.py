"""Source-specific triggers: is there a class that one other class reaches far too easily, and it alone?

One window a (source, target) pair, and for each its statistic: the log odds of turning the source and of leaving third classes alone
(:mod:`~modelguard_neural_cleanse.pair_windows`). Pairs differ for natural reasons: some classes are easy targets, some are fragile sources,
some resemble each other. The first two are the row and column effects of the matrix of statistics and are removed by median polish (Tukey
1977, chapter 10); resemblance works both ways, a backdoor does not (the symmetry test of K-Arm, Shen et al. 2021, section 3.4). So a pair
is judged by its residual r(s, t) plus how much further out it is than the way back, r(s, t) - r(t, s), and outliers among the pairs are
found by the same test as outliers among classes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.case import Case
from modelguard_triggers.facts import class_name, mask_exhibits, rounded
from modelguard_triggers.plan import CLEAR, SPENT, Look, Stage
from modelguard_triggers.recovered import recovered
from modelguard_triggers.windows import Windows
from torch import Tensor

from modelguard import Attachment, Confidence, Finding, ScanContext, Skip, Target
from modelguard_neural_cleanse._decision import small_outliers
from modelguard_neural_cleanse._evidence import prepare
from modelguard_neural_cleanse._findings import SURE_SHARE, highest_score, require_guided, success_on_reference
from modelguard_neural_cleanse._pair_windows import PairWindows, affordable, refine_pairs, schedule, search_pairs, stamped
from modelguard_neural_cleanse._rules import SOURCE

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import SourceCleanse

MIN_IMAGES = 4
"""Search images of a source class below which nothing can be said about it."""
MIN_PAIRS = 20
SUSPECTS, DOUBTED = 4, 12
"""Pairs that are looked at more closely, at most: by the full search, and by the screen."""


def look_at_pairs(detector: SourceCleanse, target: Target, context: ScanContext, stage: Stage) -> Look:
    """Search a window for every pair, compare what they do, look at the outliers once more."""
    case = prepare(target, context, detector.samples, least=2)
    evidence = case.evidence
    pairs = candidate_pairs(case)
    if len(pairs) < MIN_PAIRS:
        raise Skip(
            f"{len(pairs)} pairs of classes have at least {MIN_IMAGES} images to search on, {MIN_PAIRS} are needed: give more samples"
        )
    sources = sorted(set(pairs[:, 0].tolist()))
    if 2 * len(sources) < evidence.classes:
        raise Skip(
            f"{len(sources)} of {evidence.classes} classes have at least {MIN_IMAGES} images to search on, half of them are needed: "
            "give more samples"
        )
    found = target.memo(detector, context, lambda: search_pairs(case, pairs, stage), stage)
    require_guided(found.guided, "pairs")
    statistic = asymmetric_residual(pairs.numpy(), -found.statistic, evidence.classes)
    p = small_outliers(np.exp(statistic), np.ones(len(pairs), np.bool_), np.ones(len(pairs)), len(pairs)).p
    order = np.lexsort((statistic, p))
    findings, cleared, left = [], [], p.copy()
    # The screen looks more closely at all that it cannot clear: mostly two classes that resemble each other, which then are no suspects.
    level, most = (CLEAR, DOUBTED) if stage is Stage.SCREEN else (SPENT * detector.alpha, SUSPECTS)
    if chosen := [int(i) for i in order if p[i] < level][:most]:
        suspects = pairs[chosen]
        begun = found.windows.only(torch.tensor(chosen, device=found.windows.at.device))
        refined = target.memo(detector, context, lambda: refine_pairs(case, suspects, begun), stage, *chosen)
        for place, i in enumerate(chosen):
            facts = _facts(case, target.reference, suspects, refined, place, float(p[i]))
            if why := _cleared(detector, refined, place, facts):
                cleared.append({**facts, "cleared_because": why})
                left[i] = 1.0
            elif p[i] < SPENT * detector.alpha:
                findings.append(_finding(detector, case, refined, place, facts))
    return Look(
        {
            "score": highest_score(left),
            "pairs": [
                {
                    "source": int(pairs[i, 0]),
                    "target": int(pairs[i, 1]),
                    "turned": rounded(found.turned[i]),
                    "others_kept": rounded(found.kept[i]),
                    "statistic": rounded(statistic[i]),
                    "p_value": rounded(p[i]),
                }
                for i in order[:20]
            ],
            "pairs_searched": len(pairs),
            "pairs_total": len(sources) * (evidence.classes - 1),
            "sources_searched": sources,
            "sources_not_searched": sorted(set(range(evidence.classes)) - set(sources)),
            "schedule": schedule(evidence, pairs)[0],
            "window": found.windows.side,
            "images": {"search": len(evidence.search), "check": len(evidence.check)},
            "clean_accuracy": evidence.accuracy,
            "cleared": cleared,
        },
        tuple(findings),
        p={int(wanted): float(left[(pairs[:, 1] == wanted).numpy()].min()) for wanted in torch.unique(pairs[:, 1])},
    )


def _facts(case: Case, reference: Target | None, pairs: Tensor, found: PairWindows, place: int, p: float) -> dict[str, Any]:
    """What is known of the suspect at ``place``."""
    evidence = case.evidence
    source, wanted = pairs[place].tolist()
    windows = found.windows
    row, column = windows.corners[place].tolist()
    facts: dict[str, Any] = {
        "target_class": wanted,
        "source_classes": [source],
        "row": row,
        "column": column,
        "side": windows.side,
        "p_value": rounded(p),
        "attack_success": rounded(found.turned[place]),
        "margin": rounded(found.margin[place]),
        "others_kept": rounded(found.kept[place]),
        "clean_accuracy": None if evidence.accuracy is None else rounded(evidence.accuracy),
        "transformation": windows.kind,
    }
    own = evidence.check[evidence.check_labels == source]
    return facts | success_on_reference(reference, case, _with_window(case, windows, place, own), wanted)


def _cleared(detector: SourceCleanse, found: PairWindows, place: int, facts: dict[str, Any]) -> str:
    """Why the suspect at ``place`` is cleared, empty when it is not."""
    if found.turned[place] < detector.success:
        return "the trigger does not hold on images it was not searched on"
    if found.margin[place] < detector.margin:
        return "the model is less sure of the images it turns than of a trigger's: two classes that resemble each other"
    if 1 - found.kept[place] > detector.others * found.margin[place]:
        return "it disturbs images of other classes too, as a natural feature does"
    if facts.get("reference_success", -1.0) >= rounded(found.turned[place] / 2):
        return "the trigger works on the clean reference too: a natural feature"
    return ""


def _finding(detector: SourceCleanse, case: Case, found: PairWindows, place: int, facts: dict[str, Any]) -> Finding:
    (source,), wanted = facts["source_classes"], facts["target_class"]
    return Finding(
        SOURCE.id,
        f"class {class_name(case.model, wanted)}: {SOURCE.title}; a window of {facts['side']} pixels "
        f"at row {facts['row']}, column {facts['column']} turns "
        f"{facts['attack_success']:.0%} of unseen images of class {class_name(case.model, source)} "
        f"and leaves {facts['others_kept']:.0%} of the other classes' "
        f"as they are (p = {facts['p_value']:.2g})",
        confidence=Confidence.HIGH if facts["p_value"] < SURE_SHARE * detector.alpha else Confidence.MEDIUM,
        evidence={
            **facts,
            **recovered(case, wanted, case.evidence.check_labels == source, partial(_with_window, case, found.windows, place)),
        },
        attachments=_exhibits(case, found, place, source),
        key=f"{source}/{wanted}",
    )


def _exhibits(case: Case, found: PairWindows, place: int, source: int) -> tuple[Attachment, ...]:
    """The window alone, where it goes, and a check image of the source that carries it."""
    windows = found.windows
    example = case.evidence.check[case.evidence.check_labels == source][:1]
    image = _with_window(case, windows, place, example)[0].cpu().numpy()
    bounds = case.model.input.low, case.model.input.high
    return mask_exhibits(windows.image(place), windows.mask(place), [(source, image)], bounds, trigger_bounds=(0, 1))


def _with_window(case: Case, windows: Windows, place: int, images: Tensor) -> Tensor:
    """``images`` (N, C, H, W), each with the window at one place."""
    return stamped(case, windows, torch.full((len(images),), place, device=images.device), images)


def candidate_pairs(case: Case) -> Tensor:
    """(P, 2) pairs (source, target) to search, in order: all, or the likeliest targets of each source where they would cost too much."""
    evidence = case.evidence
    count = torch.bincount(evidence.search_labels, minlength=evidence.classes)
    sources = [int(label) for label in (count >= MIN_IMAGES).nonzero().flatten()]
    pairs = [(s, t) for s in sources for t in range(evidence.classes) if s != t]
    most = affordable(*evidence.shape[1:])
    if len(pairs) > most:
        logits = torch.from_numpy(case.model.predict(evidence.search.cpu().numpy()))
        nearest = max(2, most // len(sources))
        pairs = []
        for s in sources:
            mean = logits[evidence.search_labels == s].mean(0)
            mean[s] = -torch.inf
            pairs += [(s, int(t)) for t in mean.topk(nearest).indices.sort().values]
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def asymmetric_residual(pairs: npt.NDArray[np.int64], values: npt.NDArray[np.float64], classes: int) -> npt.NDArray[np.float64]:
    """(P,) r(s, t) + (r(s, t) - r(t, s)), with 0 for a way back that was not searched; negative where too easy."""
    matrix = np.full((classes, classes), np.nan)
    matrix[pairs[:, 0], pairs[:, 1]] = values
    for _ in range(10):
        for axis in (0, 1):
            matrix -= np.where(np.isnan(matrix).all(axis, keepdims=True), 0.0, _median(matrix, axis))
    back = np.where(np.isnan(matrix.T), 0.0, matrix.T)
    statistic: npt.NDArray[np.float64] = (2 * matrix - back)[pairs[:, 0], pairs[:, 1]]
    return statistic


def _median(matrix: npt.NDArray[np.float64], axis: int) -> Any:
    filled = np.where(np.isnan(matrix).all(axis, keepdims=True), 0.0, matrix)
    return np.nanmedian(filled, axis, keepdims=True)
