"""From a model and samples to a folder with a guard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard import ModelError, Outcome, OutputError, Status, UsageError, scan
from modelguard_monitor.guard import GUARD, SAID

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCRIPTS = ("guard.py", "drift.py")


def make(target: str, samples: str, out: Path, options: Mapping[str, Any], **how: Any) -> dict[str, Any]:
    """Make a guard for the model ``target`` in the folder ``out``, which must not be there or be empty, and return its facts.

    ``options`` are those of :class:`~modelguard_monitor._fit.MakeGuard`, ``how`` those of :func:`modelguard.scan`. Raises
    :class:`~modelguard.UsageError` for wrong arguments and :class:`~modelguard.ModelError` where no guard can be made.
    """
    from modelguard_monitor._fit import MakeGuard

    refuse_taken(out)
    report = scan(target, samples=samples, detectors=[MakeGuard], options={MakeGuard.id: dict(options)}, **how)
    if report.failure:
        raise ModelError(target, report.failure)
    (outcome,) = report.outcomes
    facts, arrays = result(outcome, target)
    digests = {file.path: file.sha256 for file in report.target.files}
    assert report.samples is not None
    facts["samples"] |= {"origin": report.samples.origin, "sha256": report.samples.sha256}
    facts |= {"format": GUARD, "model": {"uri": report.target.uri, "files": digests}}
    write(out, facts, arrays)
    return facts


def refuse_taken(out: Path) -> None:
    """Raise :class:`~modelguard.UsageError` unless ``out`` can become a new folder: nothing is overwritten."""
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except (OSError, ValueError) as error:
        raise UsageError(f"-o {out}", f"cannot be read ({getattr(error, 'strerror', None) or error})", "name another folder") from error
    if taken:
        raise UsageError(f"-o {out}", "is there already", "name a folder that is not there; nothing is overwritten")


def write(out: Path, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the guard as the folder ``out``, whole or not at all. Raises :class:`~modelguard.OutputError`."""
    from safetensors.numpy import save

    from modelguard_monitor._onnx import graph

    files = {
        "guard.safetensors": save(dict(arrays), {"guard": json.dumps(facts, sort_keys=True)}),
        "guard.onnx": graph(facts, arrays),
        **{name: Path(__file__).with_name(name).read_bytes() for name in SCRIPTS},
    }
    part = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        part.mkdir(parents=True)
        try:
            for name, data in files.items():
                (part / name).write_bytes(data)
            part.rename(out)  # over an empty folder, never over a full one
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"-o {out}", f"cannot be written ({error.strerror or error})", "name another folder") from error


def result(outcome: Outcome, target: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float64]]]:
    """What the worker found. Raises :class:`~modelguard.ModelError` with the reason where it found nothing, or what is no guard."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if outcome.status is not Status.COMPLETED:
        raise ModelError(target, f"no guard was made: {outcome.reason or outcome.status.value}")
    parts = sorted(outcome.findings, key=lambda finding: int(finding.evidence["part"]))
    try:
        facts = dict(outcome.summary["guard"])
        arrays = load(b"".join(item.data for finding in parts for item in finding.attachments))
        expected = {"clean.class", *(f"clean.{name}" for name in facts["thresholds"])}
        if not expected <= arrays.keys() or not set(facts["thresholds"]) <= set(SAID):
            raise ValueError
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(target, "no guard was made: the worker sent what is none", "report it") from error
    return facts, arrays
