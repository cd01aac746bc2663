"""Small JSON files an artifact carries beside its weights. Untrusted: they describe, they never decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from modelguard import _limits
from modelguard.artifact import Artifact
from modelguard.checkpoint import Checkpoint
from modelguard.errors import ModelError

MAX_BYTES = _limits.CONFIGURATION


def artifact_json(artifact: Artifact, checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    """The object in ``name`` beside the checkpoint, else at the artifact's root; empty when there is none.

    Raises :class:`ModelError` when the file is there and is not a JSON object, or is too large.
    """
    folder = PurePosixPath(checkpoint.files[0]).parent if checkpoint.files else PurePosixPath()
    file = artifact.file((folder / name).as_posix()) or artifact.file(name)
    if file is None:
        return {}
    if file.size > MAX_BYTES:
        raise ModelError(file.path, f"has {file.size} bytes, {MAX_BYTES} are allowed", "it describes a model, and should be small")
    try:
        with file.open() as handle:
            value = json.loads(handle.read(MAX_BYTES + 1))
    except (ValueError, RecursionError) as error:
        raise ModelError(file.path, f"is not valid JSON ({type(error).__name__})", "repair it") from error
    if not isinstance(value, dict):
        raise ModelError(file.path, "is not a JSON object", "repair it")
    return value
