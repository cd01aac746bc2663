"""Checkpoints in several files: shards seen as one, and the index beside them, which is checked and never believed.

Shards are known by their names, ``<stem>-<number>-of-<count>.<extension>`` in one directory, and by their own headers. The
index (``<stem>.safetensors.index.json`` or ``<stem>.bin.index.json``, Hugging Face transformers and diffusers) says nothing that the
headers do not say; where it says something else, loaders that follow it and loaders that do not see different models.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelguard import _limits
from modelguard._formats.external import Neighbours
from modelguard._formats.names import shown
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, FormatProblem, Quantization, TensorInfo
from modelguard.errors import FormatError, LimitError

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_INDEX = _limits.SHARD_INDEX
MAX_BRACKETS = _limits.SHARD_BRACKETS

EXAMPLES = 3
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,9})-of-(?P<count>[0-9]{1,9})")
INDEX = re.compile(r".+\.(?:safetensors|bin)\.index(?:\.[^/]+)?\.json", re.IGNORECASE)


class ShardedCheckpoint(Checkpoint):
    """Several files seen as one checkpoint. A tensor that two shards have is there under its name and ``<name> (<file>)``."""

    def __init__(self, name: str, shards: Sequence[Checkpoint]) -> None:
        self.name = name
        self.format = shards[0].format
        self.files = tuple(file for shard in shards for file in shard.files)
        self._home: dict[str, tuple[Checkpoint, str]] = {}
        self.repeated: dict[str, str] = {}
        """Tensors that more than one shard has, with the file of the last of them."""
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] = {}
        for shard in shards:
            for tensor, info in shard.tensors.items():
                key = tensor
                if key in tensors:
                    self.repeated[tensor] = info.file
                    key = f"{tensor} ({info.file})"
                    info = TensorInfo(key, info.dtype, info.shape, info.file, info.byte_offset, info.byte_length)
                tensors[key] = info
                self._home[key] = (shard, tensor)
            metadata = {**shard.metadata, **metadata}
        self._tensors = MappingProxyType(dict(sorted(tensors.items())))
        self._metadata = MappingProxyType(metadata)

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


_Set = tuple[str, int]
"""What the shards of one set have in common: stem and count."""


def _place(path: str) -> tuple[_Set, int] | None:
    """The set a file's name puts it in, and its number there."""
    match = _SHARD.fullmatch(posixpath.splitext(path)[0])
    return None if match is None else ((match["stem"], int(match["count"])), int(match["number"]))


def join_shards(opened: Iterable[Checkpoint], artifact: Artifact) -> tuple[list[Checkpoint], list[FormatProblem]]:
    """``opened`` with every set of shards replaced by one checkpoint, and what is wrong with the sets."""
    whole: list[Checkpoint] = []
    sets: dict[tuple[str, int, str], list[tuple[int, Checkpoint]]] = {}
    for checkpoint in opened:
        match = _SHARD.fullmatch(checkpoint.name)
        if match is None or len(checkpoint.files) > 1:
            whole.append(checkpoint)
        else:
            sets.setdefault((match["stem"], int(match["count"]), checkpoint.format), []).append((int(match["number"]), checkpoint))
    # A shard that could not be opened is there all the same, and has a problem of its own.
    listed: dict[_Set, set[int]] = {}
    for file in artifact.files:
        if place := _place(file.path):
            listed.setdefault(place[0], set()).add(place[1])
    taken = {(checkpoint.name, checkpoint.format) for checkpoint in whole}
    problems: list[FormatProblem] = []
    for (stem, count, kind), numbered in sorted(sets.items()):
        numbered.sort(key=lambda item: (item[0], item[1].files))
        name = stem if (stem, kind) not in taken else f"{stem}-of-{count}"
        taken.add((name, kind))
        joined = ShardedCheckpoint(name, [shard for _, shard in numbered])
        whole.append(joined)
        present = listed.get((stem, count), set()) | {number for number, _ in numbered}
        problems.extend(_set_problems(stem, count, numbered, present))
        problems.extend(_repeated(joined))
    return whole, problems


def _set_problems(stem: str, count: int, numbered: list[tuple[int, Checkpoint]], present: set[int]) -> Iterator[FormatProblem]:
    first = numbered[0][1].files[0]
    base = 0 if 0 in present and count not in present else 1
    missing = count - sum(base <= number < base + count for number in present)
    if missing:
        absent = (number for number in range(base, base + count) if number not in present)
        which = ", ".join(map(str, islice(absent, EXAMPLES))) + (" ..." if missing > EXAMPLES else "")
        message = f"{first}: {missing} of the {count} shards of {shown(stem)} are missing (number {which}); download all of them"
        yield FormatProblem("MG0108", first, message, fatal=True, evidence={"kind": "missing", "missing": missing, "count": count})
    holders = Counter(number for number, _ in numbered)
    for number, shard in numbered:
        if holders[number] > 1 or not base <= number < base + count:
            why = "another file has the same number" if holders[number] > 1 else f"the set has {count}"
            message = f"{shard.files[0]}: is shard {number} of {shown(stem)}, and {why}; remove what does not belong to the set"
            yield FormatProblem("MG0108", shard.files[0], message, evidence={"kind": "extra", "number": number, "count": count})


def _repeated(joined: ShardedCheckpoint) -> Iterator[FormatProblem]:
    if joined.repeated:
        name, file = next(iter(joined.repeated.items()))
        message = (
            f"{file}: tensor {shown(name)} is in another shard too ({len(joined.repeated)} such tensors in the set), "
            "so loaders disagree on which one counts; export the model again"
        )
        yield FormatProblem("MG0107", file, message, tensor=name, evidence={"tensors": len(joined.repeated)})


class Headers:
    """What the opened files of an artifact say of themselves, for indexes to be checked against."""

    def __init__(self, holders: Mapping[str, Checkpoint], artifact: Artifact) -> None:
        self.holders = holders
        self.artifact = artifact
        self.folders = {posixpath.dirname(path) for path in holders}
        self.sets: dict[_Set, list[str]] = {}
        for path in sorted(holders):
            if place := _place(path):
                self.sets.setdefault(place[0], []).append(path)


def check_index(file: ArtifactFile, headers: Headers) -> list[FormatProblem]:
    """What an index says that the headers do not. Raises :class:`FormatError` when it is no index at all."""
    weight_map, total = _parse(file)
    neighbours = Neighbours(headers.artifact, file.path)
    problems: list[FormatProblem] = []
    paths: dict[str, str] = {}
    absent: dict[str, FormatError] = {}
    for name in sorted(set(weight_map.values())):
        try:
            paths[name] = neighbours.resolve(name, file.path).path
        except FormatError as error:
            if error.rule == "MG0110":
                problems.append(FormatProblem(error.rule, file.path, str(error), evidence={"kind": name[:200]}))
            else:
                absent[name] = error
    if absent and not paths and posixpath.dirname(file.path) in headers.folders:
        # Quantised copies keep the index of what they were made from; loaders find the single file first.
        message = f"{file.path}: names {len(absent)} files, none of which is in the artifact; remove the index or restore its shards"
        return [*problems, FormatProblem("MG0118", file.path, message, evidence={"kind": "stale", "missing": len(absent)})]
    if absent:
        message = f"{next(iter(absent.values()))} ({len(absent)} of {len(absent) + len(paths)} files that the index names)"
        problems.append(FormatProblem("MG0108", file.path, message, fatal=True, evidence={"kind": "missing", "missing": len(absent)}))

    opened = {name: headers.holders[path] for name, path in paths.items() if path in headers.holders}
    elsewhere = [name for name, shard in weight_map.items() if shard in opened and name not in opened[shard].tensors]
    problems.extend(_mismatch(file, elsewhere, "tensors are not in the file that the index names for them", "elsewhere"))
    held = {name for checkpoint in opened.values() for name in checkpoint.tensors}
    problems.extend(_mismatch(file, sorted(held - weight_map.keys()), "tensors are in the shards and not in the index", "unlisted"))
    named = set(paths.values())
    sets = {place[0] for path in named if (place := _place(path))}
    extra = [path for shards in sorted(sets) for path in headers.sets.get(shards, ()) if path not in named]
    problems.extend(_mismatch(file, extra, "shards are not named by the index", "extra"))
    if total is not None and not absent and len(opened) == len(paths):
        size = sum(info.byte_length for path in named for info in headers.holders[path].tensors.values())
        if size != total:
            message = f"{file.path}: its total_size is {total:.0f}, and the tensors of the files it names have {size} bytes"
            problems.append(FormatProblem("MG0118", file.path, message, evidence={"kind": "total_size", "size": size}))
    return problems


def _mismatch(file: ArtifactFile, names: list[str], cause: str, kind: str) -> list[FormatProblem]:
    if not names:
        return []
    examples = ", ".join(shown(name) for name in names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
    message = f"{file.path}: {len(names)} {cause} ({examples}), so loaders disagree on the model; export it again"
    return [FormatProblem("MG0109", file.path, message, evidence={"kind": kind, "count": len(names)})]


def _parse(file: ArtifactFile) -> tuple[dict[str, str], float | None]:
    """The weight map of an index and its total size."""
    remedy = "export the model again, or remove the index"
    if file.size > MAX_INDEX:
        raise LimitError(file.path, f"is an index of {file.size} bytes, and {MAX_INDEX} are the limit", remedy, rule="MG0104")
    data = bytes(file.map())
    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise LimitError(file.path, f"is an index with more than {MAX_BRACKETS} brackets", remedy, rule="MG0104")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError(file.path, "is an index with a key that occurs twice, so parsers disagree on it", remedy, rule="MG0107")
        return found

    try:
        index = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise FormatError(file.path, f"is not valid JSON ({why})", remedy, rule="MG0109") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise FormatError(file.path, "is an index without a weight_map from tensor names to file names", remedy, rule="MG0109")
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return weight_map, total if isinstance(total, int | float) and not isinstance(total, bool) else None
