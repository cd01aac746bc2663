"""From changed matrices to what was done to the model: which changes are confined, which are an adapter's, which are noise. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from modelguard_rome._names import Site
from modelguard_rome._pairs import Pair
from modelguard_rome._spectrum import Spike, Top
from modelguard_rome._twice import Replayed

PROMISING = 0.5
"""Share of ‖D‖² the largest directions must hold before a rank is tried. The weakest edit seen in bfloat16 has 0.87 in one."""
EVERYWHERE = 0.6
"""A low-rank change in more than this share of a model's layers is an adapter's: editors write to at most six of 28 or more."""
SAME_TARGET = 0.8
"""Overlap of the value sides of neighbouring layers from which they write towards the same targets: MEMIT spreads one residual over
layers (Meng et al. 2022), and adapters learn directions of their own. weight-diff holds it to the same number."""
NOISE_FLOOR = 1.12
"""s₁ over the noise edge that rounding and quantisation noise stays under (measured maximum 1.03, down to 48 × 192)."""
LARGEST_NOISE = 0.5
"""‖D‖ / ‖W‖ that rounding noise stays under (int4: 0.13). Two unrelated models differ by 1.4: their difference is no noise."""
SPIKE = 1.25
"""s₁ over the noise edge from which one direction stands out, if it also is that much above s₂."""


@dataclass(frozen=True)
class Change:
    """What became of one matrix. ``kind`` is ``low-rank`` (replayed exactly), ``sparse`` (few rows or columns) or ``dense``.

    ``share`` is how much of ‖D‖² the largest directions hold; ``index`` the expert in a stacked tensor;
    ``spikes`` measure the difference as it is, and with rows and columns evened out.
    """

    pair: Pair
    site: Site
    index: int | None
    relative: float
    changed: float
    kind: str
    rank: int | None = None
    replay: Replayed | None = None
    share: float = 0.0
    spikes: tuple[Spike, ...] = ()
    top: Top | None = None

    @property
    def noise(self) -> bool:
        """Whether no direction of the difference stands above independent noise."""
        return bool(self.spikes) and self.spikes[0].first <= NOISE_FLOOR

    @property
    def name(self) -> str:
        return self.pair.tensor.name if self.index is None else f"{self.pair.tensor.name}[{self.index}]"


@dataclass(frozen=True)
class Claim:
    """One finding to be."""

    rule: str
    change: Change
    message: str
    confidence: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelChange:
    """The model-level name of what was found, a score in [0, 1], the claims, and the changes worth telling."""

    name: str
    score: float
    claims: tuple[Claim, ...] = ()
    changes: tuple[Change, ...] = ()


def conclude(changes: Sequence[Change], sites: int, others: Sequence[int | None]) -> ModelChange:
    """What the ``changes`` say of a model that has MLP projections at ``sites`` places.

    ``others`` has one entry for every changed tensor that is no MLP projection: its layer, or None.
    """
    if not changes and not others:
        return ModelChange("identical", 0.0)
    mine = [change for change in changes if change.site.role != "other"]
    low = [change for change in mine if change.kind == "low-rank"]
    elsewhere = [change for change in changes if change.site.role == "other" and change.kind == "low-rank"]
    # A projection of low but unproved rank counts as touched too: a merged adapter is not to pass for an edit of the layers it
    # replays in. Noise does not count: adding some everywhere else must not hide an edit.
    touched = {_site(change) for change in mine if change.kind == "low-rank" or (change.share >= PROMISING and not change.noise)}
    if len(touched) > max(1, EVERYWHERE * sites):
        if len(low) == len(mine) and not others and not elsewhere and _one_target(low):
            return _confined(low, elsewhere, others)
        if low:
            return _adapter(low)
    elif low or (elsewhere and len({change.site.layer for change in elsewhere}) <= max(1, EVERYWHERE * sites)):
        return _confined(low, elsewhere, others)
    elif elsewhere and not mine:
        return ModelChange("adapter", 0.2, changes=tuple(elsewhere))
    if mine and not others and len({_site(change) for change in mine}) <= max(1, EVERYWHERE * sites):
        return ModelChange("lone-projection-change", 0.5, tuple(_lone(change) for change in mine), tuple(mine))
    return _noise(mine) or ModelChange("dense" if mine else "elsewhere", max((0.4 * change.share for change in mine), default=0.0))


def _adapter(low: list[Change]) -> ModelChange:
    ranks = Counter(change.rank for change in low)
    usual = min(ranks, key=lambda rank: (-ranks[rank], rank or 0))
    above = [change for change in low if (change.rank or 0) > (usual or 0)]
    if not above or len(above) > 0.25 * len(low):
        return ModelChange("adapter", 0.2, changes=tuple(low))
    claims = tuple(
        Claim(
            "MG2007",
            change,
            f"{change.name} changed by rank {change.rank}, its siblings in the other layers by rank {usual}: more than the merged adapter",
            "medium",
            {"usual_rank": usual},
        )
        for change in above
    )
    return ModelChange("adapter-and-more", 0.8, claims, tuple(low))


def _site(change: Change) -> tuple[str, int | None]:
    return change.site.module, change.site.layer


def _confined(low: list[Change], elsewhere: list[Change], others: Sequence[int | None]) -> ModelChange:
    """Low-rank changes of few layers: an edit, unless the rest of the same layers, and nothing beyond them, changed as well."""
    score = max(change.replay.agreement for change in low + elsewhere if change.replay is not None)
    layers = {change.site.layer for change in low}
    if not low or (others and set(others) <= layers):
        told = tuple(low + elsewhere)
        claims = tuple(Claim("MG2004", change, _message(change, "confined to few matrices"), "high") for change in told)
        return ModelChange("confined-low-rank", 0.6 * score, claims, told)
    runs = list(_runs(low))
    name = "multi-layer-edit" if any(len(run) > 1 for run in runs) else "rank1-edit" if {c.rank for c in low} == {1} else "low-rank-edit"
    claims = tuple(claim for run in runs for claim in _run_claims(run, bool(others)))
    return ModelChange(name, score, claims, tuple(low))


def _runs(low: list[Change]) -> Iterator[list[Change]]:
    """Groups of one module's changes in adjacent layers."""
    run: list[Change] = []
    for change in sorted(low, key=lambda item: (item.site.module, item.index or 0, _layer(item))):
        if run and (run[-1].site.module, run[-1].index) == (change.site.module, change.index) and _layer(change) - _layer(run[-1]) == 1:
            run.append(change)
            continue
        if run:
            yield run
        run = [change]
    if run:
        yield run


def _layer(change: Change) -> int:
    return -1 if change.site.layer is None else change.site.layer


def _run_claims(run: list[Change], more_changed: bool) -> Iterator[Claim]:
    confidence = "high" if not more_changed and all(change.site.role == "mlp-output" for change in run) else "medium"
    if len(run) == 1:
        change = run[0]
        rule = "MG2001" if change.rank == 1 else "MG2003"
        yield Claim(rule, change, _message(change, f"looks like {_single(change)}"), confidence, {"looks_like": _single(change)})
        return
    growth = [change.relative for change in run]
    spread = "grows with the layer" if all(a <= b for a, b in pairwise(growth)) else "varies over the layers"
    looks = "MEMIT, PMET or AlphaEdit"
    evidence = {
        "looks_like": looks,
        "layers": [change.site.layer for change in run],
        "relative_norms": [float(f"{value:.4g}") for value in growth],
        "value_side_cosines": _alignment(run),
    }
    where = f"one of {len(run)} adjacent layers ({run[0].site.layer}-{run[-1].site.layer}); the size {spread}: looks like {looks}"
    for change in run:
        yield Claim("MG2002", change, _message(change, where), confidence, evidence)


def _single(change: Change) -> str:
    if change.rank == 1:
        return "ROME or R-ROME (a rank-1 LoRA on this one module is the same object)"
    assert change.replay is not None
    flat = change.replay.s[-1] >= 0.2 * change.replay.s[0]
    batch = "EMMET, or as many ROME edits one after another" if flat else "several ROME edits of different size, or EMMET"
    return f"{batch} ({change.rank} independent facts; a LoRA of that rank on this one module is the same object)"


def _one_target(low: list[Change]) -> bool:
    """Whether the changes are one module's in adjacent layers, and their value sides span nearly the same directions."""
    runs = list(_runs(low))
    return len(runs) == 1 and len(runs[0]) > 1 and float(np.median(_overlaps(runs[0]))) >= SAME_TARGET


def _overlaps(run: list[Change]) -> list[float]:
    """How far the value sides of neighbouring layers span the same directions: root mean square of the cosines of their angles."""
    sides = [_value_side(change) for change in run]
    return [float(np.linalg.norm(a.T @ b) / min(a.shape[1], b.shape[1]) ** 0.5) for a, b in pairwise(sides)]


def _value_side(change: Change) -> Any:
    assert change.replay is not None
    rows, columns = change.pair.tensor.shape[-2:]
    return change.replay.v if rows > columns else change.replay.u


def _alignment(run: list[Change]) -> list[float]:
    """|cosine| of the leading value-side vectors of neighbouring layers: editors aim every layer at one target."""
    sides = [_value_side(change)[:, 0] for change in run]
    return [round(float(abs(np.dot(a, b))), 3) for a, b in pairwise(sides)]


def _message(change: Change, what: str) -> str:
    assert change.replay is not None
    layer = "" if change.site.layer is None else f" (layer {change.site.layer})"
    return (
        f"{change.name}{layer} is the reference plus {change.rank} outer product{'s' if change.rank != 1 else ''}, "
        f"{100 * change.replay.agreement:.1f} % of the moved entries bit for bit, {100 * change.relative:.2g} % of its norm; {what}"
    )


def _lone(change: Change) -> Claim:
    entries = f"{100 * change.changed:.2g} % of its entries, {100 * change.relative:.2g} % of its norm"
    return Claim(
        "MG2005", change, f"{change.name} changed ({entries}) while the rest of the model did not, and not by a low rank", "medium"
    )


def _noise(mine: list[Change]) -> ModelChange | None:
    """A lone spike over a floor of noise that every other projection shows as noise and nothing else.

    Asked of the differences as they are first; where their noise is uneven, of the evened ones.
    """
    measured = [change for change in mine if change.spikes]
    for way in (0, 1):
        standing = [change for change in measured if change.spikes[way].first >= SPIKE * max(1.0, change.spikes[way].second)]
        floor = [change for change in measured if change.spikes[way].first <= NOISE_FLOOR and change.relative <= LARGEST_NOISE]
        if not standing or len(floor) < 3 or len(standing) + len(floor) < len(measured) or len(standing) >= EVERYWHERE * len(measured):
            continue
        claims = []
        for change in standing:
            times = f"{change.spikes[way].first:.3g} times above the noise that all {len(measured)} changed projections carry"
            claims.append(
                Claim("MG2006", change, f"{change.name}: one direction stands {times}", "medium", {"noise_only_siblings": len(floor)})
            )
        return ModelChange("edit-under-noise", 0.7, tuple(claims), tuple(standing))
    return None
