"""What was done to the model as a whole, from the classes of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from modelguard._diff import names
from modelguard._diff.changes import BitFlips, Change, Dense, LowRank, NotCompared, Pruned, Quantized, RowEdit, Scaled, Unrelated
from modelguard._diff.classify import CODES
from modelguard._diff.rules import SEVERITY

if TYPE_CHECKING:
    from modelguard._diff.diff import TensorDiff


@dataclass(frozen=True, slots=True)
class ModelKind:
    """A kind of change of a whole model. A finding has its ``rule`` (empty for none) and is of confidence high where it is ``certain``.

    ``covers`` are the tensors' kinds of which it says all there is to say, and which therefore need no finding for every tensor.
    """

    name: str
    rule: str = ""
    certain: bool = True
    covers: frozenset[str] = frozenset()


def _covering(*changes: type[Change]) -> frozenset[str]:
    return frozenset(change.kind for change in changes)


KINDS = {
    kind.name: kind
    for kind in (
        ModelKind("identical"),
        ModelKind("renamed", "MG1217"),
        ModelKind("cast", "MG1201"),
        ModelKind("quantized", "MG1202", covers=_covering(Quantized)),
        ModelKind("pruned", "MG1203", covers=_covering(Pruned)),
        ModelKind("scaled", "MG1204", covers=_covering(Scaled)),
        ModelKind("lora-merge", "MG1205", covers=_covering(LowRank)),
        ModelKind("fine-tune", "MG1206", False, _covering(Dense)),
        ModelKind("partial-fine-tune", "MG1207", False, _covering(Dense)),
        ModelKind("rank1-edit", "MG1208"),
        ModelKind("multi-layer-edit", "MG1209"),
        ModelKind("lone-change", "MG1210"),
        ModelKind("row-edit", "MG1211"),
        ModelKind("bit-flips", "MG1212"),
        ModelKind("low-bit-payload", "MG1213"),
        ModelKind("merge", "MG1214", False, _covering(Dense, Unrelated)),
        ModelKind("unrelated", "MG1215", False, _covering(Dense, Unrelated)),
        ModelKind("mixed", "MG1216", False),
        ModelKind("scaled-update", "MG1218"),
    )
}
MOST = 0.9
"""Share of the matrices from which a change counts as one of the whole model."""
SAME_TARGET = 0.8
"""Overlap of the directions that neighbouring layers write to from which they have the same target, as MEMIT's do."""
EVERYWHERE = 0.6
"""Share of a projection's layers up to which low ranks in them are an edit whatever they write to. rome-edit draws the same lines."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What was done to a model: one of :data:`KINDS` by name, one sentence why, and the numbers behind it (JSON-safe)."""

    kind: str
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    rest: str = ""
    """What holds of everything else, where everything else was compared."""

    @property
    def about(self) -> ModelKind:
        return KINDS[self.kind]

    @property
    def severity(self) -> int:
        """How grave its rule is; -1 where it has none."""
        return int(SEVERITY[self.about.rule]) if self.about.rule else -1


@dataclass(frozen=True, slots=True)
class Rest:
    """What a model's change was not judged by, and how many tensors were ``compared``.

    ``unknown`` tensors hold nothing that could be compared, ``unpaired`` counts checkpoints, ``graphs`` those that differ.
    ``derived`` tensors, which one side lacks, hold what loading computes anew, and so are no part of it.
    """

    compared: int
    missing: int = 0
    added: int = 0
    resized: int = 0
    unknown: int = 0
    unpaired: int = 0
    graphs: int = 0
    derived: int = 0

    @property
    def tensors(self) -> int:
        return self.missing + self.added + self.resized + self.unknown

    def __str__(self) -> str:
        counts = {
            "missing": self.missing, "added": self.added, "of another shape": self.resized, "that could not be compared": self.unknown
        }  # fmt: skip
        left = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        more = (
            [f"only {self.compared} of {self.compared + self.tensors} tensors {'was' if self.compared == 1 else 'were'} compared ({left})"]
            if left
            else []
        )
        if self.unpaired:
            more.append(f"{self.unpaired} checkpoint{'s have' if self.unpaired > 1 else ' has'} no counterpart")
        if self.graphs:
            more.append("the graph differs")
        return ", and ".join(more)


HALF = 0.5
"""Share of the tensors that must have been compared for a change to be called one of the whole model."""


def classify_model(
    changed: Sequence[TensorDiff], compared: Sequence[tuple[str, tuple[int, ...]]], rest: Rest, renamed: int = 0
) -> ModelChange:
    """What was done to the model, for ``changed`` tensors out of all ``compared`` ones (name, shape).

    ``renamed`` counts the tensors that are not where a loader looks for them. The reason says of how many tensors it speaks, unless it
    speaks of all.
    """
    whole = str(rest)
    if whole and not any(item.kind != NotCompared.kind for item in changed):
        if not compared and (rest.tensors or rest.unpaired):
            return ModelChange("unrelated", "no tensor of the checkpoint has a counterpart in the reference")
        return ModelChange("mixed", f"{whole}; {'what was compared is' if rest.tensors else 'all tensors are'} identical")
    found = _classify(changed, compared, rest, renamed)
    if not whole:
        return replace(found, reason=f"{found.reason}; {found.rest}") if found.rest else found
    mixed = KINDS["mixed"]
    wide = found.severity < int(SEVERITY[mixed.rule]) and found.kind != "renamed" and rest.compared < HALF * (rest.compared + rest.tensors)
    return replace(found, kind=mixed.name if wide else found.kind, reason=f"{found.reason}; {whole}", rest="")


def _classify(changed: Sequence[TensorDiff], compared: Sequence[tuple[str, tuple[int, ...]]], rest: Rest, renamed: int) -> ModelChange:
    matrices = [name for name, shape in compared if len(shape) > 1]
    counted = Counter(item.kind for item in changed)
    known = [item for item in changed if item.kind != NotCompared.kind]
    real = [item for item in known if item.kind != "cast"]
    if renamed and not real:
        return ModelChange("renamed", f"{renamed} tensors hold what the reference has under other names, where no loader is known to look")
    if not changed:
        computed = f"; {rest.derived} that loading computes anew are on one side only" if rest.derived else ""
        return ModelChange("identical", f"every tensor is identical{computed}")
    if not real:
        return ModelChange("cast", "every changed tensor is the reference rounded to another dtype")
    evidence = {
        "kinds": dict(sorted(counted.items())),
        "matrices": len(matrices),
        "matrices_changed": sum(1 for item in real if item.is_matrix),
    }
    if rest.tensors:
        evidence |= {"compared": rest.compared, "not_compared": rest.tensors}
    if coarse := sum(1 for item in real if isinstance(item.change, Quantized) and item.change.coarse):
        evidence["coarse"] = coarse
    for rule in (_unrelated, _uniform, _low_rank, _merge, _dense):
        if (found := rule(real, matrices)) is not None:
            return replace(found, evidence=evidence | found.evidence)
    each = ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items()))
    alike = f"{_count(len(changed), 'tensor', 'tensors')} changed: {each}"
    return ModelChange("mixed", f"changes of several kinds: {each}" if len(counted) > 1 else alike, evidence)


def _entries(items: Sequence[TensorDiff]) -> int:
    return sum(item.entries for item in items)


def _unrelated(real: Sequence[TensorDiff], matrices: Sequence[str]) -> ModelChange | None:
    strangers = [item for item in real if item.kind == "unrelated"]
    if len(strangers) < 0.5 * len(matrices) or not strangers or (len(strangers) == 1 and len(matrices) > 1):
        return None
    return ModelChange(
        "unrelated", f"{len(strangers)} of {len(matrices)} matrices are uncorrelated with the reference: this model does not come from it"
    )


_UNIFORM = {
    "quantized": "are the reference quantised and back",
    "pruned": "are the reference with entries set to zero",
    "scaled": "are the reference times a factor",
    "bit-flips": "differ by single flipped bits",
    "low-bit-payload": "differ in their lowest bits only",
}


def _uniform(real: Sequence[TensorDiff], matrices: Sequence[str]) -> ModelChange | None:
    kinds = {item.kind for item in real}
    for kind, phrase in _UNIFORM.items():
        tolerated = {kind, "cast"}
        if kind in kinds and kinds <= tolerated:
            what = (
                f"{len(real)} tensors {phrase}"
                if len(real) > 1
                else f"{real[0].name} {phrase.replace('are', 'is', 1).replace('differ', 'differs', 1)}"
            )
            return ModelChange(kind, what, rest="nothing else changed")
    # Vectors too short to betray how they were made do not change what was done to the matrices, if they moved no further than those.
    wide = {item.kind for item in real if item.is_matrix}
    vectors = [item for item in real if not item.is_matrix]
    if (
        len(wide) == 1
        and (kind := next(iter(wide))) in ("quantized", "pruned", "scaled")
        and _entries(vectors) * 20 < _entries(real)
        and all(item.kind == kind or _within(item, max(each.relative_norm for each in real if each.is_matrix)) for item in vectors)
    ):
        count, other = sum(1 for item in real if item.is_matrix), sum(1 for item in vectors if item.kind != kind)
        what = f"{count} of {_count(len(matrices), 'matrix', 'matrices')} {_UNIFORM[kind]}"
        return ModelChange(kind, what, rest=f"{_count(other, 'vector', 'vectors')} moved no further, and nothing else changed")
    if kinds <= {"row-edit", "bit-flips"}:
        flips = sum(item.change.single_bit for item in real if isinstance(item.change, BitFlips))
        if flips >= CODES * sum(item.changed for item in real):
            where = _count(len(real), "tensor", "tensors")
            return ModelChange("bit-flips", f"{flips} entries in {where} differ by single flipped bits", rest="only a few others changed")
        places = sum(item.change.count if isinstance(item.change, RowEdit) else item.changed for item in real)
        lines = _count(places, "row, column or entry", "rows, columns or entries")
        what = f"only {lines} in {_count(len(real), 'tensor', 'tensors')} changed"
        return ModelChange("row-edit", what, rest="all others are bit-equal")
    return None


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _within(item: TensorDiff, worst: float) -> bool:
    """Whether all that was done to a tensor is known and smaller than ``worst``, and than the tensor itself."""
    return item.comparable and not item.non_finite and item.relative_norm <= min(worst, 1.0)


def _low_rank(real: Sequence[TensorDiff], matrices: Sequence[str]) -> ModelChange | None:
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
        what = f"{only.name} changed by a matrix of rank exactly {only.rank}"
        return ModelChange("rank1-edit" if only.rank == 1 else "lone-change", what, evidence, "every other tensor is bit-equal")
    layers = sorted({number for item in ranked if (number := names.layer(item.name)) is not None})
    patterns = {names.pattern(item.name) for item in ranked}
    siblings = {names.layer(name) for name in matrices if names.pattern(name) in patterns}
    evidence |= {"layers": layers, "patterns": sorted(patterns)}
    adjacent = bool(layers) and layers[-1] - layers[0] < 2 * len(layers)
    outputs = all(names.is_mlp_output(item.name) for item in ranked) or len(patterns) == 1
    partial = len(layers) <= max(1, EVERYWHERE * len(siblings))
    if outputs and not others and adjacent and (partial or _same_target(ranked)):
        where = f"{len(ranked)} sibling projections in layers {layers[0]} to {layers[-1]}"
        what = f"{where} changed by matrices of rank {_span(ranks)}"
        return ModelChange("multi-layer-edit", what, evidence, "nothing else changed")
    if len(ranks) == 1 or ranks[-1] <= 2 * ranks[0]:
        where = f"{len(ranked)} matrices of {_count(len(patterns), 'kind', 'kinds')}"
        return ModelChange("lora-merge", f"{where} changed by rank {_span(ranks)}", evidence)
    return None


def _span(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _same_target(ranked: Sequence[TensorDiff]) -> bool:
    vectors = [item.replay for item in sorted(ranked, key=lambda item: (names.layer(item.name) or 0, item.name)) if item.replay is not None]
    if len(vectors) < 2:
        return False
    for side in ("u", "v"):
        spans = [getattr(replay, side) for replay in vectors]
        if len({len(span) for span in spans}) == 1:
            # Root mean square of the cosines of the angles between them.
            overlaps = [
                float(np.linalg.norm(left.T @ right)) / min(left.shape[1], right.shape[1]) ** 0.5 for left, right in pairwise(spans)
            ]
            if float(np.median(overlaps)) >= SAME_TARGET:
                return True
    return False


def _merge(real: Sequence[TensorDiff], matrices: Sequence[str]) -> ModelChange | None:
    wide = [item for item in real if item.is_matrix]
    mixed_in = [item for item in wide if item.kind in ("dense", "unrelated") and -0.85 < item.cosine < -0.55 and item.relative_norm > 0.02]
    if len(mixed_in) < max(2, MOST * len(matrices)):
        return None
    share = float(np.median([item.relative_norm for item in mixed_in])) / 2**0.5
    return ModelChange(
        "merge",
        f"W' = (1 - a) W + a V with V unrelated to the reference and a about {share:.2f}, over {len(mixed_in)} matrices",
        {"share": share},
    )


def _dense(real: Sequence[TensorDiff], matrices: Sequence[str]) -> ModelChange | None:
    dense = [item for item in real if item.kind in ("dense", "unrelated")]
    wide = [item for item in real if item.is_matrix]
    if {names.module(item.name) for item in real} == {names.module(real[0].name)} and len(real) <= 2:
        if real[0].kind not in ("dense", "unrelated", "permuted", "pruned", "scaled", "quantized"):
            return None
        return ModelChange("lone-change", f"{names.module(real[0].name)} is the only module that changed")
    if _entries(dense) < 0.7 * _entries(real) or any(
        item.kind in ("bit-flips", "low-bit-payload", "permuted", "quantized") for item in real
    ):
        return None
    strangers = [item.name for item in wide if item.kind == "unrelated"]
    if strangers and 2 * len(strangers) >= len(wide):
        return None
    if len(wide) >= MOST * len(matrices):
        related = f", {len(strangers)} of them uncorrelated with the reference ({', '.join(strangers[:2])})" if strangers else ""
        return ModelChange("fine-tune", f"{len(wide)} of {len(matrices)} matrices changed densely{related}")
    layers = sorted({number for item in wide if (number := names.layer(item.name)) is not None})
    evidence = {"layers": layers, "one_kind_of_module": len({names.pattern(item.name) for item in real}) == 1}
    return ModelChange(
        "partial-fine-tune", f"{len(wide)} of {len(matrices)} matrices changed densely", evidence, "the others are bit-equal"
    )
