"""Checkpoints in several files: shards seen as one, and the index beside them, which is checked and never believed.

Shards are known by their names, ``<stem>-<number>-of-<count>.<extension>`` in one directory, and by their own headers. The
index (``<stem>.safetensors.index.json``, Hugging Face transformers and diffusers) says nothing that the headers do not say; where it
says something else, loaders that follow it and loaders that do not see different models.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelguard._formats.external import Neighbours
from modelguard._formats.names import shown
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, FormatProblem, TensorInfo
from modelguard.errors import FormatError, LimitError

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_INDEX = 1 << 26
MAX_BRACKETS = 1_000_000
"""Brackets and braces in an index: JSON builds an object for each, and an honest index has six."""

EXAMPLES = 3
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,9})-of-(?P<count>[0-9]{1,9})")
INDEX = re.compile(r".+\.safetensors\.index(?:\.[^/]+)?\.json", re.IGNORECASE)


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
    taken = {(checkpoint.name, checkpoint.format) for checkpoint in whole}
    problems: list[FormatProblem] = []
    for (stem, count, kind), numbered in sorted(sets.items()):
        numbered.sort(key=lambda item: (item[0], item[1].files))
        name = stem if (stem, kind) not in taken else f"{stem}-of-{count}"
        taken.add((name, kind))
        joined = ShardedCheckpoint(name, [shard for _, shard in numbered])
        whole.append(joined)
        problems.extend(_set_problems(stem, count, numbered, joined, artifact))
    return whole, problems


def _set_problems(
    stem: str, count: int, numbered: list[tuple[int, Checkpoint]], joined: ShardedCheckpoint, artifact: Artifact
) -> Iterator[FormatProblem]:
    first = numbered[0][1].files[0]
    # A shard that could not be opened is there, and has a problem of its own.
    present = {
        int(match["number"])
        for file in artifact.files
        if (match := _SHARD.fullmatch(posixpath.splitext(file.path)[0])) and match["stem"] == stem and int(match["count"]) == count
    } | {number for number, _ in numbered}
    base = 0 if 0 in present and count not in present else 1
    missing = count - sum(base <= number < base + count for number in present)
    if missing:
        examples: list[int] = []
        number = base
        while len(examples) < min(missing, EXAMPLES):
            if number not in present:
                examples.append(number)
            number += 1
        which = ", ".join(map(str, examples)) + (" ..." if missing > len(examples) else "")
        message = f"{first}: {missing} of the {count} shards of {shown(stem)} are missing (number {which}); download all of them"
        yield FormatProblem("MG0108", first, message, fatal=True, evidence={"kind": "missing", "missing": missing, "count": count})
    for number, shard in numbered:
        twice = sum(number == other for other, _ in numbered) > 1
        if twice or not base <= number < base + count:
            why = "another file has the same number" if twice else f"the set has {count}"
            message = f"{shard.files[0]}: is shard {number} of {shown(stem)}, and {why}; remove what does not belong to the set"
            yield FormatProblem("MG0108", shard.files[0], message, evidence={"kind": "extra", "number": number, "count": count})
    if joined.repeated:
        name, file = next(iter(joined.repeated.items()))
        message = (
            f"{file}: tensor {shown(name)} is in another shard too ({len(joined.repeated)} such tensors in the set), "
            "so loaders disagree on which one counts; export the model again"
        )
        yield FormatProblem("MG0107", file, message, tensor=name, evidence={"tensors": len(joined.repeated)})


def check_index(file: ArtifactFile, holders: Mapping[str, Checkpoint], artifact: Artifact) -> list[FormatProblem]:
    """What an index says that the headers do not. ``holders`` has the opened checkpoint of each file by path.

    Raises :class:`FormatError` when it is no index at all.
    """
    weight_map, total = _parse(file)
    neighbours = Neighbours(artifact, file.path)
    here = posixpath.dirname(file.path)
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
    if absent and not paths and any(posixpath.dirname(path) == here for path in holders):
        # Quantised copies keep the index of what they were made from; loaders find the single file first.
        message = f"{file.path}: names {len(absent)} files, none of which is in the artifact; remove the index or restore its shards"
        return [*problems, FormatProblem("MG0118", file.path, message, evidence={"kind": "stale", "missing": len(absent)})]
    if absent:
        message = f"{next(iter(absent.values()))} ({len(absent)} of {len(absent) + len(paths)} files that the index names)"
        problems.append(FormatProblem("MG0108", file.path, message, fatal=True, evidence={"kind": "missing", "missing": len(absent)}))

    elsewhere = [name for name, shard in weight_map.items() if _opened(shard, paths, holders) and not _has(name, holders[paths[shard]])]
    problems.extend(_mismatch(file, elsewhere, "tensors are not in the file that the index names for them", "elsewhere"))
    held = {name: path for path in paths.values() if path in holders for name in holders[path].tensors}
    problems.extend(_mismatch(file, sorted(set(held) - set(weight_map)), "tensors are in the shards and not in the index", "unlisted"))
    sets = {match["stem"] + match["count"] for path in paths.values() if (match := _shard_of(path))}
    extra = [path for path in sorted(holders) if (m := _shard_of(path)) and m["stem"] + m["count"] in sets and path not in paths.values()]
    problems.extend(_mismatch(file, extra, "shards are not named by the index", "extra"))
    if total is not None and not absent and all(path in holders for path in paths.values()):
        size = sum(info.byte_length for path in set(paths.values()) for info in holders[path].tensors.values())
        if size != total:
            message = f"{file.path}: its total_size is {total:.0f}, and the tensors of the files it names have {size} bytes"
            problems.append(FormatProblem("MG0118", file.path, message, evidence={"kind": "total_size", "size": size}))
    return problems


def _opened(shard: str, paths: Mapping[str, str], holders: Mapping[str, Checkpoint]) -> bool:
    return paths.get(shard) in holders


def _has(name: str, checkpoint: Checkpoint) -> bool:
    return name in checkpoint.tensors


def _shard_of(path: str) -> re.Match[str] | None:
    return _SHARD.fullmatch(posixpath.splitext(path)[0])


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
        raise FormatError(file.path, f"is no valid JSON ({why})", remedy, rule="MG0109") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise FormatError(file.path, "is an index without a weight_map from tensor names to file names", remedy, rule="MG0109")
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return weight_map, total if isinstance(total, int | float) and not isinstance(total, bool) else None
