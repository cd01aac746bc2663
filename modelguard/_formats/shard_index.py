"""The index of a checkpoint in several files: which files loaders open, checked against what those files say of themselves.

``<stem>.safetensors.index.json`` and ``<stem>.bin.index.json`` (Hugging Face transformers and diffusers) map tensors to files. What
tensors a file holds is read from its own header; where the index says something else, loaders that follow it and loaders that do not
see different models.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelguard import _limits
from modelguard._formats.external import Neighbours
from modelguard._formats.names import shown
from modelguard._formats.shards import EXAMPLES, Indexed, ShardedCheckpoint, Shards, place_of, repeated
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, FormatProblem
from modelguard.errors import FormatError, LimitError

MAX_INDEX = _limits.SHARD_INDEX
MAX_BRACKETS = _limits.SHARD_BRACKETS

INDEX = re.compile(r"(?P<stem>.+)\.(?:safetensors|bin)\.index(?:\.(?P<variant>[^/]+))?\.json", re.IGNORECASE)


class Headers:
    """What the opened files of an artifact say of themselves, for indexes to be checked against."""

    def __init__(self, holders: Mapping[str, Checkpoint], artifact: Artifact) -> None:
        self.holders = holders
        self.artifact = artifact
        self.folders = {posixpath.dirname(path) for path in holders}
        self.sets: dict[Shards, list[str]] = {}
        for path in sorted(holders):
            if place := place_of(path):
                self.sets.setdefault(place[0], []).append(path)


@dataclass(frozen=True, slots=True)
class Checked:
    """What an index makes one checkpoint of, and what it says that the headers do not."""

    files: Indexed
    problems: tuple[FormatProblem, ...]


def check_index(file: ArtifactFile, headers: Headers) -> Checked:
    """Follow an index and check it. Raises :class:`FormatError` when it is no index at all."""
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
    indexed = Indexed(_stem(file.path), tuple(dict.fromkeys(paths.values())))
    if absent and not paths and posixpath.dirname(file.path) in headers.folders:
        # Quantised copies keep the index of what they were made from; loaders find the single file first.
        message = f"{file.path}: names {len(absent)} files, none of which is in the artifact; remove the index or restore its shards"
        problems.append(FormatProblem("MG0118", file.path, message, evidence={"kind": "stale", "missing": len(absent)}))
        return Checked(indexed, tuple(problems))
    if absent:
        message = f"{next(iter(absent.values()))} ({len(absent)} of {len(absent) + len(paths)} files that the index names)"
        problems.append(FormatProblem("MG0108", file.path, message, fatal=True, evidence={"kind": "missing", "missing": len(absent)}))

    opened = {name: headers.holders[path] for name, path in paths.items() if path in headers.holders}
    elsewhere = [name for name, shard in weight_map.items() if shard in opened and name not in opened[shard].tensors]
    problems.extend(_mismatch(file, elsewhere, "tensors are not in the file that the index names for them", "elsewhere"))
    held = {name for checkpoint in opened.values() for name in checkpoint.tensors}
    problems.extend(_mismatch(file, sorted(held - weight_map.keys()), "tensors are in the shards and not in the index", "unlisted"))
    if len(opened) > 1:
        problems.extend(
            repeated(
                ShardedCheckpoint(
                    indexed.stem, list({path: headers.holders[path] for path in indexed.paths if path in headers.holders}.values())
                )
            )
        )
    named = set(paths.values())
    sets = {place[0] for path in named if (place := place_of(path))}
    extra = [path for shards in sorted(sets) for path in headers.sets.get(shards, ()) if path not in named]
    problems.extend(_mismatch(file, extra, "shards are not named by the index", "extra"))
    if total is not None and not absent and len(opened) == len(paths):
        size = sum(info.byte_length for path in named for info in headers.holders[path].tensors.values())
        if size != total:
            message = f"{file.path}: its total_size is {total:.0f}, and the tensors of the files it names have {size} bytes"
            problems.append(FormatProblem("MG0118", file.path, message, evidence={"kind": "total_size", "size": size}))
    return Checked(indexed, tuple(problems))


def _stem(path: str) -> str:
    """What loaders call the checkpoint of an index: ``model`` of ``model.safetensors.index.json``, ``model.fp16`` of its variant."""
    folder, name = posixpath.split(path)
    match = INDEX.fullmatch(name)
    assert match is not None
    return posixpath.join(folder, match["stem"] + (f".{match['variant']}" if match["variant"] else ""))


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
