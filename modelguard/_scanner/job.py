"""What the parent asks of a worker: one JSON line with the job, later one with the tasks, on the worker's standard input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from modelguard.artifact import Artifact, ArtifactFile, FileStamp
from modelguard.errors import PluginError
from modelguard.model import ModelOptions


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may use: bytes of anonymous memory (None: unlimited), threads, and bytes it may write to one file."""

    memory: int | None
    threads: int
    file_size: int = 1 << 26


@dataclass(frozen=True, slots=True)
class Task:
    """One detector to run: ``ref`` is ``module:qualified name`` of its class."""

    detector: str
    ref: str
    options: Mapping[str, Any]
    timeout: float


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker opens, and how. ``formats`` and ``models`` are class references; tasks follow once the parent has planned."""

    artifact: Artifact
    reference: Artifact | None
    samples: Path | None
    model: ModelOptions
    formats: tuple[str, ...]
    models: tuple[str, ...]
    seed: int
    limits: Limits
    sys_path: tuple[str, ...] = field(default=())

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def parse(cls, text: str) -> Job:
        data = json.loads(text)
        return cls(
            artifact=_artifact(data["artifact"]),
            reference=_artifact(data["reference"]) if data["reference"] else None,
            samples=Path(data["samples"]) if data["samples"] else None,
            model=ModelOptions(**{**data["model"], "cwd": Path(data["model"]["cwd"]) if data["model"]["cwd"] else None}),
            formats=tuple(data["formats"]),
            models=tuple(data["models"]),
            seed=data["seed"],
            limits=Limits(**data["limits"]),
            sys_path=tuple(data["sys_path"]),
        )


def _artifact(data: dict[str, Any]) -> Artifact:
    """Rebuild an artifact from ``dataclasses.asdict`` of it; nested value classes are found by the shape of their fields."""
    files = tuple(
        ArtifactFile(
            path=item["path"],
            local=Path(item["local"]),
            size=item["size"],
            sha256=item["sha256"],
            stamp=FileStamp(**item["stamp"]) if item["stamp"] else None,
        )
        for item in data["files"]
    )
    known = {item.name for item in dataclasses.fields(Artifact)}
    rest = {name: value for name, value in data.items() if name in known - {"files", "root"}}
    return Artifact(**{**rest, "root": Path(data["root"]), "files": files})


def dump_tasks(tasks: Sequence[Task]) -> str:
    return json.dumps([dataclasses.asdict(task) for task in tasks])


def parse_tasks(text: str) -> tuple[Task, ...]:
    return tuple(Task(**task) for task in json.loads(text))


def reference_to(item: type) -> str:
    """``module:qualified name``, by which a worker imports a class again."""
    return f"{item.__module__}:{item.__qualname__}"


def resolve(ref: str) -> Any:
    """The object ``module:qualified name`` names. Raises :class:`PluginError` when it cannot be imported."""
    module, _, name = ref.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise PluginError(ref, f"cannot be imported in the worker ({type(error).__name__}: {error})", "reinstall the plugin") from error
    return found
