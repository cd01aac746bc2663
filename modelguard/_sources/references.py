"""Which other files a file refers to: the shards of an index, the external data of an ONNX model.

A source must know this before any format opens the file, to bring (and hash) the neighbours of a single file, and to tell an
ONNX model's data from the many other large files of a repository. It is a hint about what to bring: the formats decide what
is right, and miss what was not brought.
"""

from __future__ import annotations

import json
import re

from modelguard import _limits
from modelguard._sources.paths import normal_path, unsafe_path
from modelguard.artifact import ArtifactFile

INDEX_LIMIT = _limits.REFERRING_INDEX
ONNX_LIMIT = _limits.REFERRING_ONNX
MAX_REFERENCES = _limits.REFERENCES

# One StringStringEntryProto {key: "location", value: ...}, as TensorProto.external_data holds it (onnx.proto, field tags 1 and 2),
# with the one- or two-byte length that a path below 16 KiB has.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x01-\x7f])", re.DOTALL)


def references(file: ArtifactFile) -> tuple[str, ...]:
    """Artifact-relative paths, relative to the file's own folder, that an index or ONNX file names; sorted, without unsafe ones.

    Empty for any other file. Raises :class:`~modelguard.errors.ArtifactError` when the file cannot be opened.
    """
    with file.open() as handle:
        head = handle.read(16)
    if file.path.lower().endswith(".json"):
        names = _index(file) if file.size <= INDEX_LIMIT else set()
    elif head[8:9] == b"{" or file.size > ONNX_LIMIT:  # a safetensors header begins at byte 8
        names = set()
    else:
        names = _external_data(file)
    return tuple(sorted(normal_path(name) for name in names if not unsafe_path(name)))[:MAX_REFERENCES]


def _index(file: ArtifactFile) -> set[str]:
    try:
        weight_map = json.loads(bytes(file.map()))["weight_map"]
        return {name for name in weight_map.values() if isinstance(name, str)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _external_data(file: ArtifactFile) -> set[str]:
    view = file.map()
    names: set[str] = set()
    for match in _LOCATION.finditer(view):
        length = match[1][0] if len(match[1]) == 1 else (match[1][0] & 0x7F) | match[1][1] << 7
        try:
            names.add(bytes(view[match.end() : match.end() + length]).decode("utf-8"))
        except UnicodeDecodeError:
            continue
        if len(names) > MAX_REFERENCES:
            break
    return names
