"""``activation-clustering``: do the activations of a class form two clusters?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from modelguard_triggers.facts import class_name, rounded
from modelguard_triggers.outliers import over_all

from modelguard import Capability, Confidence, Detector, Finding, Measure, ScanContext, Target, option
from modelguard_audit._dataset import Floats, Mask, evidence
from modelguard_audit._findings import CLASS, COUNT, INDICES, P_VALUE, facts, pictures, shown_by_class
from modelguard_audit._parts import normal_like, tail
from modelguard_audit._rules import CLUSTERED_PART

COMPONENTS = 10
"""Dimensions the activations are reduced to (Chen et al. 2018, section 4)."""
STARTS = 5
ROUNDS = 50
MOST = 1000
"""Samples that a silhouette is taken over: it compares each with each."""


@dataclass(frozen=True)
class ActivationClustering(Detector):
    """Activation Clustering (Chen et al. 2018, sections 4 and 4.3): per class 2-means of the activations reduced to ten dimensions, the
    silhouette of the two clusters, and the relative size of the smaller.

    Principal components stand in for the independent ones of the paper, which rotate the same ten dimensions and leave 2-means as it
    is. Instead of the smaller cluster being accused always, the silhouette is held against that of as many normally distributed samples.
    """

    id = "activation-clustering"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    on_request = True
    rules = (CLUSTERED_PART,)
    shows = (
        Measure("score", "score", "The largest silhouette of all classes: the larger, the more suspicious."),
        INDICES,
        CLASS,
        P_VALUE,
        COUNT,
        shown_by_class("silhouette", "How clearly the two clusters of each class are apart"),
        Measure("silhouette", "silhouette", "How much nearer activations are to their own cluster than to the other, -1 to 1."),
    )

    p_value: float = option(0.01, "name samples at or below this probability, corrected for all classes", gt=0, le=0.5, judges=True)
    silhouette: float = option(0.45, "and where the silhouette is at least this", ge=-1, le=1, judges=True)
    draws: int = option(10, "normal data sets that each class is compared with", ge=5)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        data = evidence(target, context)
        classes = data.classes()
        rows, findings = [], []
        for done, label in enumerate(classes):
            context.check_deadline()
            context.progress(done, len(classes), f"class {label}")
            rng = context.rng(f"class {label}")
            places = np.flatnonzero(data.labels == label)
            values = components(data.features[places])  # (n, 10)
            member = two_means(values, rng)
            found = silhouette(values, member, rng)
            indices = places[member]
            rows.append({"class": label, "silhouette": rounded(found), "count": len(indices), "samples": len(places)})
            if found < self.silhouette:
                continue
            null = []
            for _ in range(self.draws):
                context.check_deadline()
                drawn = normal_like(values, rng)
                null.append(silhouette(drawn, two_means(drawn, rng), rng))
            p = over_all(tail(found, np.array(null)), len(classes))
            if p <= self.p_value:
                findings.append((label, indices.tolist(), found, p, len(places)))
        context.summary(score=max((row["silhouette"] for row in rows), default=0.0), classes=rows, too_small=data.too_small())
        for label, indices, found, p, of in findings:
            yield Finding(
                "MG4002",
                f"the activations of {len(indices)} of {of} samples labelled {class_name(target.model, label)} form a cluster of their own "
                f"(silhouette {found:.2f}, p = {p:.2g}); a hint, no verdict",
                confidence=Confidence.LOW,
                evidence=facts(label, indices, p_value=p, silhouette=found),
                attachments=pictures(target, indices),
                key=f"class {label}",
            )


def components(values: Floats) -> Floats:
    """(n, D) reduced to the scores (n, 10) of the leading principal components."""
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    scores: Floats = centred @ axes[:COMPONENTS].T
    return scores


def two_means(values: Floats, rng: np.random.Generator) -> Mask:
    """(n,) the smaller of the two clusters of least squared distance that a few random starts come to (Lloyd 1982)."""
    best, least = np.zeros(len(values), np.bool_), np.inf
    for _ in range(STARTS):
        centres = values[rng.choice(len(values), 2, replace=False)]
        for _ in range(ROUNDS):
            distances = ((values[:, None] - centres) ** 2).sum(2)  # (n, 2)
            member = distances[:, 1] < distances[:, 0]
            if member.all() or not member.any():
                break
            moved = np.stack([values[~member].mean(0), values[member].mean(0)])
            if np.allclose(moved, centres):
                break
            centres = moved
        if (total := float(distances.min(1).sum())) < least and member.any() and not member.all():
            best, least = member, total
    return best if 2 * best.sum() <= len(best) else ~best


def silhouette(values: Floats, member: Mask, rng: np.random.Generator) -> float:
    """The mean silhouette (Rousseeuw 1987) of two clusters, over at most :data:`MOST` samples; 0 where a cluster has fewer than two."""
    if len(values) > MOST:
        chosen = rng.choice(len(values), MOST, replace=False)
        values, member = values[chosen], member[chosen]
    if min(member.sum(), (~member).sum()) < 2:
        return 0.0
    squares = (values**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * values @ values.T, 0.0))  # (n, n)
    same = member[:, None] == member
    own = (distances * same).sum(1) / (same.sum(1) - 1)
    other = (distances * ~same).sum(1) / (~same).sum(1)
    return float(((other - own) / np.maximum(np.maximum(own, other), 1e-300)).mean())
