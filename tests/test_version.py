"""One version for every distribution, stated once and stamped by scripts/version.py."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support import ROOT

import modelguard

PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_every_distribution_states_the_version_and_bounds_ours_by_it(path: Path) -> None:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    assert project["version"] == modelguard.__version__
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    ours = [item for group in groups for item in map(Requirement, group) if item.name.startswith("modelguard")]
    assert all(item.name == project["name"] or str(item.specifier) == f"~={modelguard.__version__}" for item in ours)


def test_nothing_requires_the_name_that_is_not_ours() -> None:
    for path in PROJECTS:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
        assert "modelguard" not in {Requirement(item).name for group in groups for item in group} | {project["name"]}


def test_the_check_finds_a_distribution_that_was_left_behind() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from version import stamped
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    head = '[project]\nname = "modelguard-x"\nversion = "{}"\n'
    text = head.format("0.0.1") + 'dependencies = ["modelguard-core~=0.0.1", "modelguard-zoo[train]>=1", "numpy"]\n'
    expected = head.format("0.2.0") + 'dependencies = ["modelguard-core~=0.2.0", "modelguard-zoo[train]~=0.2.0", "numpy"]\n'
    assert stamped(text, "0.2.0") == expected


def test_the_script_is_content() -> None:
    ran = subprocess.run([sys.executable, str(ROOT / "scripts" / "version.py")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
