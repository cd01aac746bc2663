"""Which tensor of the checkpoint stands against which tensor of the reference.

Names first, through the prefixes that wrappers add and names of old; then parts of fused projections; then content. What finds no
counterpart is listed, never dropped. A pairing by content says where the bytes are, not that a loader finds them (``renames.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from modelguard._diff import content, names
from modelguard._diff.content import Places
from modelguard._diff.experts import stacked
from modelguard._diff.pairing import TRANSPOSED, WHOLE, Pairing, Place, View
from modelguard._diff.renames import canonical, common_prefix, may_be_tied
from modelguard._diff.renames import stem as _stem
from modelguard.checkpoint import Checkpoint

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_FUSED = (
    (r"\b(qkv_proj|Wqkv|query_key_value|c_attn|qkv|in_proj)\b", ("q_proj", "k_proj", "v_proj")),
    (r"\b(qkv_proj|Wqkv|query_key_value|qkv)\b", ("query", "key", "value")),
    (r"\b(qkv_proj|qkv)\b", ("q", "k", "v")),
    (r"\b(gate_up_proj)\b", ("gate_proj", "up_proj")),
    (r"\b(w13|gate_up)\b", ("w1", "w3")),
)
CONSTANT = 16
INTEGER_CONSTANT = 64
"""Entries up to which a float or integer tensor that only one of two formats stores is an exporter's constant: shapes and axes are as
short as this, weights stored as integers are not. Floats are one only in ONNX: elsewhere even one number is a weight."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Everything that was paired, and everything that was not.

    ``missing`` are only in the reference, ``added`` only in the checkpoint; ``resized`` exist on both sides with different
    shapes. ``unpaired`` names checkpoints without a counterpart. ``tied`` maps a tensor that one side stores once to the tensor it
    shares; ``constants`` lists what only one of two different formats stores: a few integers, or a few floats that only an ONNX
    file does. ``buffers`` are those of a reference in another format that the checkpoint lacks and that exporters compute or fold:
    integers such as masks and position ids, and a few floats.
    ``groups`` are the checkpoints of the reference and of the artifact that were set against each other.
    """

    pairs: tuple[Pairing, ...] = ()
    missing: tuple[Place, ...] = ()
    added: tuple[Place, ...] = ()
    resized: tuple[tuple[Place, Place], ...] = ()
    unpaired: tuple[str, ...] = ()
    unpaired_reference: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    buffers: tuple[Place, ...] = ()
    groups: tuple[tuple[tuple[Checkpoint, ...], tuple[Checkpoint, ...]], ...] = ()


Group = tuple[str, str]
"""Name (without shard numbers) and format of checkpoints that belong together."""


def match_tensors(reference: Sequence[Checkpoint], checkpoint: Sequence[Checkpoint]) -> Matching:
    """Pair the tensors of the checkpoints of two artifacts: by name, through wrappers and fused projections, then by content."""
    old_groups, new_groups = _groups(reference), _groups(checkpoint)
    counterparts = _counterparts(old_groups, new_groups)
    several = len(new_groups) > 1
    result = _Result()
    for key, other in counterparts.items():
        result.groups.append((tuple(old_groups[other]), tuple(new_groups[key])))
        label = (key[0] if sum(name == key[0] for name, _ in new_groups) == 1 else f"{key[0]}.{key[1]}") if several else ""
        _Match(result, _places(old_groups[other], label), _places(new_groups[key], label), key[1] != other[1]).run()
    for key in new_groups.keys() - counterparts.keys():
        result.unpaired.append(key[0])
        result.added.extend(_places(new_groups[key], key[0] if several else "").values())
    for key in old_groups.keys() - set(counterparts.values()):
        result.unpaired_reference.append(key[0])
        stems = {_stem(name) for name in _places(old_groups[key], "")}
        used = {_stem(pair.before.tensor.name) for pair in result.pairs}
        # The same weights in another format are no loss; anything else is.
        if not stems or len(stems & used) < 0.5 * len(stems):
            result.missing.extend(_places(old_groups[key], key[0]).values())
    return result.freeze()


def counterparts(
    reference: Sequence[Checkpoint], checkpoint: Sequence[Checkpoint]
) -> list[tuple[tuple[Checkpoint, ...], tuple[Checkpoint, ...]]]:
    """The checkpoints of the reference and those of the artifact that are set against each other."""
    old, new = _groups(reference), _groups(checkpoint)
    return [(tuple(old[theirs]), tuple(new[mine])) for mine, theirs in _counterparts(old, new).items()]


def checkpoint_stem(name: str) -> str:
    """The name of a checkpoint without the number of a shard."""
    return _SHARD.sub("", name)


def _groups(checkpoints: Sequence[Checkpoint]) -> dict[Group, list[Checkpoint]]:
    found: dict[Group, list[Checkpoint]] = {}
    for item in checkpoints:
        found.setdefault((checkpoint_stem(item.name), item.format), []).append(item)
    return dict(sorted(found.items()))


def _counterparts(old: Mapping[Group, Any], new: Mapping[Group, Any]) -> dict[Group, Group]:
    """For each group of the checkpoint, the group of the reference to compare with."""
    found: dict[Group, Group] = {}
    for parts in (2, 1):
        for mine in new:
            free = [theirs for theirs in old if theirs[:parts] == mine[:parts] and theirs not in found.values()]
            if mine not in found and free:
                found[mine] = free[0]
    for mine in new:
        if mine in found:
            continue
        free = [theirs for theirs in old if theirs not in found.values()]
        if len(free) == 1 and len(new.keys() - found.keys()) == 1:
            found[mine] = free[0]
        elif old:
            # The same weights once more, in another format or as a variant beside them: whoever shares most names.
            stems = {_stem(name) for item in new[mine] for name in item.tensors}
            near = [theirs for theirs in old if theirs not in found.values() or _folder(theirs) == _folder(mine)]
            shared = {theirs: len(stems & {_stem(name) for item in old[theirs] for name in item.tensors}) for theirs in near}
            best = max(sorted(shared), key=lambda theirs: shared[theirs], default=None)
            if best is not None and (shared[best] or best[1] != mine[1]):
                found[mine] = best
    return dict(sorted(found.items()))


def _folder(group: Group) -> str:
    return group[0].rpartition("/")[0]


def _places(checkpoints: Sequence[Checkpoint], group: str) -> Places:
    places: Places = {}
    for item in checkpoints:
        for name, tensor in item.tensors.items():
            # A name that two shards claim is kept twice, so that neither copy escapes.
            key = name if name not in places else f"{name} ({tensor.file})"
            places[key] = Place(item, tensor, group)
    return dict(sorted(places.items()))


@dataclass(slots=True)
class _Result:
    pairs: list[Pairing] = field(default_factory=list)
    missing: list[Place] = field(default_factory=list)
    added: list[Place] = field(default_factory=list)
    resized: list[tuple[Place, Place]] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    unpaired_reference: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    buffers: list[Place] = field(default_factory=list)
    groups: list[tuple[tuple[Checkpoint, ...], tuple[Checkpoint, ...]]] = field(default_factory=list)

    def freeze(self) -> Matching:
        return Matching(
            tuple(sorted(self.pairs, key=lambda pair: pair.name)),
            tuple(sorted(self.missing, key=lambda place: place.name)),
            tuple(sorted(self.added, key=lambda place: place.name)),
            tuple(sorted(self.resized, key=lambda both: both[1].name)),
            tuple(sorted(self.unpaired)),
            tuple(sorted(self.unpaired_reference)),
            dict(sorted(self.tied.items())),
            tuple(sorted(self.constants)),
            tuple(sorted(self.buffers, key=lambda place: place.name)),
            tuple(self.groups),
        )


class _Match:
    """The pairing of one checkpoint with its counterpart; ``old`` and ``new`` shrink as tensors are paired."""

    def __init__(self, result: _Result, old: Places, new: Places, other_format: bool) -> None:
        self.result, self.old, self.new, self.other_format = result, old, new, other_format
        self.all_old, self.all_new = dict(old), dict(new)
        self.has_graph = any(place.checkpoint.format == "onnx" for place in (*old.values(), *new.values()))

    def run(self) -> None:
        self._by_name("name", str, str)
        self._by_name("prefix", _stem, _stem)
        if self.old and self.new:
            old, new = common_prefix(self.all_old, self.all_new)
            self._by_name("prefix", lambda name: name.removeprefix(old), lambda name: name.removeprefix(new))
            self._by_name("renamed", canonical, canonical)
        self.result.pairs.extend(_relabel(self._fused()))
        self.result.pairs.extend(stacked(self.old, self.new))
        self.result.pairs.extend(_relabel(content.by_bytes(self.old, self.new)))
        self.result.pairs.extend(_relabel(content.by_similarity(self.old, self.new)))
        self._tied()
        for places, left in ((self.old, self.result.missing), (self.new, self.result.added)):
            for place in places.values():
                small = _is_constant(place)
                if self.other_format and small and (_is_integer(place) or place.checkpoint.format == "onnx"):
                    self.result.constants.append(place.name)
                elif self.other_format and places is self.old and (small or _is_integer(place)):
                    self.result.buffers.append(place)
                else:
                    left.append(place)

    def _by_name(self, how: str, old: Callable[[str], str], new: Callable[[str], str]) -> None:
        theirs = _unique({name: old(name) for name in self.old})
        for stem, name in sorted(_unique({name: new(name) for name in self.new}).items()):
            if stem in theirs:
                self._pair(self.old.pop(theirs[stem]), self.new.pop(name), how)

    def _pair(self, before: Place, after: Place, how: str) -> None:
        a, b = before.shape, after.shape
        square = len(a) == 2 and a[0] == a[1] > 1
        if a == b:
            turned = self.other_format and square and content.rather_transposed(before, after)
            self.result.pairs.append(Pairing(after.name, before, after, "transposed" if turned else how, TRANSPOSED if turned else WHOLE))
        elif len(a) == 2 and a == b[::-1]:
            self.result.pairs.append(Pairing(after.name, before, after, "transposed", TRANSPOSED))
        elif prod(a) == prod(b) and [n for n in a if n != 1] == [n for n in b if n != 1]:
            rows = b[0] if len(b) > 1 else 1
            view = View(shape=(rows, prod(b) // max(1, rows)))
            self.result.pairs.append(Pairing(after.name, before, after, how, view))
        else:
            self.result.resized.append((before, after))
            if len(a) == len(b) > 1 and a[1:] == b[1:]:
                view = View(rows=(0, min(a[0], b[0])))
                self.result.pairs.append(Pairing(after.name, before, after, "resized", view, view))

    def _fused(self) -> Iterator[Pairing]:
        for fused_side, part_side, fused_is_old in ((self.old, self.new, True), (self.new, self.old, False)):
            stems = _unique({name: _stem(name) for name in part_side})
            for name in sorted(fused_side):
                for pattern, parts in _FUSED:
                    wanted = [re.sub(pattern, part, _stem(name).replace("in_proj_", "in_proj.")) for part in parts]
                    if len(set(wanted)) < len(parts) or not all(stem in stems and stems[stem] in part_side for stem in wanted):
                        continue
                    layouts = _layouts(fused_side[name].shape, [part_side[stems[stem]].shape for stem in wanted])
                    if not layouts:
                        continue
                    first = part_side[stems[wanted[0]]]
                    views = max(layouts, key=lambda layout: content.affinity(layout[0].open(fused_side[name]), WHOLE.open(first)))
                    fused = fused_side.pop(name)
                    for stem, view in zip(wanted, views, strict=True):
                        part = part_side.pop(stems[stem])
                        if fused_is_old:
                            yield Pairing(part.name, fused, part, "fused", view)
                        else:
                            yield Pairing(
                                f"{fused.name}[{stem.split('.')[-2] if '.' in stem else stem}]", part, fused, "fused", WHOLE, view
                            )
                    break

    def _tied(self) -> None:
        """Weights that one side stores once under one of their names."""
        for left, own, label in ((self.old, self.all_old, "before"), (self.new, self.all_new, "after")):
            if not left:
                continue
            paired = {name: place for name, place in own.items() if name not in left}
            known = {canonical(place.tensor.name) for place in paired.values()}
            for name, other in content.copies(left, paired).items():
                if self._is_tied(left[name].tensor.name, own[other].tensor.name, known):
                    self.result.tied[left.pop(name).name] = own[other].name
            other_side = self.all_new if label == "before" else self.all_old
            for name in [name for name in left if names.is_head(name) or names.is_embedding(name)]:
                place = left[name]
                shared = [item for key, item in other_side.items() if _shares(name, key) and item.shape == place.shape]
                if len(shared) == 1:
                    before, after = (left.pop(name), shared[0]) if label == "before" else (shared[0], left.pop(name))
                    self.result.pairs.append(Pairing(place.name, before, after, "tied"))

    def _is_tied(self, name: str, other: str, known: Container[str]) -> bool:
        """Whether a copy of ``other`` under another name is one that no loader takes for a third tensor.

        An ONNX exporter stores equal weights once, and its graph says who reads them.
        """
        if name != other and canonical(name) in known:
            return False
        return self.has_graph or may_be_tied(name, other)


def _shares(name: str, other: str) -> bool:
    return (names.is_head(name) and names.is_embedding(other)) or (names.is_embedding(name) and names.is_head(other))


def _relabel(pairs: Iterator[Pairing]) -> Iterator[Pairing]:
    for pair in pairs:
        label = pair.name if "[" in pair.name else pair.after.name
        yield Pairing(label, pair.before, pair.after, pair.how, pair.before_view, pair.after_view)


def _layouts(fused: tuple[int, ...], parts: Sequence[tuple[int, ...]]) -> list[list[View]]:
    """How a fused tensor may hold its parts one after another: along rows, along columns, or transposed along columns."""
    if any(len(part) != len(fused) for part in parts) or len(fused) not in (1, 2):
        return []
    if len(fused) == 1:
        return [_spans([part[0] for part in parts], "columns", False)] if sum(part[0] for part in parts) == fused[0] else []
    m, n = fused
    found = []
    if all(part[1] == n for part in parts) and sum(part[0] for part in parts) == m:
        found.append(_spans([part[0] for part in parts], "rows", False))
    if all(part[0] == m for part in parts) and sum(part[1] for part in parts) == n:
        found.append(_spans([part[1] for part in parts], "columns", False))
    if all(part[1] == m for part in parts) and sum(part[0] for part in parts) == n:
        found.append(_spans([part[0] for part in parts], "columns", True))
    return found


def _spans(sizes: Sequence[int], axis: str, transpose: bool) -> list[View]:
    spans = pairwise(accumulate(sizes, initial=0))
    return [View(rows=span, transpose=transpose) if axis == "rows" else View(columns=span, transpose=transpose) for span in spans]


def _is_constant(place: Place) -> bool:
    return place.tensor.size <= (INTEGER_CONSTANT if _is_integer(place) else CONSTANT)


def _is_integer(place: Place) -> bool:
    return place.tensor.dtype[0] in "IUB" and not place.tensor.dtype.startswith("BF")


def _unique(stems: Mapping[str, str]) -> dict[str, str]:
    """Stem to name, for the stems that only one name has."""
    seen: dict[str, list[str]] = {}
    for name, stem in stems.items():
        seen.setdefault(stem, []).append(name)
    return {stem: found[0] for stem, found in seen.items() if len(found) == 1}
