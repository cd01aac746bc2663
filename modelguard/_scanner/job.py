"""What the parent asks of a worker: one JSON line with the job, later one with the tasks, on the worker's standard input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from modelguard.artifact import Artifact
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
        return TypeAdapter(Job).dump_json(self).decode()

    @classmethod
    def parse(cls, text: str) -> Job:
        job: Job = TypeAdapter(Job).validate_json(text)
        return job


def dump_tasks(tasks: Sequence[Task]) -> str:
    return TypeAdapter(tuple[Task, ...]).dump_json(tuple(tasks)).decode()


def parse_tasks(text: str) -> tuple[Task, ...]:
    parsed: tuple[Task, ...] = TypeAdapter(tuple[Task, ...]).validate_json(text)
    return parsed


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
