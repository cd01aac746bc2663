"""`modelguard plugins new` and `plugins check`, and the page that shows how a detector is written: all of it is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, Ran, make_venv, tool

from modelguard.testing import write_safetensors

Run = Callable[..., Ran]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def environment(python: Path, folder: Path) -> dict[str, str]:
    """The commands of the page, in the virtual environment that ``python`` is of."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    pip = f'exec {sys.executable} -m pip --python {python} "$@" --no-deps --no-build-isolation --no-index -q'
    for name, line in {
        "modelguard": f'exec {python} -c "from modelguard._cli import main; main()" "$@"',
        "pytest": f'exec {python} -m pytest -p no:cacheprovider "$@"',
        "pip": pip,
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PIP_ROOT_USER_ACTION": "ignore", "COLUMNS": "80"}


def run(line: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, shell=True, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_a_new_plugin_installs_passes_its_tests_and_keeps_the_contract(mg: Run, tmp_path: Path) -> None:
    made = mg("plugins", "new", "acme-outliers", "--out", tmp_path)
    assert (made.code, made.err) == (0, "")
    folder = tmp_path / "modelguard-acme-outliers"
    assert str(folder) in made.out
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    package = {"modelguard_acme_outliers/__init__.py", "modelguard_acme_outliers/detector.py"}
    assert files == {*package, "pyproject.toml", "README.md", "tests/test_detector.py", ".github/workflows/test.yml", ".gitignore"}
    assert not [path for path in folder.rglob("*") if path.is_file() and re.search(r"\[\[ |\{%", path.read_text())]
    env = environment(make_venv(tmp_path / "venv", folder), tmp_path)
    tested = run("pytest -q", folder, env)
    assert tested.returncode == 0, tested.stdout
    checked = run("modelguard plugins check acme-outliers", tmp_path, env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.findall(r"^  (\S+) +(\w+)", checked.stdout, re.MULTILINE) == [
        ("ok", name) for name in ("loads", "declaration", "looks", "repeats", "score", "deadline", "ends", "isolated")
    ]
    write_safetensors(tmp_path / "m" / "model.safetensors", {"w": np.full((4, 4), 1e6, np.float32)})
    (policy,) = re.findall(r"```yaml\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (tmp_path / "gate.yaml").write_text(policy)
    scanned = run("modelguard scan m -q --policy gate.yaml", tmp_path, env)
    assert scanned.returncode == 1, scanned.stdout + scanned.stderr
    assert "ACMEOUTLIERS-0001 w has a weight of 1e+06" in " ".join(scanned.stdout.split())


@pytest.mark.skipif(tool("ruff") is None, reason="ruff is not installed")
def test_a_new_plugin_is_formatted(mg: Run, tmp_path: Path) -> None:
    mg("plugins", "new", "acme-outliers", "--out", tmp_path)
    folder = tmp_path / "modelguard-acme-outliers"
    for command in ("check --select E,F,I,B,UP", "format --check"):
        ran = subprocess.run(
            [str(tool("ruff")), *command.split(), "--isolated", "."], cwd=folder, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["rome"], "plugin rome: modelguard itself has one of this name; choose another, such as acme-rome"),
        (["weight-diff"], "plugin weight-diff: modelguard itself has one of this name"),
        (["Bad Name"], "plugin Bad Name: is not a name; write lower-case words"),
        (["../x"], "plugin ../x: is not a name"),
        (["a{{b"], "plugin a{{b: is not a name"),
        (["x", "--prefix", "MG"], "--prefix MG: is modelguard's own (MG)"),
        (["x", "--prefix", "acme"], "--prefix acme: is not a prefix of rule ids"),
        (["there"], "modelguard-there: is there already; choose another name"),
    ],
)
def test_a_plugin_that_cannot_be_begun_is_a_usage_error(
    mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modelguard-there").mkdir()
    ran = mg("plugins", "new", *argv)
    assert (ran.code, ran.out) == (2, "")
    assert line in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["modelguard-there"]


def test_a_check_says_what_was_not_tried_and_is_no_success(mg: Run) -> None:
    ran = mg("plugins", "check", "rome-edit")
    assert ran.code == 3
    rows = re.findall(r"^  (\S+) +(\w+)", ran.out, re.MULTILINE)
    assert rows[:3] == [("ok", "loads"), ("ok", "declaration"), ("?", "looks")]
    assert {mark for mark, _ in rows[3:]} == {"?"}
    assert "skipped: no MLP projections were recognised" in " ".join(ran.out.split())


def test_a_check_can_be_made_on_a_model_of_ones_own(mg: Run, tiny_model: Path) -> None:
    rows = mg("plugins", "check", "weight-diff", "--on", tiny_model, "--reference", tiny_model, "--json").json
    assert {row["name"]: row["wrong"] for row in rows}["looks"] == ""
    assert mg("plugins", "check", "weight-diff", "--on", tiny_model).code == 3, "without a reference it has nothing to look at"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["nobody"], "plugin nobody: no plugin or detector that is installed is called so; `modelguard plugins` lists them"),
        (["runtime"], "plugin runtime: it brings no detector; there is nothing to check"),
        (["weight-diff", "--samples", "x.npz"], "--reference and --samples: go with a model; give --on MODEL as well"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(mg: Run, argv: list[str], line: str) -> None:
    ran = mg("plugins", "check", *argv)
    assert (ran.code, ran.out, ran.err) == (2, "", f"modelguard: error: {line}\n")


def test_a_broken_promise_is_named_in_the_table(mg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard._diff.detector import WeightDiff

    detect = WeightDiff.detect

    def silent(self: WeightDiff, target: object, context: object) -> object:
        yield from detect(self, target, context)  # type: ignore[arg-type]
        context._summary.pop("score")  # type: ignore[attr-defined]

    monkeypatch.setattr(WeightDiff, "detect", silent)
    ran = mg("plugins", "check", "weight-diff")
    assert ran.code == 1
    words = " ".join(ran.out.split())
    assert "WRONG score summary has a finite score: weight-diff gives the score None; call" in words
    assert words.count("WRONG") == 1


def test_a_plugin_that_does_not_load_is_checked_and_fails(mg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from modelguard import _plugins

    monkeypatch.setattr(_plugins, "entry_points", lambda group: [EntryPoint("broken", "no_such_module", group)])
    ran = mg("plugins", "check", "broken")
    assert ran.code == 1
    assert "WRONG  loads" in ran.out
    assert "No module named 'no_such_module'" in ran.out


def test_the_page_is_true(tmp_path: Path) -> None:
    """Every command of the page is run where it stands, every file is written where its first line says."""
    write_safetensors(tmp_path / "model" / "model.safetensors", {"w": np.ones((4, 4), np.float32)})
    write_safetensors(tmp_path / "dead" / "model.safetensors", {"w": np.zeros((4, 4), np.float32)})
    env, here, told = environment(make_venv(tmp_path / "venv"), tmp_path), tmp_path, ""
    for language, block in re.findall(r"^```(sh|python|yaml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if language != "sh":
            (here / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
            continue
        for line in block.splitlines():
            command, _, comment = line.partition(" #")
            if command.startswith("cd "):
                here = here / shlex.split(command)[1]
                continue
            expected = int(found[1]) if (found := re.match(r" exits ([0-3])", comment)) else 0
            ran = run(command, here, env)
            assert ran.returncode == expected, (command, ran.stdout, ran.stderr)
            told += ran.stdout
    assert "4 of 4 rows of w are zero" in " ".join(told.split())
    assert "dead-rows" in told


def test_the_readmes_plugin_installs_and_is_found(tmp_path: Path) -> None:
    section = README.split("## Write a detector\n")[1].split("\n## ")[0]
    folder = tmp_path / "modelguard-nan"
    for block in re.findall(r"^```(?:python|toml)\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        path = folder / block.split("\n", 1)[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    ran = run("modelguard plugins check nan", tmp_path, environment(make_venv(tmp_path / "venv", folder), tmp_path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "not-a-number" in ran.stdout
