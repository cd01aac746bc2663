"""action.yml: its steps are run as a runner would run them, with ordinary and with hostile inputs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file, save_file
from support import ROOT, tool

ACTION: dict[str, Any] = YAML(typ="safe").load(ROOT / "action.yml")
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
KEY, INSTALL, SCAN = [step for step in STEPS if "run" in step]
HOSTILE = [
    "$(touch pwned)", "`touch pwned`", '"; touch pwned; "', "'; touch pwned; '", "a\ntouch pwned", "x\nverdict=pass", "| touch pwned",
    "--help", "-h",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    code: int
    err: str
    outputs: Mapping[str, str]
    summary: str


@pytest.fixture
def work(tmp_path: Path, tiny_model: Path) -> Path:
    """A workspace with ``clean``, ``tampered`` and ``original`` models, and a modelguard where the install step would put it."""
    work = tmp_path / "work"
    for name in ("clean", "tampered", "original"):
        shutil.copytree(tiny_model, work / name)
    tensors = load_file(tiny_model / "model.safetensors")
    tensors["layers.1.weight"] = tensors["layers.1.weight"] + np.outer(np.ones(16), np.linspace(0, 1, 16)).astype(np.float32)
    save_file(tensors, work / "tampered" / "model.safetensors")
    installed = tmp_path / "runner" / "modelguard" / "bin"
    installed.mkdir(parents=True)
    (installed / "python").symlink_to(sys.executable)
    program = installed / "modelguard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from modelguard._cli import main; main()" "$@"\n')
    program.chmod(0o755)
    return work


def run(step: Mapping[str, Any], work: Path, inputs: Mapping[str, str] | None = None, **extra: str) -> Done:
    """The step's script, as a runner starts it: expressions only in its environment, ``bash -e`` on a file."""
    given = {name: str(item.get("default", "")) for name, item in ACTION["inputs"].items()} | dict(inputs or {})
    context = {"github.action_path": str(ROOT)} | {f"inputs.{name}": value for name, value in given.items()}
    environment = {
        name: re.sub(r"\$\{\{ (\S+) \}\}", lambda match: context[match[1]], value) for name, value in step.get("env", {}).items()
    }
    runner = work.parent / "runner"
    runner.mkdir(exist_ok=True)
    outputs, summary, script = runner / "output", runner / "summary", runner / "script.sh"
    outputs.write_text("")
    summary.write_text("")
    script.write_text(step["run"])
    files = {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary), "RUNNER_TEMP": str(runner)}
    base = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG") or name.startswith("COVERAGE")}
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
    ran = subprocess.run(
        command,
        cwd=work,
        env={**base, **environment, **files, **extra},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    lines = [line.partition("=") for line in outputs.read_text().splitlines()]
    assert all(equals for _, equals, _ in lines)
    return Done(ran.returncode, ran.stderr, {name: value for name, _, value in lines}, summary.read_text())


def test_no_input_is_interpolated_into_a_script() -> None:
    for step in STEPS:
        assert "${{" not in step.get("run", "")
    text = (ROOT / "action.yml").read_text()
    used = {name for name in ACTION["inputs"] if f"inputs.{name} " in text or f"inputs.{name})" in text}
    assert used == set(ACTION["inputs"]), "every input is used"


def test_what_it_uses_is_pinned_to_a_commit() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in used)


def test_every_output_comes_from_a_step_that_writes_it(work: Path) -> None:
    done = run(SCAN, work, {"target": "clean"})
    for name, item in ACTION["outputs"].items():
        match = re.fullmatch(r"\$\{\{ steps\.scan\.outputs\.([\w-]+) \}\}", item["value"])
        assert match is None or match[1] in done.outputs, name
        if match is None:
            assert (work / item["value"].replace("${{ inputs.output-dir }}", "modelguard-report")).is_file(), name


def test_a_clean_model_passes_and_a_tampered_one_fails_the_job(work: Path) -> None:
    done = run(SCAN, work, {"target": "clean", "reference": "original"})
    assert (done.code, done.outputs["verdict"], done.outputs["exit-code"], done.outputs["blocking"]) == (0, "pass", "0", "0")
    assert done.summary.startswith("## PASS: clean")
    done = run(SCAN, work, {"target": "tampered", "reference": "original"})
    assert (done.code, done.outputs["verdict"], done.outputs["exit-code"]) == (1, "block", "1")
    assert int(done.outputs["findings"]) > 0
    assert int(done.outputs["blocking"]) > 0
    assert int(done.outputs["not-looked-at"]) > 0
    assert done.summary.startswith("## BLOCKED: tampered")
    known = run(
        SCAN,
        work,
        {"target": "tampered", "reference": "original", "baseline": "old.json"} | {"output-dir": "again"} | {"policy": "builtin:baseline"},
    )
    assert (known.code, known.outputs["verdict"]) == (2, "error"), "old.json is not there"
    shutil.copy(work / "modelguard-report" / "report.json", work / "old.json")
    known = run(SCAN, work, {"target": "tampered", "reference": "original", "baseline": "old.json"})
    assert (known.code, known.outputs["verdict"]) == (0, "pass")


def test_a_report_from_before_does_not_speak_for_a_scan_that_made_none(work: Path) -> None:
    assert run(SCAN, work, {"target": "clean"}).outputs["verdict"] == "pass"
    done = run(SCAN, work, {"target": "nowhere"})
    assert (done.code, done.outputs["verdict"], done.outputs["exit-code"], done.summary) == (2, "error", "2", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, value) for name in ("target", "policy") for value in HOSTILE), *(("output-dir", HOSTILE[at]) for at in (0, 5, 7))],
)
def test_hostile_inputs_are_only_text(work: Path, name: str, value: str) -> None:
    done = run(SCAN, work, {"target": "clean", name: value})
    assert not list(work.parent.rglob("pwned"))
    if name == "output-dir":
        assert (done.code, done.outputs["verdict"]) == (0, "pass")
        assert (work / value / "report.json").is_file()
    else:
        assert (done.code, done.outputs["verdict"]) == (2, "error"), done.err
    assert set(done.outputs) == {"exit-code", "verdict", "findings", "blocking", "not-looked-at"}


def test_names_in_a_model_write_no_outputs_and_no_markup(work: Path) -> None:
    name = "x\nverdict=pass\n```\n# [click](http://evil)\n::set-output name=verdict::pass"
    save_file({name: np.full((4, 4), np.nan, np.float32)}, work / "clean" / "other.safetensors")
    done = run(SCAN, work, {"target": "clean", "reference": "original"})
    assert done.code == 1
    assert done.outputs["verdict"] == "block"
    shown = re.sub("`[^`]*`", "", re.sub(r"\\.", "", done.summary))
    assert "](" not in shown, "no link outside code"
    assert not re.search(r"^(# |```)", done.summary, re.MULTILINE)
    assert "::set-output" not in done.summary


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_extras_are_refused(work: Path, value: str) -> None:
    done = run(INSTALL, work, {"extras": value})
    assert done.code == 2
    assert "is none of serialization" in done.err
    assert not list(work.parent.rglob("pwned"))


def test_the_cache_is_keyed_by_what_is_installed(work: Path) -> None:
    first, second = run(KEY, work, {"extras": "all"}), run(KEY, work, {"extras": "runtime"})
    assert first.outputs["constraints"] != second.outputs["constraints"]
    assert re.fullmatch("[0-9a-f]{16}", first.outputs["constraints"])


@pytest.fixture
def dist(wheels: dict[str, Path], tmp_path: Path) -> Path:
    """A folder as `make build` leaves it, with one wheel too many."""
    folder = tmp_path / "dist"
    folder.mkdir()
    lines = []
    for path in wheels.values():
        shutil.copy(path, folder)
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    (folder / "evil-1.0-py3-none-any.whl").write_bytes(b"not listed, so not installed")
    return folder


OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
PYTHON3 = """#!/bin/sh
{python} "$@" || exit $?
[ "$2" = venv ] && cd {tests} && exec {python} -c "
import sys, pathlib, tomllib, support
core = tomllib.loads((support.ROOT / 'pyproject.toml').read_text())['project']['dependencies']
support.link_packages(next(pathlib.Path(sys.argv[1]).glob('lib/*/site-packages')), core)" "$3"
exit 0
"""
"""A python3 whose virtual environments have what others wrote already: no index is asked."""


def install(work: Path, inputs: Mapping[str, str]) -> Done:
    shutil.rmtree(work.parent / "runner")
    shim = work.parent / "bin" / "python3"
    shim.parent.mkdir()
    shim.write_text(PYTHON3.format(python=sys.executable, tests=ROOT / "tests"))
    shim.chmod(0o755)
    return run(INSTALL, work, inputs, **OFFLINE, PATH=f"{shim.parent}:{os.environ['PATH']}")


def installed(work: Path) -> set[str]:
    return {path.name.split("-")[0] for path in (work.parent / "runner").glob("modelguard/lib/*/site-packages/modelguard*.dist-info")}


def test_wheels_are_installed_once_their_digests_are_checked(work: Path, dist: Path) -> None:
    digest = hashlib.sha256((dist / "SHA256SUMS").read_bytes()).hexdigest()
    done = install(work, {"wheels": str(dist), "extras": "edits serialization", "sha256sums": digest})
    assert done.code == 0, done.err
    assert installed(work) == {"modelguard_core", "modelguard_rome", "modelguard_serialization"}
    scanned = run(SCAN, work, {"target": "clean"})
    assert (scanned.code, scanned.outputs["verdict"]) == (0, "pass"), scanned.err
    report = json.loads((work / "modelguard-report" / "report.json").read_text())
    assert "modelguard-rome" in {item["name"] for item in report["plugins"]}


def test_a_wheel_that_was_changed_is_not_installed(work: Path, dist: Path) -> None:
    core = next(dist.glob("modelguard_core-*.whl"))
    core.write_bytes(core.read_bytes() + b"\0")
    assert install(work, {"wheels": str(dist), "extras": ""}).code != 0
    assert installed(work) == set()


def test_a_list_of_digests_that_was_changed_is_not_believed(work: Path, dist: Path) -> None:
    assert install(work, {"wheels": str(dist), "extras": "", "sha256sums": "0" * 64}).code != 0
    assert installed(work) == set()


RECORDING = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\nprintf "%%s\\\\n" "$@" >> "{told}"\\n' | tee "$3/bin/python" > "$3/bin/modelguard"
chmod +x "$3/bin/python" "$3/bin/modelguard"
"""


@pytest.mark.parametrize(
    ("extras", "plugins"),
    [("", set()), ("edits", {"rome"}), ("serialization runtime", {"serialization", "runtime"}), ("all", {"abs", "rome", "zoo"})],
)
def test_without_wheels_it_is_built_from_the_commit_that_is_used(work: Path, extras: str, plugins: set[str]) -> None:
    told, shim = work.parent / "told", work.parent / "bin" / "python3"
    shim.parent.mkdir()
    shim.write_text(RECORDING.format(told=told))
    shim.chmod(0o755)
    shutil.rmtree(work.parent / "runner")
    done = run(INSTALL, work, {"extras": extras}, PATH=f"{shim.parent}:{os.environ['PATH']}")
    assert done.code == 0, done.err
    words = told.read_text().split()
    assert words[: words.index("-c")] == ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    assert words[words.index("-c") + 1] == str(ROOT / "constraints.txt")
    projects = [Path(word) for word in words[words.index("-c") + 2 :] if word != "--version"]
    assert projects[0] == ROOT
    assert all((path / "pyproject.toml").is_file() for path in projects)
    found = {path.name.removeprefix("modelguard-") for path in projects[1:]}
    assert plugins <= found
    assert plugins == found or extras == "all"


@pytest.mark.skipif(tool("shellcheck") is None, reason="shellcheck is not installed")
def test_its_scripts_are_clean_shell(tmp_path: Path) -> None:
    for number, step in enumerate((KEY, INSTALL, SCAN)):
        path = tmp_path / f"{number}.sh"
        path.write_text(f"#!/usr/bin/env bash\n{step['run']}")
        ran = subprocess.run([str(tool("shellcheck")), str(path)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout
