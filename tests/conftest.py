"""Fixtures every test may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ran:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def mg(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the command line in this process (its workers are processes of their own)."""
    from modelguard._cli import run

    monkeypatch.setenv("COLUMNS", "100")

    def call(*argv: object) -> Ran:
        capfd.readouterr()
        code = run([str(item) for item in argv])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def make_venv(folder: Path, *distributions: Path) -> Path:
    """A virtual environment that sees this one's packages, with ``distributions`` pip-installed into it; returns its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    ours = sysconfig.get_paths()["purelib"]
    (site / "parent.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    for distribution in distributions:
        command = [sys.executable, "-m", "pip", "-q", "--python", str(python), "install", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*command, str(distribution)], check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    return python


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small safetensors checkpoint."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    folder.mkdir()
    rng = np.random.default_rng(0)
    save_file(
        {f"layers.{i}.weight": rng.normal(size=(16, 16)).astype(np.float32) for i in range(3)},
        folder / "model.safetensors",
    )
    return folder
