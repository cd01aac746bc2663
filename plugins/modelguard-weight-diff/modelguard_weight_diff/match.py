"""Which tensor of the checkpoint stands against which tensor of the reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelguard import Checkpoint, TensorInfo
from modelguard_weight_diff.operand import Operand, open_operand

_PREFIX = re.compile(r"^(module\.|_orig_mod\.|base_model\.model\.|model\.|transformer\.)+")


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in its checkpoint."""

    checkpoint: Checkpoint
    tensor: TensorInfo


@dataclass(frozen=True, slots=True)
class Pairing:
    """A tensor (or a part of one) and its counterpart. ``name`` is what reports call it; ``how`` says why they belong together.

    ``rows`` limits the comparison to the first rows, where one side has more (a grown vocabulary).
    """

    name: str
    before: Place
    after: Place
    how: str
    rows: int | None = None

    def open(self) -> tuple[Operand, Operand]:
        """Reference and checkpoint as equally shaped matrices, without copying."""
        before, after = (open_operand(place.checkpoint, place.tensor) for place in (self.before, self.after))
        if self.rows is not None:
            before, after = (Operand(side.matrix[: self.rows], side.dtype, (self.rows, *side.shape[1:])) for side in (before, after))
        return before, after


@dataclass(frozen=True, slots=True)
class Matching:
    """Everything that was paired, and everything that was not: ``missing`` from the checkpoint, ``added`` to it, ``resized``."""

    pairs: tuple[Pairing, ...] = ()
    missing: tuple[Place, ...] = ()
    added: tuple[Place, ...] = ()
    resized: tuple[tuple[Place, Place], ...] = ()
    notes: Mapping[str, object] = field(default_factory=dict)


def match(reference: Sequence[Checkpoint], checkpoint: Sequence[Checkpoint]) -> Matching:
    """Pair the tensors of the checkpoints of two artifacts."""
    old = {name: Place(item, tensor) for item in reference for name, tensor in item.tensors.items()}
    new = {name: Place(item, tensor) for item in checkpoint for name, tensor in item.tensors.items()}
    pairs: list[Pairing] = []
    resized: list[tuple[Place, Place]] = []
    for how, key in (("name", str), ("prefix", _stem)):
        counterparts = _unique({name: key(name) for name in old})
        for stem, name in sorted(_unique({name: key(name) for name in new}).items()):
            if stem in counterparts:
                before, after = old.pop(counterparts[stem]), new.pop(name)
                a, b = before.tensor.shape, after.tensor.shape
                if a == b:
                    pairs.append(Pairing(name, before, after, how))
                else:
                    resized.append((before, after))
                    if len(a) == len(b) > 1 and a[1:] == b[1:]:
                        pairs.append(Pairing(name, before, after, how, rows=min(a[0], b[0])))
    pairs.sort(key=lambda pair: pair.name)
    return Matching(tuple(pairs), tuple(old[name] for name in sorted(old)), tuple(new[name] for name in sorted(new)), tuple(resized))


def _stem(name: str) -> str:
    return _PREFIX.sub("", name)


def _unique(stems: Mapping[str, str]) -> dict[str, str]:
    """Stem to name, for the stems that only one name has."""
    seen: dict[str, list[str]] = {}
    for name, stem in stems.items():
        seen.setdefault(stem, []).append(name)
    return {stem: names[0] for stem, names in seen.items() if len(names) == 1}
