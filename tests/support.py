"""What several test modules need and no fixture gives."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

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


def tool(name: str) -> str | None:
    """Where a program is that this environment, or the system, has."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def make_venv(folder: Path, *distributions: Path) -> Path:
    """A virtual environment that sees this one's packages, with ``distributions`` pip-installed into it; returns its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    ours = sysconfig.get_paths()["purelib"]
    (site / "parent.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    for project in distributions:
        command = [sys.executable, "-m", "pip", "-q", "--python", str(python), "install", "--no-deps", "--no-build-isolation", "--no-index"]
        copied = shutil.copytree(project, folder / "source" / project.name)  # setuptools builds in the folder it is given
        subprocess.run([*command, str(copied)], check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    return python


def laid_out(folder: Path, *projects: Path) -> Path:
    """As :func:`make_venv`, with what pip would have installed written by hand: that takes no time."""
    python = make_venv(folder)
    site = next((folder / "lib").glob("python*/site-packages"))
    for project in projects:
        described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        name, version = described["name"], described["version"]
        shutil.copytree(project, site, dirs_exist_ok=True)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {value}" for key, value in described["entry-points"]["modelguard"].items()]
        (info / "entry_points.txt").write_text("\n".join(["[modelguard]", *lines, ""]))
    return python


def build_wheels(folder: Path) -> dict[str, Path]:
    """The wheel of every distribution of this repository by name, built as `make build` does, from a copy of the tree.

    Whoever comes first builds them; the others find them in ``folder``.
    """
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "dist").exists():
            _build_wheels(folder)
    return {path.name.split("-")[0].replace("_", "-"): path for path in sorted((folder / "dist").glob("*.whl"))}


def _build_wheels(folder: Path) -> None:
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("benchmarks/", "docs/", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    projects = [source, *sorted(path.parent for path in source.glob("plugins/*/pyproject.toml"))]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "dist")]
    subprocess.run([*command, *map(str, projects)], check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})


def fresh_venv(folder: Path, wheels: Iterable[Path], *more: str) -> Path:
    """A virtual environment with these wheels, what they declare to need (and ``more``), and nothing else; returns its python.

    What others wrote is linked from this environment instead of downloaded; what is ours comes from the wheels alone.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    command = [sys.executable, "-m", "pip", "-q", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*command, *map(str, wheels)], check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    needed = [
        line[15:]
        for path in site.glob("modelguard*.dist-info/METADATA")
        for line in path.read_text().splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    link_packages(site, [*needed, *more])
    return python


def link_packages(site: Path, requirements: Iterable[str]) -> None:
    """Link what ``requirements`` lead to, ours left out, from this environment into the folder ``site``."""
    for name in _closure(requirements):
        for top in {file.parts[0] for file in distribution(name).files or () if file.parts[0] not in ("..", "__pycache__")}:
            there = Path(str(distribution(name).locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(there)


def _closure(needed: Iterable[str]) -> set[str]:
    """Names of the distributions that requirements lead to, ours left out."""
    names: set[str] = set()
    waiting = [(Requirement(item), "") for item in needed]
    while waiting:
        requirement, extra = waiting.pop()
        name = requirement.name.lower()
        if name.startswith("modelguard-") or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen = name in names
        names.add(name)
        extras = requirement.extras or (set() if seen else {""})
        waiting += [(Requirement(item), wanted) for wanted in extras for item in distribution(name).requires or ()]
    return names
