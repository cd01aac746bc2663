"""For authors of readers: what the readers say of bytes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from modelguard import Artifact, ArtifactFile
from modelguard_serialization._readers._table import every, recognising
from modelguard_serialization.blob import Blob
from modelguard_serialization.detector import _look_through
from modelguard_serialization.reader import Look, NotReadError, Reader


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
        whole = Blob(file.path, file.map()) if file.size else None
        return look, _look_through(whole, look) if whole is not None else []


def read_alone(reader: Reader, data: bytes, name: str = "model") -> Look | None:
    """What one reader finds in bytes that it recognises, members left alone; None where it does not recognise them.

    Raises whatever the reader raises, :class:`NotReadError` apart: a scan would only say that reading failed.
    """
    blob = Blob(name, memoryview(data))
    look = Look(Artifact("model", "local:model", Path(), ()), lambda: None)
    if not reader.recognise(blob):
        return None
    with contextlib.suppress(NotReadError):
        reader.read(blob, look)
    return look


def asking_all(blob: Blob) -> list[Reader]:
    """The readers that recognise ``blob``, of all. Raises AssertionError where the first look keeps one of them from being asked."""
    found = [reader for reader in every() if reader.recognise(blob)] if len(blob.data) else []
    chosen = recognising(blob)
    if chosen != found:
        what = [[reader.what for reader in readers] for readers in (found, chosen)]
        raise AssertionError(f"{blob.place!r}, which begins {blob.start[:64]!r}, is recognised as {what[0]}, of which are asked {what[1]}")
    return found
