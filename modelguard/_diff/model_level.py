"""What was done to the model as a whole, from the classes of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard._diff import names

if TYPE_CHECKING:
    from modelguard._diff.diff import TensorDiff

VERDICTS = (
    "identical", "cast", "quantized", "pruned", "scaled", "lora-merge", "fine-tune", "partial-fine-tune", "rank1-edit", "multi-layer-edit",
    "lone-change", "row-edit", "bit-flips", "low-bit-payload", "merge", "unrelated", "mixed",
)  # fmt: skip

ABOUT = {
    "quantized": {"quantized"}, "pruned": {"pruned"}, "scaled": {"scaled"}, "lora-merge": {"low-rank"}, "fine-tune": {"dense"},
    "partial-fine-tune": {"dense"}, "merge": {"dense", "unrelated"}, "unrelated": {"dense", "unrelated"},
}  # fmt: skip
"""Kinds of which a verdict says all there is to say, and which therefore need no finding for every tensor."""

MOST = 0.9
"""Share of the matrices from which a change counts as one of the whole model."""
SAME_TARGET = 0.8
"""|cos| of the value-side vectors of neighbouring layers from which they write towards the same target, as MEMIT's do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of :data:`VERDICTS`, one sentence why, and the numbers behind it."""

    verdict: str
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


def judge(changed: Sequence[TensorDiff], compared: Sequence[tuple[str, tuple[int, ...]]], structure: int, graphs: int = 0) -> Verdict:
    """The verdict for ``changed`` tensors out of all ``compared`` ones (name, shape).

    ``structure`` counts tensors and checkpoints that could not be compared so, ``graphs`` the graphs that differ.
    """
    matrices = [name for name, shape in compared if len(shape) > 1]
    counted = Counter(item.kind for item in changed)
    if not changed:
        if not compared and structure:
            return Verdict("unrelated", "no tensor of the checkpoint has a counterpart in the reference")
        differs = ["the graph differs"] * bool(graphs) + ["tensors are missing, added or resized"] * bool(structure)
        if differs:
            return Verdict("mixed", f"{' and '.join(differs)}; the tensors that could be compared are identical")
        return Verdict("identical", "every tensor is identical")
    real = [item for item in changed if item.kind != "cast"]
    if not real:
        return Verdict("cast", "every changed tensor is the reference rounded to another dtype")
    evidence = {
        "kinds": dict(sorted(counted.items())),
        "matrices": len(matrices),
        "matrices_changed": sum(1 for item in real if item.is_matrix),
    }
    for rule in (_unrelated, _uniform, _low_rank, _merge, _dense):
        if (found := rule(real, matrices)) is not None:
            return Verdict(found.verdict, found.reason, evidence | found.evidence)
    return Verdict(
        "mixed", "changes of several kinds: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())), evidence
    )


def _entries(items: Sequence[TensorDiff]) -> int:
    return sum(item.entries for item in items)


def _unrelated(real: Sequence[TensorDiff], matrices: Sequence[str]) -> Verdict | None:
    strangers = [item for item in real if item.kind == "unrelated"]
    if len(strangers) < 0.5 * len(matrices) or not strangers or (len(strangers) == 1 and len(matrices) > 1):
        return None
    return Verdict(
        "unrelated", f"{len(strangers)} of {len(matrices)} matrices are uncorrelated with the reference: this model does not come from it"
    )


_UNIFORM = {
    "quantized": "are the reference quantised and back",
    "pruned": "are the reference with entries set to zero",
    "scaled": "are the reference times a factor",
    "bit-flips": "differ by single flipped bits",
    "low-bit-payload": "differ in their lowest bits only",
}


def _uniform(real: Sequence[TensorDiff], matrices: Sequence[str]) -> Verdict | None:
    kinds = {item.kind for item in real}
    for kind, phrase in _UNIFORM.items():
        tolerated = {kind, "cast"}
        if kind in kinds and kinds <= tolerated:
            return Verdict(kind, f"{len(real)} tensors {phrase}; nothing else changed")
    # Vectors too short to betray how they were made do not change what was done to the matrices, if they moved no further than those.
    wide = {item.kind for item in real if item.is_matrix}
    vectors = [item for item in real if not item.is_matrix]
    if (
        len(wide) == 1
        and (kind := next(iter(wide))) in ("quantized", "pruned", "scaled")
        and _entries(vectors) * 20 < _entries(real)
        and all(item.kind == kind or _within(item, max(each.relative_norm for each in real if each.is_matrix)) for item in vectors)
    ):
        return Verdict(kind, f"every changed matrix is of this kind ({sum(1 for item in real if item.is_matrix)} of {len(matrices)})")
    if kinds == {"row-edit"}:
        places = sum(int(item.evidence.get("count", 0)) for item in real)
        return Verdict("row-edit", f"only {places} rows, columns or entries in {len(real)} tensors changed; all others are bit-equal")
    return None


def _within(item: TensorDiff, worst: float) -> bool:
    """Whether all that was done to a tensor is known and smaller than ``worst``, and than the tensor itself."""
    return item.comparable and not item.non_finite and item.relative_norm <= min(worst, 1.0)


def _low_rank(real: Sequence[TensorDiff], matrices: Sequence[str]) -> Verdict | None:
    ranked = [item for item in real if item.kind == "low-rank"]
    others = [item for item in real if item.kind != "low-rank"]
    if not ranked or any(item.is_matrix and not (names.is_embedding(item.name) or names.is_head(item.name)) for item in others):
        return None
    ranks = sorted({item.rank or 0 for item in ranked})
    evidence = {"ranks": ranks, "modules": sorted(names.module(item.name) for item in ranked)}
    if len(ranked) == 1:
        only = ranked[0]
        if others:
            return None
        what = f"{only.name} changed by a matrix of rank exactly {only.rank}; every other tensor is bit-equal"
        return Verdict("rank1-edit" if only.rank == 1 else "lone-change", what, evidence)
    layers = sorted({number for item in ranked if (number := names.layer(item.name)) is not None})
    patterns = {names.pattern(item.name) for item in ranked}
    siblings = {names.layer(name) for name in matrices if names.pattern(name) in patterns}
    evidence |= {"layers": layers, "patterns": sorted(patterns)}
    adjacent = bool(layers) and layers[-1] - layers[0] < 2 * len(layers)
    outputs = all(names.is_mlp_output(item.name) for item in ranked) or len(patterns) == 1
    partial = len(layers) < len(siblings)
    if outputs and not others and adjacent and (partial or _same_target(ranked)):
        where = f"{len(ranked)} sibling projections in layers {layers[0]} to {layers[-1]}"
        what = f"{where} changed by matrices of rank {_span(ranks)}; nothing else changed"
        return Verdict("multi-layer-edit", what, evidence)
    if len(ranks) == 1 or ranks[-1] <= 2 * ranks[0]:
        return Verdict("lora-merge", f"{len(ranked)} matrices of {len(patterns)} kinds changed by rank {_span(ranks)}", evidence)
    return None


def _span(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _same_target(ranked: Sequence[TensorDiff]) -> bool:
    vectors = [item.replay for item in sorted(ranked, key=lambda item: (names.layer(item.name) or 0, item.name)) if item.replay is not None]
    if len(vectors) < 2:
        return False
    for side in ("u", "v"):
        leading = [getattr(replay, side)[:, 0] for replay in vectors]
        if len({len(vector) for vector in leading}) == 1:
            cosines = [abs(float(left @ right)) for left, right in pairwise(leading)]
            if float(np.median(cosines)) >= SAME_TARGET:
                return True
    return False


def _merge(real: Sequence[TensorDiff], matrices: Sequence[str]) -> Verdict | None:
    wide = [item for item in real if item.is_matrix]
    mixed_in = [item for item in wide if item.kind in ("dense", "unrelated") and -0.85 < item.cosine < -0.55 and item.relative_norm > 0.02]
    if len(mixed_in) < max(2, MOST * len(matrices)):
        return None
    share = float(np.median([item.relative_norm for item in mixed_in])) / 2**0.5
    return Verdict(
        "merge",
        f"W' = (1 - a) W + a V with V unrelated to the reference and a about {share:.2f}, over {len(mixed_in)} matrices",
        {"share": share},
    )


def _dense(real: Sequence[TensorDiff], matrices: Sequence[str]) -> Verdict | None:
    dense = [item for item in real if item.kind in ("dense", "unrelated")]
    wide = [item for item in real if item.is_matrix]
    if {names.module(item.name) for item in real} == {names.module(real[0].name)} and len(real) <= 2:
        if real[0].kind not in ("dense", "unrelated", "permuted", "pruned", "scaled", "quantized"):
            return None
        return Verdict("lone-change", f"{names.module(real[0].name)} is the only module that changed")
    if _entries(dense) < 0.7 * _entries(real) or any(
        item.kind in ("bit-flips", "low-bit-payload", "permuted", "quantized") for item in real
    ):
        return None
    if len(wide) >= MOST * len(matrices):
        return Verdict("fine-tune", f"{len(wide)} of {len(matrices)} matrices changed densely")
    layers = sorted({number for item in wide if (number := names.layer(item.name)) is not None})
    evidence = {"layers": layers, "one_kind_of_module": len({names.pattern(item.name) for item in real}) == 1}
    return Verdict("partial-fine-tune", f"{len(wide)} of {len(matrices)} matrices changed densely, the others are bit-equal", evidence)
