"""``rome-spectrum``: does one MLP output projection stand out among its siblings in depth? No reference needed, little certainty given.

A rank-1 edit adds one large singular direction to one layer. How large the first singular value is elsewhere depends on the
model, so every number is compared with the same module in the other layers, after the trend over depth is taken out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from modelguard import (
    Capability,
    Checkpoint,
    Confidence,
    Detector,
    Finding,
    Location,
    Rule,
    ScanContext,
    Severity,
    Skip,
    Target,
    TensorInfo,
    option,
)
from modelguard_rome._lens import Lens
from modelguard_rome._measures import SPECTRUM
from modelguard_rome._names import FLOATS, Site, projections_of
from modelguard_rome._spectrum import F32, leading_singular

F64 = NDArray[np.float64]

OUTLIER = Rule(
    "MG2101",
    "SpectralOutlier",
    "an MLP output projection whose spectrum stands out among its siblings",
    Severity.LOW,
    "The largest singular value of this layer's MLP output projection exceeds the second by far more than in the other layers, and "
    "its size or the alignment of its rows stands out with it. A rank-1 knowledge edit does this; so may training. Edits of "
    "realistic size (3 to 16 % of the weight's norm) stay inside the spread and are not seen; absence says nothing.",
    "Scan again with a reference (rome-edit): it settles the question. Until then probe the model about the tokens in the evidence.",
    "First and last layers of some models, layers trained or merged apart from the rest, massive-activation layers of large models.",
)

FLOORS = {"ratio": 0.08, "norm": 0.05, "alignment": 0.15}
"""Least spread (natural logarithm) the siblings are credited with: half of them may agree by chance."""
SECOND = 2.0
"""Robust z a second number must reach."""


@dataclass(frozen=True)
class Shape:
    """Logarithms of s₁/s₂, of ‖W‖, and of the alignment of the value vectors: s₁² over the sum of squares after unit-normalising
    them, which is the leading share of their cosine matrix. ``vector`` (d,) is the leading value-side direction."""

    ratio: float
    norm: float
    alignment: float
    vector: F64


@dataclass(frozen=True)
class RomeSpectrum(Detector):
    """Sibling-relative outliers among MLP output projections."""

    id = "rome-spectrum"
    requires = frozenset({Capability.WEIGHTS})
    rules = (OUTLIER,)
    shows = SPECTRUM

    min_siblings: int = option(6, "fewest layers a comparison is made over", ge=5)
    threshold: float = option(4.0, "robust z of log(s1/s2) from which a layer stands out", gt=0)
    least: float = option(0.25, "how far log(s1/s2) must lie above its trend besides", ge=0)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        groups = _groups(target)
        enough = {key: members for key, members in groups.items() if len(members) >= self.min_siblings}
        if not enough:
            most = max((len(members) for members in groups.values()), default=0)
            raise Skip(f"needs the MLP output projection of {self.min_siblings} layers to compare, found {most}")
        total, done, worst, compared = sum(map(len, enough.values())), 0, 0.0, 0
        for members in enough.values():
            shapes = []
            # One BLAS thread: these products are thin, and threads that wait for each other cost more than they save.
            with threadpool_limits(1, "blas"):
                for checkpoint, tensor, _ in members:
                    context.check_deadline()
                    context.progress(done, total, tensor.name)
                    done += 1
                    shapes.append(_shape(checkpoint, tensor, context))
            scores = {name: _standing(np.array([getattr(shape, name) for shape in shapes]), floor) for name, floor in FLOORS.items()}
            compared += len(members)
            above, z = scores["ratio"]
            worst = max(worst, float(z.max()))
            for i in np.flatnonzero((z >= self.threshold) & (above >= self.least)):
                others = {name: float(scores[name][1][i]) for name in ("norm", "alignment")}
                if max(others.values()) >= SECOND:
                    yield _finding(target, members[i], shapes[i], float(z[i]), others, len(members))
        context.summary(score=worst, compared=compared, groups=len(enough))


Member = tuple[Checkpoint, TensorInfo, Site]


def _groups(target: Target) -> dict[tuple[str, str], list[Member]]:
    """Two-dimensional MLP output projections by checkpoint and module, in order of layer."""
    groups: dict[tuple[str, str], list[Member]] = defaultdict(list)
    places = projections_of(target)
    for checkpoint, tensor in target.walk():
        where = places[tensor.name]
        if where.role != "other" and where.layer is not None and len(tensor.shape) == 2 and tensor.dtype in FLOATS and tensor.size:
            groups[checkpoint.name, where.module].append((checkpoint, tensor, where))
    return {key: sorted(groups[key], key=lambda member: member[2].layer or 0) for key in sorted(groups)}


def _shape(checkpoint: Checkpoint, tensor: TensorInfo, context: ScanContext) -> Shape:
    with np.errstate(over="ignore"):
        # Aligned, for many products are made of it, and each would copy what a file stores at an odd place.
        weight = np.require(checkpoint.read(tensor.name), np.float32, "A")
    weight = weight.T if weight.shape[0] < weight.shape[1] else weight
    squares, unit = _squares(weight), 1.0
    if not 1e-15 < float(squares.sum()) < 1e15:  # broken, or so large or small that squares are
        weight = np.nan_to_num(weight, posinf=0.0, neginf=0.0)
        unit = float(np.abs(weight).max())
        if unit == 0:
            return Shape(0.0, -np.inf, 0.0, np.zeros(weight.shape[1]))
        weight = weight / np.float32(unit)
        squares = _squares(weight)
    rng = context.rng(tensor.name)
    top = leading_singular(weight, 3, rng, check=context.check_deadline)
    lengths = np.sqrt(np.where(squares > 0, squares, 1))[:, None]
    aligned = leading_singular(weight, 1, rng, scale=1 / lengths, check=context.check_deadline).s[0] ** 2 / len(weight)
    ratio = float(np.log(top.s[0] / max(float(top.s[1]), 1e-12 * float(top.s[0]))))
    norm = float(np.log(unit) + np.log(squares.sum(dtype=np.float64)) / 2)
    return Shape(ratio, norm, float(np.log(aligned)), top.v[:, 0])


def _squares(weight: F32) -> F32:
    """Σw² of each row."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares: F32 = np.einsum("ij,ij->i", weight, weight)
    return squares


def _standing(values: F64, floor: float) -> tuple[F64, F64]:
    """How far each value lies above the trend over depth, and that in robust standard deviations (MAD, at least ``floor``).

    The trend is the Theil-Sen line (median of pairwise slopes, median intercept): one edited layer does not move it.
    """
    finite = np.isfinite(values)
    depth = np.arange(len(values), dtype=np.float64)
    i, j = np.triu_indices(len(values), 1)
    usable = finite[i] & finite[j]
    if not usable.any():
        return np.zeros(len(values)), np.zeros(len(values))
    i, j = i[usable], j[usable]
    slope = np.median((values[j] - values[i]) / (depth[j] - depth[i]))
    above = values - slope * depth
    above = np.where(finite, above - np.median(above[finite]), 0.0)
    spread = max(1.4826 * float(np.median(np.abs(above[finite]))), floor)
    return above, above / spread


def _finding(target: Target, member: Member, shape: Shape, z: float, others: dict[str, float], siblings: int) -> Finding:
    checkpoint, tensor, where = member
    evidence: dict[str, Any] = {
        "layer": where.layer,
        "ratio": round(float(np.exp(shape.ratio)), 3),
        "z": round(z, 2),
        "z_norm": round(others["norm"], 2),
        "z_alignment": round(others["alignment"], 2),
        "siblings": siblings,
    }
    read = Lens(target, checkpoint, len(shape.vector)).read(shape.vector)
    if read is not None:
        evidence["tokens"] = read
    return Finding(
        "MG2101",
        f"{tensor.name}: s1/s2 = {np.exp(shape.ratio):.2f} lies {z:.1f} robust deviations above its {siblings - 1} siblings; "
        "a scan with a reference would settle whether it was edited",
        Confidence.LOW,
        location=Location(tensor.file, tensor.name),
        evidence=evidence,
    )
