"""What is fuzzed: a target for every format, every module of readers of executable content, and every other place where hostile bytes
are parsed.

A target takes bytes. It may raise nothing: errors that the project raises on purpose are caught here, everything else is a crash.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from modelguard import Artifact, ArtifactFile, Format, ModelguardError, Target
from modelguard._formats.sniff import classify
from modelguard._plugins import load
from modelguard._policies.load import load_policy
from modelguard._reporters.json import report_from_json
from modelguard._sources.references import references
from modelguard.testing.checkpoints import open_target

Work = Callable[[bytes], None]
NAMES = (
    "model", "config.json", "model.py", "demo.ipynb", "chat_template.jinja", "hyperparams.yaml", "pyproject.toml", "requirements.txt",
    "run.sh", "model.onnx", "model.pb", "model.h5", "model.xml", "model.pt", "model.npy", "config.cfg", "config.pbtxt", "Modelfile",
    "model.msgpack", "model.pdmodel", "model.prototxt", "model.mlmodel", "model.safetensors", "model.params",
)  # fmt: skip


@cache
def _folder() -> Path:
    """A folder in memory where the system has one: every input is written to a file."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="modelguard-fuzz-", dir=shared if os.access(shared, os.W_OK) else None))


def _file(name: str, data: bytes) -> ArtifactFile:
    place = _folder() / name
    place.write_bytes(data)
    return ArtifactFile(name, place, len(data))


def _open(kind: type[Format], data: bytes) -> None:
    """Open the bytes as one format, and read every tensor that its header promises (of at most a megabyte)."""
    file = _file(f"model{kind.extensions[0]}", data)
    artifact = Artifact("fuzz", "local:fuzz", _folder(), (file,))
    with contextlib.suppress(ModelguardError):
        checkpoint, _ = kind().open(file, artifact)
        for name, info in checkpoint.tensors.items():
            if info.byte_length <= 1 << 20:
                checkpoint.read(name)
        checkpoint.graph()


def _whole(name: str, data: bytes) -> Target | None:
    """Open a folder with one file as a scan does."""
    for stale in _folder().iterdir():
        stale.unlink()
    _file(name, data)
    with contextlib.suppress(ModelguardError):
        return open_target(_folder())
    return None


def _classify(data: bytes) -> None:
    with contextlib.suppress(ModelguardError):
        classify(_file("fuzz", data))


def _index(data: bytes) -> None:
    _whole("model.safetensors.index.json", data)


def _references(data: bytes) -> None:
    with contextlib.suppress(ModelguardError):
        references(_file("model.safetensors.index.json", data))
        references(_file("model.onnx", data))


def _policy(data: bytes) -> None:
    with contextlib.suppress(ModelguardError):
        load_policy(_file("policy.yaml", data).local)


def _report(data: bytes) -> None:
    with contextlib.suppress(ModelguardError):
        report_from_json(data.decode("utf-8", "replace"))


def _read(readers: list[Any], read_alone: Callable[..., object], data: bytes) -> None:
    """Under one of the names that make readers look: the first byte picks it."""
    name = NAMES[data[0] % len(NAMES)] if data else NAMES[0]
    for reader in readers:
        read_alone(reader, data[1:], name)


@cache
def targets() -> dict[str, Work]:
    """Every target by its name."""
    found: dict[str, Work] = {
        "classify": _classify,
        "index": _index,
        "policy": _policy,
        "references": _references,
        "report": _report,
    }
    for item in load().formats.values():
        found[f"format-{item.id}"] = partial(_open, item)
    with contextlib.suppress(ImportError):
        from modelguard_serialization._readers._table import every
        from modelguard_serialization.testing import read_alone

        kinds: dict[str, list[Any]] = {}
        for reader in every():
            kinds.setdefault(type(reader).__module__.rpartition(".")[2].replace("_", "-"), []).append(reader)
        found |= {f"read-{kind}": partial(_read, readers, read_alone) for kind, readers in kinds.items()}
    return dict(sorted(found.items()))
