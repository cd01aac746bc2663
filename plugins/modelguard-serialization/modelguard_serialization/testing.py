"""For authors of readers: what the readers say of bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from modelguard import Artifact, ArtifactFile
from modelguard_serialization.detector import _look_through
from modelguard_serialization.reader import Look, Reader


def look_through(name: str, data: bytes, beside: Mapping[str, bytes] | None = None) -> tuple[Look, list[Reader]]:
    """What all readers find in a file called ``name`` that holds ``data``, and which of them took it; ``beside`` it lie other files."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = []
        for number, (path, content) in enumerate(sorted({**(beside or {}), name: data}.items())):
            local = root / str(number)
            local.write_bytes(content)
            files.append(ArtifactFile(path, local, len(content)))
        artifact = Artifact("model", "local:model", root, tuple(files))
        look = Look(artifact, lambda: None)
        file = artifact.file(name)
        assert file is not None
        return look, _look_through(file, look)
