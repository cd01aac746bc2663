"""The two parts of a class that one direction separates best, and how far apart parts of one kind would be.

The statistic is the ratio of the variance between two parts to that within them, along the direction that separates them: the cluster
index of SigClust (Liu, Hayes, Nobel and Marron 2008, section 2) for one dimension, maximised over cut and direction. Its null is theirs:
samples from one normal distribution with the covariance of the class, put through the very same search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelguard_audit._dataset import Floats, Integers, Mask

SMALLEST = 5
"""Samples a part has at least. Fewer far from the rest are outliers, which every class has."""
TRIMMED = 0.2
"""Share of each class left out of the scatter of the usual: more than a trigger takes of a class that is not a single target (SPECTRE,
Hayase et al. 2021, section 3, estimates robustly for the same reason)."""
SHRINKAGE = 0.01
"""Of the scatter towards a multiple of the identity, so that directions in which nothing varies are not divided by nothing."""
POOLED = 0.5
"""Of the scatter within parts towards a multiple of the identity, when a direction is sought: there are few samples for it."""
DIRECTIONS = 4
ROUNDS = 8


@dataclass(frozen=True)
class Parts:
    """``member`` (n,) marks the smaller part. ``ratio`` is the variance between the parts over that within, ``distance`` the distance of
    their means in standard deviations within, both along the direction ``along`` (D,)."""

    member: Mask
    ratio: float
    distance: float
    along: Floats


def usual(features: Floats, labels: Integers) -> tuple[Floats, Mask]:
    """Residuals (N, D) from the centre of each class, and which samples (N,) are usual of theirs.

    The concentration step of the minimum covariance determinant (Rousseeuw and Van Driessen 1999), with one scatter for all classes:
    those nearest by Mahalanobis distance are kept, centres and scatter are taken from them, and so on.
    """
    keep = np.ones(len(labels), np.bool_)
    residuals = np.zeros_like(features)
    for _ in range(4):
        for label in np.unique(labels):
            of_class = labels == label
            residuals[of_class] = features[of_class] - features[of_class & keep].mean(0)
        distance = (whitened(residuals, residuals[keep]) ** 2).sum(1)
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            keep[places] = distance[places] <= np.quantile(distance[places], 1 - TRIMMED)
    return residuals, keep


def whitened(values: Floats, of: Floats) -> Floats:
    """``values`` (n, D) in coordinates in which ``of`` (m, D), centred already, has unit scatter."""
    scatter = of.T @ of / len(of)
    scatter += (SHRINKAGE * np.trace(scatter) / len(scatter) + 1e-12) * np.eye(len(scatter))
    sizes, axes = np.linalg.eigh(scatter)
    result: Floats = values @ axes / np.sqrt(sizes)
    return result


def best_parts(values: Floats, tick: Callable[[], None] = lambda: None) -> Parts | None:
    """The two parts of ``values`` (n, D) with the largest ratio that a search from the leading directions comes to; None without any.

    From each direction, and from cuts that take little or much: the direction that separates the two parts best (Fisher's), the cut
    along it that separates best, and again until nothing changes.
    """
    centred = values - np.median(values, 0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    best: Parts | None = None
    for axis in axes[:DIRECTIONS]:
        tick()
        along = centred @ axis
        starts = (cut(along)[0], along > np.quantile(along, 0.95), along < np.quantile(along, 0.05))
        for start in starts:
            found = _settled(centred, start)
            if found is not None and (best is None or found.ratio > best.ratio):
                best = found
    return best


def cut(along: Floats) -> tuple[Mask, float, float]:
    """Which of ``along`` (n,) lie above the cut with the largest ratio of variance between to within, that ratio, and the distance.

    Exact: every cut between two neighbours that leaves :data:`SMALLEST` on both sides (Otsu 1979, in ranks).
    """
    order = np.argsort(along, kind="stable")
    ranked, n = along[order], len(along)
    below = np.arange(1, n)  # samples under each cut
    sums, squares = np.cumsum(ranked)[:-1], np.cumsum(ranked**2)[:-1]
    total, whole = ranked.sum(), (ranked**2).sum()
    low, high = sums / below, (total - sums) / (n - below)
    within = (squares - below * low**2) + (whole - squares - (n - below) * high**2)
    between = below * (n - below) / n * (high - low) ** 2
    ratio = between / np.maximum(within, 1e-12 * max(whole, 1e-300))
    ratio[(below < SMALLEST) | (n - below < SMALLEST)] = -1.0
    place = int(ratio.argmax())
    above = np.zeros(n, np.bool_)
    above[order[place + 1 :]] = True
    share = below[place] / n
    value = max(0.0, float(ratio[place]))
    return above, value, math.sqrt(value / (share * (1 - share)))


def _settled(values: Floats, start: Mask) -> Parts | None:
    member, found = start, None
    for _ in range(ROUNDS):
        if min(member.sum(), (~member).sum()) < SMALLEST:
            break
        along = _fisher(values, member)
        after, ratio, distance = cut(values @ along)
        if found is None or ratio > found.ratio:
            found = Parts(after if 2 * after.sum() <= len(after) else ~after, ratio, distance, along)
        if np.array_equal(after, member) or np.array_equal(~after, member):
            break
        member = after
    return found


def _fisher(values: Floats, member: Mask) -> Floats:
    """Fisher's discriminant (D,) of the two parts, with shrunk scatter, of unit length."""
    one, other = values[member], values[~member]
    centred = np.concatenate([one - one.mean(0), other - other.mean(0)])
    scatter = centred.T @ centred / len(values)
    scatter = (1 - POOLED) * scatter + (POOLED * np.trace(scatter) / len(scatter) + 1e-12) * np.eye(len(scatter))
    along = np.linalg.solve(scatter, one.mean(0) - other.mean(0))
    unit: Floats = along / max(float(np.linalg.norm(along)), 1e-300)
    return unit


def normal_like(values: Floats, rng: np.random.Generator) -> Floats:
    """As many samples from one normal distribution with the covariance of ``values`` (n, D)."""
    centred = values - values.mean(0)
    # A random mixture of the samples themselves is normal with their covariance.
    drawn: Floats = rng.standard_normal((len(values), len(values))) @ centred / math.sqrt(len(values))
    return drawn


def tail(value: float, null: Floats) -> float:
    """One-sided p-value of ``value`` under statistics ``null`` (B,) > 0, whose logarithms are taken as normal: t with B - 1 degrees."""
    from modelguard_triggers.outliers import student_tail_series

    logs = np.log(np.maximum(null, 1e-9))
    spread = max(float(logs.std(ddof=1)), 1e-6)
    t = (math.log(max(value, 1e-9)) - float(logs.mean())) / (spread * math.sqrt(1 + 1 / len(logs)))
    return student_tail_series(t, len(logs) - 1)
