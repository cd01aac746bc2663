"""What several test modules need and no fixture gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
