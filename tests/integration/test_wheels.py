"""What a user gets: the wheels of `make build`, installed into an environment that has nothing else."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from support import ROOT, fresh_venv

from modelguard.testing import write_onnx_cnn, write_safetensors


@pytest.fixture(scope="module")
def core(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh_venv(tmp_path_factory.mktemp("core") / "env", [wheels["modelguard-core"]])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model.onnx`` and ``weights.safetensors``, and copies of both in ``edited`` with other weights."""
    import numpy as np

    folder = tmp_path_factory.mktemp("models")
    for place, seed in ((folder, 0), (folder / "edited", 1)):
        write_onnx_cnn(place / "model.onnx", seed=seed)
        write_safetensors(place / "weights.safetensors", {"w": np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)})
    return folder


def run(python: Path, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-m", "modelguard", *argv], capture_output=True, text=True, check=False, cwd=cwd)


def test_every_wheel_carries_the_licence_and_one_version(wheels: dict[str, Path]) -> None:
    projects = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")} | {"modelguard-core"}
    assert set(wheels) == projects
    assert len({path.name.split("-")[1] for path in wheels.values()}) == 1
    for path in wheels.values():
        with zipfile.ZipFile(path) as wheel:
            assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist()), path.name


def test_the_core_brings_what_its_commands_write(core: Path, tmp_path: Path) -> None:
    assert run(core, tmp_path, "policy", "init").returncode == 0
    assert run(core, tmp_path, "policy", "validate", "modelguard-policy.yaml").returncode == 0
    assert run(core, tmp_path, "plugins", "new", "acme").returncode == 0
    assert (tmp_path / "modelguard-acme" / "pyproject.toml").is_file()
    checked = run(core, tmp_path, "plugins", "check", "weight-diff")
    assert checked.returncode == 2, "onnx comes with modelguard-core[testing]"
    assert checked.stderr.startswith("modelguard: error: plugins check: writes its tiny model with onnx, which is not installed")
    assert run(core, tmp_path, "plugins", "check", "weight-forensics", "--on", ".").returncode == 2, "no such detector"


def test_the_core_alone_has_no_torch_and_no_plugin(core: Path, tmp_path: Path) -> None:
    unwanted = ("torch", "onnxruntime", "onnx", "modelguard_runtime", "modelguard_abs")
    probe = f"import importlib.util as u; print([name for name in {unwanted} if u.find_spec(name)])"
    ran = subprocess.run([core, "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors"])
def test_the_core_alone_scans_and_diffs(core: Path, models: Path, name: str) -> None:
    scanned = run(core, models, "scan", name, "-q")
    assert scanned.returncode == 0, scanned.stdout + scanned.stderr
    assert scanned.stdout.startswith(f"PASS  {name}")
    same = run(core, models, "diff", name, name, "-q")
    assert same.returncode == 0, same.stdout + same.stderr
    assert "IDENTICAL" in same.stdout.splitlines()[0]
    changed = run(core, models, "diff", name, f"edited/{name}", "-q")
    assert "IDENTICAL" not in changed.stdout.splitlines()[0], changed.stdout + changed.stderr


def test_the_core_alone_says_what_a_model_needs_to_run(core: Path, models: Path) -> None:
    ran = run(core, models, "model", "model.onnx", "-q")
    assert ran.returncode == 3
    assert "modelguard-runtime" in ran.stdout


def test_with_the_runtime_a_model_runs(wheels: dict[str, Path], models: Path, tmp_path: Path) -> None:
    python = fresh_venv(tmp_path / "env", [wheels["modelguard-core"], wheels["modelguard-runtime"]])
    ran = run(python, models, "model", "model.onnx", "--threads", "1", "-q")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "runs and can be differentiated" in ran.stdout.splitlines()[0]
