"""Checkpoints in several files, seen as one.

Which files belong together an index says (:mod:`modelguard._formats.shard_index`), because loaders open what it names and nothing
else. Without one, shards are known by their names, ``<stem>-<number>-of-<count>.<extension>`` in one directory.
"""

from __future__ import annotations

import copy
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelguard._formats.names import shown
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint, FormatProblem, Quantization, TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt

EXAMPLES = 3
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,9})-of-(?P<count>[0-9]{1,9})")


class ShardedCheckpoint(Checkpoint):
    """Several files seen as one checkpoint, in the order in which loaders read them.

    A tensor that two of them have is the last one's, as loaders have it that fill one dictionary file by file (transformers,
    accelerate, vLLM); the others are there as ``<name> (<file>)``.
    """

    def __init__(self, name: str, shards: Sequence[Checkpoint]) -> None:
        self.name = name
        self.format = shards[0].format
        self.files = tuple(file for shard in shards for file in shard.files)
        self._home: dict[str, tuple[Checkpoint, str]] = {}
        self.repeated: dict[str, str] = {}
        """Tensors that more than one shard has, with the file of one that does not count."""
        self._beside: set[str] = set()
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] = {}
        for shard in reversed(shards):
            for tensor, info in shard.tensors.items():
                key = tensor
                if key in tensors:
                    self.repeated[tensor] = info.file
                    while key in tensors:
                        key = f"{key} ({info.file})"
                    self._beside.add(key)
                    info = TensorInfo(key, info.dtype, info.shape, info.file, info.byte_offset, info.byte_length)
                tensors[key] = info
                self._home[key] = (shard, tensor)
            metadata |= shard.metadata
        self._tensors = MappingProxyType(dict(sorted(tensors.items())))
        self._metadata = MappingProxyType(metadata)

    def as_loaded(self) -> Checkpoint:
        """The checkpoint without the copies that a loader does not keep."""
        loaded = copy.copy(self)
        loaded._tensors = MappingProxyType({name: info for name, info in self._tensors.items() if name not in self._beside})
        return loaded

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def raw(self, name: str) -> memoryview:
        shard, inner = self._home[name]
        return shard.raw(inner)

    def read(self, name: str) -> npt.NDArray[Any]:
        shard, inner = self._home[name]
        return shard.read(inner)

    def quantization(self, name: str) -> Quantization | None:
        shard, inner = self._home[name]
        return shard.quantization(inner)


Shards = tuple[str, int]
"""What the shards of one set have in common: stem and count."""


def place_of(path: str) -> tuple[Shards, int] | None:
    """The set a file's name puts it in, and its number there."""
    match = _SHARD.fullmatch(posixpath.splitext(path)[0])
    return None if match is None else ((match["stem"], int(match["count"])), int(match["number"]))


@dataclass(frozen=True, slots=True)
class Indexed:
    """The files that an index makes one checkpoint of, as artifact-relative paths in the order in which loaders read them."""

    stem: str
    paths: tuple[str, ...]


def join_shards(
    holders: Mapping[str, Checkpoint], artifact: Artifact, indexes: Iterable[Indexed] = ()
) -> tuple[list[Checkpoint], list[FormatProblem]]:
    """The checkpoints of the opened files (``holders`` by path), those in several files as one; and what is wrong with the sets.

    A file belongs to the first index that names it.
    """
    return _Join(holders, artifact).run(indexes)


class _Join:
    def __init__(self, holders: Mapping[str, Checkpoint], artifact: Artifact) -> None:
        self.single = {path: item for path, item in holders.items() if len(item.files) == 1}
        self.whole = [item for path, item in holders.items() if path not in self.single]
        self.problems: list[FormatProblem] = []
        # A shard that could not be opened is there all the same, and has a problem of its own.
        self.listed: dict[Shards, set[int]] = {}
        for file in artifact.files:
            if place := place_of(file.path):
                self.listed.setdefault(place[0], set()).add(place[1])

    def run(self, indexes: Iterable[Indexed]) -> tuple[list[Checkpoint], list[FormatProblem]]:
        named = [(index, members) for index in indexes if (members := self._take(index))]
        sets: dict[tuple[str, int, str], list[tuple[int, Checkpoint]]] = {}
        for path, item in self.single.items():
            if (match := _SHARD.fullmatch(item.name)) is not None:
                sets.setdefault((match["stem"], int(match["count"]), item.format), []).append((int(match["number"]), self.single[path]))
            else:
                self.whole.append(item)
        for index, members in named:
            places = {place[0] for item in members if (place := place_of(item.files[0]))}
            stem, count = next(iter(places)) if len(places) == 1 else (index.stem, len(members))
            self._add(stem, count, members)
            for shards in sorted(places):
                ours = [(place[1], item) for item in members if (place := place_of(item.files[0])) and place[0] == shards]
                self.problems.extend(_missing(*shards, ours, self.listed.get(shards, set())))
        for (stem, count, _), numbered in sorted(sets.items()):
            numbered.sort(key=lambda item: (item[0], item[1].files))
            joined = self._add(stem, count, [shard for _, shard in numbered])
            present = self.listed.get((stem, count), set()) | {number for number, _ in numbered}
            self.problems.extend(_missing(stem, count, numbered, present))
            self.problems.extend(_surplus(stem, count, numbered, present))
            self.problems.extend(repeated(joined))
        return self.whole, self.problems

    def _take(self, index: Indexed) -> list[Checkpoint]:
        """The opened files of an index that no other has taken; none where it names a single file that is called what it is."""
        found = [path for path in index.paths if path in self.single]
        if len(index.paths) == 1 and (place_of(index.paths[0]) or posixpath.splitext(index.paths[0])[0] == index.stem):
            return []
        found = [path for path in found if self.single[path].format == self.single[found[0]].format]
        return [self.single.pop(path) for path in found]

    def _add(self, stem: str, count: int, shards: Sequence[Checkpoint]) -> ShardedCheckpoint:
        taken = {item.name for item in self.whole if item.format == shards[0].format}
        joined = ShardedCheckpoint(stem if stem not in taken else f"{stem}-of-{count}", shards)
        self.whole.append(joined)
        return joined


def _first_number(count: int, present: Collection[int]) -> int:
    return 0 if 0 in present and count not in present else 1


def _missing(stem: str, count: int, numbered: list[tuple[int, Checkpoint]], present: Collection[int]) -> Iterator[FormatProblem]:
    first, base = numbered[0][1].files[0], _first_number(count, present)
    missing = count - sum(base <= number < base + count for number in present)
    if missing:
        absent = (number for number in range(base, base + count) if number not in present)
        which = ", ".join(map(str, islice(absent, EXAMPLES))) + (" ..." if missing > EXAMPLES else "")
        message = f"{first}: {missing} of the {count} shards of {shown(stem)} are missing (number {which}); download all of them"
        yield FormatProblem("MG0108", first, message, fatal=True, evidence={"kind": "missing", "missing": missing, "count": count})


def _surplus(stem: str, count: int, numbered: list[tuple[int, Checkpoint]], present: Collection[int]) -> Iterator[FormatProblem]:
    """Shards beyond the number of the set, which only an index could make part of it."""
    base = _first_number(count, present)
    holders = Counter(number for number, _ in numbered)
    for number, shard in numbered:
        if holders[number] > 1 or not base <= number < base + count:
            why = "another file has the same number" if holders[number] > 1 else f"the set has {count}"
            message = (
                f"{shard.files[0]}: is shard {number} of {shown(stem)}, and {why}; restore the index that names it, or remove what does "
                "not belong to the set"
            )
            yield FormatProblem("MG0108", shard.files[0], message, evidence={"kind": "extra", "number": number, "count": count})


def repeated(joined: ShardedCheckpoint) -> Iterator[FormatProblem]:
    """That several files of one checkpoint have the same tensor."""
    if joined.repeated:
        name, other = next(iter(joined.repeated.items()))
        file = joined.tensors[name].file
        message = (
            f"{file}: tensor {shown(name)} is in {other} too ({len(joined.repeated)} such tensors in the set), so loaders disagree on "
            "which one counts; the last file's was looked at as the model's, export the model again"
        )
        yield FormatProblem("MG0107", file, message, tensor=name, evidence={"tensors": len(joined.repeated)})
