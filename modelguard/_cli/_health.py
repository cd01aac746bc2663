"""What this machine can do for a scan, looked at and not guessed: a tiny model is scanned, and torch is asked in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard._policies.catalogue import detectors, provider, runner
from modelguard.detector import Capability

if TYPE_CHECKING:
    from modelguard._plugins import Registry

_TORCH = """
import json, torch
found = torch.cuda.is_available()
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if found else []
print(json.dumps({"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip or "cpu", "devices": names}))
"""
_TORCH_SECONDS = 120
_TINY = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: whether it is as it should be, what was seen, and what to do where it is not."""

    name: str
    well: bool
    seen: str
    remedy: str = ""


def checks(registry: Registry) -> Iterator[Check]:
    """What a scan stands on."""
    import modelguard

    yield Check(
        "modelguard", True, f"{modelguard.__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    )
    yield from _worker()
    yield from _torch(registry)
    yield _cache()
    for failure in registry.failures:
        yield Check("plugin", False, f"{failure.distribution} ({failure.name}) not loaded: {failure.reason}", "repair or uninstall it")


def _worker() -> Iterator[Check]:
    """A scan of one weight, start to end."""
    from modelguard._scanner.isolation import CONFINEMENTS
    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard._scanner.run import Silent
    from modelguard.report import Status

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        path.write_bytes(len(_TINY).to_bytes(8, "little") + _TINY + bytes(4))
        report = prepare(ScanArguments(target=path, detectors=("format-integrity",))).scan(Silent())
    bad = [item.reason for item in report.outcomes if item.status is not Status.COMPLETED]
    if report.failure or bad:
        yield Check("worker", False, report.failure or bad[0], "scans end without a verdict here; see the reason")
        return
    yield Check("worker", True, f"scanned a tiny model in {report.timings['total']:.1f} s")
    missing = sorted(set(CONFINEMENTS) - set(report.confinement))
    held = f"held by {', '.join(report.confinement) or 'nothing'}"
    remedy = "scan in a container or on a newer Linux; reports say what was in force" if missing else ""
    yield Check("confinement", not missing, held + (f"; not by {', '.join(missing)}" if missing else ""), remedy)


def _torch(registry: Registry) -> Iterator[Check]:
    if not registry.models:
        yield Check("models", False, "none can be run", f"install {runner()}")
        return
    if find_spec("torch") is None:
        yield Check("models", False, "torch is not installed", "install it")
        return
    try:
        ran = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False, cwd="/")
    except subprocess.TimeoutExpired:
        yield Check("models", False, f"torch was not imported within {_TORCH_SECONDS} s", "try `python -c 'import torch'`")
        return
    try:
        told: Mapping[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = ran.stderr.strip().splitlines()[-1:] or [f"exit status {ran.returncode}"]
        yield Check("models", False, f"torch cannot be imported: {last[0]}", "try `python -c 'import torch'`")
        return
    yield Check("models", True, f"torch {told['version']} (built for {told['built_for']}), onnxruntime {_onnxruntime()}")
    card = Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()
    if told["devices"]:
        yield Check("GPU", True, ", ".join(told["devices"]))
    elif card:
        yield Check("GPU", False, "this machine has one that torch cannot use", "install a torch built for it, and its driver")
    else:
        yield Check("GPU", True, "none; models run on the processor")


def _onnxruntime() -> str:
    """The version of whichever distribution brings the package."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "not installed"


def _cache() -> Check:
    from huggingface_hub import constants, get_token

    place = Path(constants.HF_HUB_CACHE).expanduser()
    there = next(path for path in (place, *place.parents) if path.exists())
    shown = place.as_posix().replace(Path.home().as_posix(), "~", 1)
    free = 0
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(there).free
    words = [shown, f"{free / 1e9:,.0f} GB free"]
    token = None
    with contextlib.suppress(Exception):
        token = get_token()
    words.append("a token for private models" if token else "no token, so public models only")
    if constants.HF_HUB_OFFLINE:
        words.append("offline (HF_HUB_OFFLINE)")
    writable = os.access(there, os.W_OK)
    return Check(
        "Hub cache", writable, ", ".join(words) + ("" if writable else "; cannot be written"), "" if writable else "set HF_HUB_CACHE"
    )


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether one detector can run here, and what a scan has to give it."""

    detector: str
    ready: bool
    needs: str


def readiness(registry: Registry) -> list[Readiness]:
    """Every detector that is installed or ours, by id."""
    found = [Readiness(name, *_needs(item.requires, registry)) for name, item in registry.detectors.items()]
    for name in sorted(set(detectors()) - set(registry.detectors)):
        found.append(Readiness(name, False, f"install {provider(name)}"))
    return sorted(found, key=lambda item: item.detector)


def _needs(requires: frozenset[Capability], registry: Registry) -> tuple[bool, str]:
    if requires & {Capability.FORWARD, Capability.GRADIENTS} and not registry.models:
        return False, f"install {runner()}"
    given = ["--reference"] if Capability.REFERENCE in requires else []
    given += ["--samples"] if Capability.SAMPLES in requires else []
    needs = ["a model that runs"] if requires & {Capability.FORWARD, Capability.GRADIENTS} else []
    return True, " and ".join(needs + given) or "any model"
