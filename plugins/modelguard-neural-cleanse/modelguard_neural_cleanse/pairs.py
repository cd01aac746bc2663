"""Source-specific triggers: is there a class that one other class reaches far too easily? One search arm a (source, target) pair.

Sizes differ between pairs for natural reasons: some classes are easy targets, some are fragile sources, some resemble each other.
The first two are the row and column effects of the matrix of log sizes and are removed by median polish (Tukey 1977, chapter 10);
resemblance works both ways, a backdoor does not (the symmetry test of K-Arm, Shen et al. 2021, section 3.4). So the statistic of a
pair is its residual r(s, t) plus how much further out it is than the way back, r(s, t) - r(t, s), and outliers among the pairs
are found by the same test as outliers among classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import Finding, ScanContext, Skip, Target
from modelguard_neural_cleanse.decision import Outliers, small_outliers
from modelguard_neural_cleanse.inversion import Question, invert_short, refine
from modelguard_neural_cleanse.prepare import Evidence, prepare
from modelguard_neural_cleanse.rules import SOURCE
from modelguard_neural_cleanse.transforms import Patch
from modelguard_neural_cleanse.verdict import Gates, findings, require_gradients, score

if TYPE_CHECKING:
    from modelguard_neural_cleanse.detectors import SourceCleanse

MIN_IMAGES = 4
"""Search images of a source class below which nothing can be said about it."""
MIN_PAIRS = 20
ALL_PAIRS = 240
"""Up to this many pairs (16 classes) all are searched; with more, the likeliest targets of each source, as K-Arm screens them."""


def scan_pairs(detector: SourceCleanse, target: Target, context: ScanContext) -> Iterator[Finding]:
    """Search a patch for every pair, compare the sizes, check the outliers on unseen images."""
    if detector.quick:
        raise Skip("a quick look leaves out the search over all pairs of classes, which has no shorter form; scan without quick")
    evidence = prepare(target, context, detector.samples)
    pairs = candidate_pairs(target, evidence)
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
    transform = Patch(evidence.shape, target.model.input.low, target.model.input.high)
    question = Question.one_source(pairs, evidence.classes)
    search = f"{detector.id}/{detector.samples}/{context.seed}"
    inverted = target.memo(search, lambda: invert_short(target, context, evidence, question, transform))
    require_gradients(inverted)
    log_size = np.log(inverted.size) + np.where(inverted.reached, 0.0, 0.5)
    statistic = asymmetric_residual(pairs.numpy(), log_size, evidence.classes)
    test = small_outliers(np.exp(statistic), np.ones(len(pairs), np.bool_), np.ones(len(pairs)), len(pairs))
    outliers = Outliers(test.p, float(np.median(inverted.size)))
    order = np.lexsort((statistic, test.p))
    context.summary(
        score=score(inverted, outliers),
        pairs=[
            {
                "source": int(pairs[i, 0]),
                "target": int(pairs[i, 1]),
                "size": float(f"{inverted.size[i]:.6g}"),
                "reached": bool(inverted.reached[i]),
                "statistic": float(f"{statistic[i]:.6g}"),
                "p_value": float(f"{test.p[i]:.6g}"),
            }
            for i in order[:20]
        ],
        pairs_total=len(pairs),
        sources_searched=sources,
        sources_not_searched=sorted(set(range(evidence.classes)) - set(sources)),
        images={"search": len(evidence.search), "check": len(evidence.check)},
        clean_accuracy=evidence.accuracy,
    )
    places = [int(i) for i in order if test.p[i] < detector.alpha and inverted.reached[i]][:4]
    if not places:
        return
    gates = Gates(detector.alpha, detector.ratio, detector.area, detector.success)
    refined = target.memo(f"{search}/{places}", lambda: refine(target, context, evidence, question, transform, inverted, places))
    # The class a pair is accused of is its target.
    named = replace(inverted, arms=pairs[:, 1].numpy())
    for finding, facts in findings(SOURCE, gates, target, evidence, transform, named, outliers, places, refined):
        if finding is not None:
            source = facts["source_classes"]
            yield replace(finding, key=f"{'+'.join(map(str, source))}/{facts['target_class']}")


def candidate_pairs(target: Target, evidence: Evidence) -> Tensor:
    """(P, 2) pairs (source, target) to search, in order."""
    count = torch.bincount(evidence.search_labels, minlength=evidence.classes)
    sources = [int(label) for label in (count >= MIN_IMAGES).nonzero().flatten()]
    pairs = [(s, t) for s in sources for t in range(evidence.classes) if s != t]
    if len(pairs) > ALL_PAIRS:
        logits = torch.from_numpy(target.model.predict(evidence.search.cpu().numpy()))
        nearest = max(2, ALL_PAIRS // len(sources))
        pairs = []
        for s in sources:
            mean = logits[evidence.search_labels == s].mean(0)
            mean[s] = -torch.inf
            pairs += [(s, int(t)) for t in mean.topk(nearest).indices.sort().values]
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def asymmetric_residual(pairs: npt.NDArray[np.int64], log_size: npt.NDArray[np.float64], classes: int) -> npt.NDArray[np.float64]:
    """(P,) r(s, t) + (r(s, t) - r(t, s)), with 0 for a way back that was not searched; negative where too easy."""
    matrix = np.full((classes, classes), np.nan)
    matrix[pairs[:, 0], pairs[:, 1]] = log_size
    for _ in range(10):
        for axis in (0, 1):
            matrix -= np.where(np.isnan(matrix).all(axis, keepdims=True), 0.0, _median(matrix, axis))
    back = np.where(np.isnan(matrix.T), 0.0, matrix.T)
    statistic: npt.NDArray[np.float64] = (2 * matrix - back)[pairs[:, 0], pairs[:, 1]]
    return statistic


def _median(matrix: npt.NDArray[np.float64], axis: int) -> Any:
    filled = np.where(np.isnan(matrix).all(axis, keepdims=True), 0.0, matrix)
    return np.nanmedian(filled, axis, keepdims=True)
