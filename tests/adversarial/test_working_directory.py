"""``cd artifact && python -m modelguard scan .`` imports nothing of the artifact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelguard.testing import write_safetensors

MODULES = ("click", "dataclasses", "enum", "json", "numpy", "pluggy", "pydantic", "rich", "signal", "typing")
FIRST = ("contextlib", "importlib", "runpy")
"""What Python itself imports to find the module that -m names, before any code of ours runs."""


@pytest.mark.parametrize(("options", "modules"), [((), MODULES), (("-P",), (*MODULES, *FIRST))], ids=["as-it-is", "safe-path"])
def test_modules_beside_the_weights_are_not_imported(tmp_path: Path, options: tuple[str, ...], modules: tuple[str, ...]) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros(4, np.float32)})
    for name in modules:
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w')\nraise SystemExit(0)\n")
    ran = subprocess.run([sys.executable, *options, "-m", "modelguard", "scan", "."], cwd=tmp_path, capture_output=True, text=True)
    assert list(tmp_path.glob("ran-*")) == []
    assert ran.returncode == 1, ran.stderr
    assert "click.py: stands in the place of Python's module click" in " ".join(ran.stdout.split())


def test_another_programs_working_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text("import modelguard\n")
    (tmp_path / "tool" / "__main__.py").write_text("import beside\n")
    (tmp_path / "beside.py").write_text("print('found')\n")
    ran = subprocess.run([sys.executable, "-m", "tool"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout == "found\n", ran.stderr
