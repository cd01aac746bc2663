"""``rome-edit``: was a fact written into these weights? Judged against a reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelguard import Capability, Confidence, Detector, Finding, Location, ScanContext, Skip, Target, option, replay_rank
from modelguard_rome._edit_rules import RULES
from modelguard_rome._lens import Lens
from modelguard_rome._measures import EDIT
from modelguard_rome._model_level import PROMISING, Change, ModelChange, conclude
from modelguard_rome._names import Site, projections_of
from modelguard_rome._pairs import Array, Pair, pair_up
from modelguard_rome._spectrum import Difference, Top, evened, spike, subtract, top_singular
from modelguard_rome._twice import Replayed, replay_twice

SKETCH = 16
"""Singular directions the cheap look takes."""
CERTAIN = 0.9
"""Agreement past which no other way of rounding is tried."""
FEW = 16
"""Changed matrices outside the MLP projections that are looked at when there are no more than this."""
LARGEST = 1 << 28
"""Elements of one matrix that are held as float32 (1 GiB)."""


@dataclass(frozen=True)
class RomeEdit(Detector):
    """Rank-1 and low-rank edits of MLP output projections, against a reference."""

    id = "rome-edit"
    requires = frozenset({Capability.WEIGHTS, Capability.REFERENCE})
    rules = RULES
    shows = EDIT

    max_rank: int = option(64, "largest rank that is tried on a changed projection", ge=1, le=256)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        assert target.reference is not None
        pairs, without = pair_up(target.checkpoints, target.reference.checkpoints)
        places = projections_of(target)
        if not any(where.role != "other" for where in places.values()):
            raise Skip("no MLP projections were recognised in this model, by name or by shape")
        projections = [pair for pair in pairs if places[pair.tensor.name].role != "other" and pair.comparable]
        if not projections:
            raise Skip("no MLP projection has a counterpart of its shape in the reference")

        changed = []
        for done, pair in enumerate(pairs):
            context.check_deadline()
            context.progress(done, 2 * len(pairs), pair.tensor.name)
            if not pair.identical():
                changed.append(pair)
        mine = [pair for pair in changed if pair in projections]
        others = [pair for pair in changed if pair not in projections]
        matrices = [pair for pair in others if pair.comparable]
        looked_at = mine + (matrices if len(matrices) <= FEW else [])
        too_large = sorted(pair.tensor.name for pair in looked_at if pair.tensor.size > LARGEST)
        changes: list[Change] = []
        for done, pair in enumerate(looked_at):
            context.progress(len(looked_at) + done, 2 * len(looked_at), pair.tensor.name)
            if pair.tensor.size <= LARGEST:
                changes += self._examine(pair, places[pair.tensor.name], context)
        sites = {(places[pair.tensor.name].module, places[pair.tensor.name].layer) for pair in projections}
        unmatched = sorted(name for name in without if places[name].role != "other")
        model = conclude(changes, len(sites), [places[pair.tensor.name].layer for pair in others])
        context.summary(
            score=model.score,
            verdict=model.name,
            projections=len(projections),
            changed_projections=len(mine),
            changed_tensors=len(changed),
            unmatched_projections=unmatched,
            edits=[_told(change) for change in model.changes],
        )
        yield from self._findings(target, model)
        if too_large:
            raise Skip(f"{len(too_large)} changed matrices are larger than {LARGEST} elements: {', '.join(too_large[:3])}")

    def _examine(self, pair: Pair, where: Site, context: ScanContext) -> Iterator[Change]:
        """One change per matrix of ``pair`` (a stack of experts holds several)."""
        after, before = pair.values(), pair.reference_values()
        for index in range(len(after)) if after.ndim == 3 else (None,):
            context.check_deadline()
            new, old = (after, before) if index is None else (after[index], before[index])
            difference = subtract(new, old)
            if difference.norm > 0:
                yield self._look(pair, where, index, new, old, difference, context)

    def _look(
        self, pair: Pair, where: Site, index: int | None, new: Array, old: Array, difference: Difference, context: ScanContext
    ) -> Change:
        change = Change(pair, where, index, difference.relative, difference.changed, "dense")
        if not difference.spread_out:
            return replace(change, kind="sparse")
        rng = context.rng(pair.tensor.name)
        top = top_singular(difference.values, SKETCH, rng, check=context.check_deadline)
        top = Top(top.u, top.s * difference.unit, top.v)
        share = float(np.sum(np.square(top.s / difference.norm)))
        change = replace(change, share=share)
        if share >= PROMISING:
            found = self._replay(pair, index, new, old, top, context)
            if found is not None:
                return replace(change, kind="low-rank", rank=found.rank, replay=found, top=top)
        spikes = tuple(spike(values, rng, context.check_deadline) for values in (difference.values, evened(difference.values)))
        return replace(change, spikes=spikes, top=top)

    def _replay(self, pair: Pair, index: int | None, new: Array, old: Array, top: Top, context: ScanContext) -> Replayed | None:
        """The exact low rank of the change, replayed with two roundings, one, or (an edit before a cast) none before the last."""
        dtype, check = pair.tensor.dtype, context.check_deadline
        twice = replay_twice(old, new, dtype, top, self.max_rank)
        if twice is not None and twice.agreement >= CERTAIN:
            return twice
        found = replay_rank(old, new, dtype, self.max_rank, seed=context.seed, check=check)
        if found.rank is None and dtype != pair.reference.dtype:
            exact = pair.reference_values(cast=False)
            found = replay_rank(exact if index is None else exact[index], new, dtype, self.max_rank, seed=context.seed, check=check)
        if found.rank is None:
            return twice
        once = Replayed(found.rank, found.agreement, found.u, found.s, found.v)
        return twice if twice is not None and twice.agreement > once.agreement else once

    def _findings(self, target: Target, model: ModelChange) -> Iterator[Finding]:
        lenses: dict[tuple[str, int], Lens] = {}
        for claim in model.claims:
            change = claim.change
            width = min(change.pair.tensor.shape[-2:])
            key = (change.pair.checkpoint.name, width)
            if key not in lenses:
                lenses[key] = Lens(target, change.pair.checkpoint, width)
            evidence = {**_told(change), **_vectors(change, lenses[key]), **claim.evidence}
            yield Finding(
                claim.rule,
                claim.message,
                confidence=Confidence.parse(claim.confidence),
                location=Location(change.pair.tensor.file, change.pair.tensor.name, None, change.pair.tensor.byte_offset),
                evidence=evidence,
                key="" if change.index is None else str(change.index),
            )


def _told(change: Change) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tensor": change.pair.tensor.name,
        "layer": change.site.layer,
        "module": change.site.module,
        "kind": change.kind,
        "rank": change.rank,
        "relative_norm": _short(change.relative),
        "changed_share": _short(change.changed),
    }
    if change.replay is not None:
        told["replay_agreement"] = _short(change.replay.agreement)
    if change.spikes:
        told["spike"] = [_short(value) for item in change.spikes for value in (item.first, item.second)]
    return told


def _vectors(change: Change, lens: Lens) -> dict[str, Any]:
    """The two sides of the added outer products: norms, the largest coordinates, and what the value side promotes."""
    found = change.replay or change.top
    if found is None or not len(found.s):
        return {}
    rows, columns = change.pair.tensor.shape[-2:]
    key, value = (found.u, found.v) if rows > columns else (found.v, found.u)
    sides: dict[str, Any] = {
        "singular_values": [_short(float(s)) for s in found.s[:8]],
        **({"spectrum": [_short(float(s)) for s in change.top.s]} if change.top is not None else {}),
        "key_side": {"axis": 0 if rows > columns else 1, "length": len(key), "top": _coordinates(key[:, 0])},
        "value_side": {
            "axis": 1 if rows > columns else 0,
            "length": len(value),
            "top": _coordinates(value[:, 0]),
        },
    }
    read = [lens.read(value[:, i]) for i in range(min(3, change.rank or 1, value.shape[1]))]
    if read[0] is not None:
        sides["tokens"] = read
    return sides


def _coordinates(vector: Array) -> list[list[float]]:
    """The five largest coordinates as [index, value], the sign such that the largest is positive."""
    order = np.argsort(-np.abs(vector), kind="stable")[:5]
    sign = np.sign(vector[order[0]]) or 1.0
    return [[int(i), _short(float(sign * vector[i]))] for i in order]


def _short(value: float) -> float:
    """Four significant digits; reports hold no noise below."""
    return float(f"{value:.4g}") if np.isfinite(value) else 0.0
