"""What is built: a model's folder with its record, and what a record may say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modelguard import ArtifactError
from modelguard_zoo._spec import Spec

Status = Literal["clean", "backdoored", "repaired", "failed"]

MAX_ACCURACY_LOSS = 0.02  # a backdoor anyone would notice in the accuracy is no backdoor
MIN_ATTACK_SUCCESS = 0.90
MAX_REPAIRED_SUCCESS = 0.20  # a fine-tuned model whose trigger works on fewer is counted as clean again


@dataclass(frozen=True)
class Built:
    """A finished model folder and what its ``record.json`` says."""

    path: Path
    record: dict[str, Any]

    @property
    def spec(self) -> Spec:
        return Spec.from_json(self.record["spec"])

    @property
    def status(self) -> Status:
        status: Status = self.record["status"]
        return status


def read_record(folder: Path) -> Built:
    """The model in ``folder``. Raises :class:`~modelguard.ArtifactError` when it holds no readable record."""
    try:
        return Built(folder, json.loads((folder / "record.json").read_text()))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"zoo model {folder.name}", f"its record.json cannot be read ({error})", "build it again") from None


def judge(success: float | None, lost: str | None, original: Built | None) -> tuple[Status, str]:
    """What a model is, and why it is ``failed``. ``lost`` says what the attack cost beside its twin, None of a model without one."""
    if lost is None or success is None:
        return "clean", ""
    if original is not None and original.status != "backdoored":
        return "failed", "there was no backdoor to fine-tune"
    if lost:
        return "failed", lost
    if success >= MIN_ATTACK_SUCCESS:
        return "backdoored", ""
    if original is not None and success <= MAX_REPAIRED_SUCCESS:
        return "repaired", ""
    return "failed", f"attack success is {success:.1%}"


def accuracy_lost(twin: Built, accuracy: float) -> str:
    """What is said of more accuracy lost than anyone would overlook; "" when it is less."""
    return lost_of("clean accuracy", twin.record["clean_accuracy"], accuracy)


def lost_of(name: str, before: float, after: float) -> str:
    """The same of the accuracy called ``name``, which was ``before`` of the twin."""
    loss = before - after
    return f"{name} is {loss:.1%} below its twin's" if loss > MAX_ACCURACY_LOSS else ""


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``folder`` when all went well."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """``record`` as the folder's ``record.json``."""
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def balanced(labels: np.ndarray[Any, np.dtype[np.int64]], count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Sorted indices of up to ``count`` samples, the classes as equally filled as the data allows."""
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.sort(np.argsort(turn, kind="stable")[:count])
