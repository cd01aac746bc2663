"""Plugins that misbehave in every way end in a documented exit code and take no finding with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, laid_out

DETECTORS = [
    "faulty-raises", "faulty-slow", "faulty-exits", "faulty-system-exit", "faulty-killed", "faulty-allocates", "faulty-undeclared",
    "faulty-non-finite", "faulty-scoreless", "faulty-garbage", "faulty-impostor", "faulty-flood", "faulty-long-line", "faulty-chatty",
    "faulty-escapes", "faulty-fine", "faulty-hangs",
]  # fmt: skip
EXPECTED = {
    "faulty-raises": ("errored", "ValueError at detectors.py", "the dog ate the tensor"),
    "faulty-slow": ("timed-out", "raise --timeout"),
    "faulty-hangs": ("timed-out", "was stopped"),
    "faulty-exits": ("errored", "exited with status 0 before it was done"),
    "faulty-system-exit": ("errored", "exited with status 0 before it was done"),
    "faulty-killed": ("errored", "killed by SIGKILL"),
    "faulty-allocates": ("errored", "memory", "--memory"),
    "faulty-undeclared": ("errored", "undeclared rule FAULTY-0999", "FAULTY-0001"),
    "faulty-non-finite": ("errored", "evidence.ratio is nan"),
    "faulty-scoreless": ("errored", "`score`"),
    "faulty-garbage": ("errored", "answer pipe"),
    "faulty-impostor": ("errored", "format-integrity"),
    "faulty-flood": ("errored", "more than 10000 findings"),
    "faulty-long-line": ("errored", "more than 32 MiB"),
    "faulty-chatty": ("completed",),
    "faulty-escapes": ("completed",),
    "faulty-fine": ("completed",),
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid_out(tmp_path_factory.mktemp("venv") / "env", ROOT / "tests" / "plugins" / "faulty")


def scan(python: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-m", "modelguard", "scan", *map(str, argv)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report(python: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One scan in which every detector misbehaves; each must cost only itself."""
    folder = tmp_path_factory.mktemp("out")
    path, policy = folder / "r.json", folder / "p.yaml"
    policy.write_text("version: 1\nname: p\nextends: [builtin:baseline]\ndetectors: {timeouts: {faulty-slow: 1s, faulty-hangs: 1s}}\n")
    chosen = [word for name in DETECTORS for word in ("--detector", name)]
    ran = scan(python, tiny_model, *chosen, "--policy", policy, "--memory", "1G", "-q", "-o", f"json={path}")
    assert ran.returncode == 3, ran.stdout + ran.stderr
    data: dict[str, Any] = json.loads(path.read_text())
    return data


@pytest.mark.parametrize("name", DETECTORS)
def test_each_fault_has_its_outcome_and_names_its_cause(report: dict[str, Any], name: str) -> None:
    outcome = next(item for item in report["outcomes"] if item["detector"] == name)
    status, *words = EXPECTED[name]
    assert outcome["status"] == status, outcome["reason"]
    for word in words:
        assert word in outcome["reason"]


@pytest.mark.parametrize("name", DETECTORS)
def test_no_finding_already_made_is_lost(report: dict[str, Any], name: str) -> None:
    outcome = next(item for item in report["outcomes"] if item["detector"] == name)
    assert any(finding["message"] in (f"{name} looked", "looked") for finding in outcome["findings"])


def test_a_finding_with_bad_evidence_is_kept_without_the_number(report: dict[str, Any]) -> None:
    outcome = next(item for item in report["outcomes"] if item["detector"] == "faulty-non-finite")
    evidence = next(finding["evidence"] for finding in outcome["findings"] if finding["evidence"])
    assert evidence == {"fine": 1, "ratio": "nan"}


def test_every_detector_that_did_not_complete_is_a_reason_for_no_verdict(report: dict[str, Any]) -> None:
    assert report["decision"]["verdict"] == "incomplete"
    named = {item["subject"] for item in report["decision"]["violations"] if item["kind"] == "detector"}
    assert named == {name for name in DETECTORS if EXPECTED[name][0] != "completed"}


def test_plugins_that_do_not_import_are_named(python: Path, tiny_model: Path) -> None:
    ran = scan(python, tiny_model, "-f", "json", "-q", "--detector", "faulty-fine")
    assert ran.returncode == 0, ran.stderr
    failures = {item["name"]: item["reason"] for item in json.loads(ran.stdout)["plugin_failures"]}
    assert failures["faulty-import"] == "ImportError: the sun is in the wrong place"
    assert failures["faulty-exit"].startswith("SystemExit")
    listed = subprocess.run([python, "-m", "modelguard", "plugins", "list"], capture_output=True, text=True, check=False)
    assert listed.returncode == 3
    assert "NOT LOADED" in listed.stdout


def test_terminal_escapes_never_reach_the_terminal(python: Path, tiny_model: Path) -> None:
    for form in ("console", "sarif", "html"):
        ran = scan(python, tiny_model, "--detector", "faulty-escapes", "-f", form)
        assert ran.returncode == 0, ran.stderr
        assert "\x1b[31m" not in ran.stdout + ran.stderr
        assert "\u202e" not in ran.stdout + ran.stderr
        assert "<script>alert" not in ran.stdout or form != "html"


def test_ctrl_c_is_130_and_keeps_what_was_found(python: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    command = [str(python), "-m", "modelguard", "scan", str(tiny_model), "--detector", "faulty-hangs", "-o", f"json={out}"]
    process = subprocess.Popen(
        [*command, "--detector", "faulty-fine"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert any("faulty-fine completed" in line for line in process.stderr), "the other is next"
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout.split()
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.startswith("INCOMPLETE")
    assert err.strip().splitlines()[-1] == "modelguard: interrupted; the report has what was found until then"
    assert list(tmp_path.iterdir()) == [out]
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["decision"]["verdict"] == "incomplete"
    outcomes = {item["detector"]: item for item in report["outcomes"]}
    assert len(outcomes["faulty-fine"]["findings"]) == 1
    assert (outcomes["faulty-hangs"]["status"], outcomes["faulty-hangs"]["reason"][:11]) in {
        ("errored", "interrupted"), ("errored", "not started"),
    }  # fmt: skip
    assert children
    for child in children:
        assert not Path(f"/proc/{child}").exists()


def test_a_full_disk_is_told_and_costs_the_pass(python: Path, tiny_model: Path, tmp_path: Path) -> None:
    good = tmp_path / "r.sarif"
    ran = scan(python, tiny_model, "--detector", "faulty-fine", "-q", "-o", "json=/dev/full", "-o", f"sarif={good}")
    assert ran.returncode == 3
    assert "/dev/full" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert json.loads(good.read_text())["version"] == "2.1.0"


def test_a_reader_that_leaves_early_does_not_change_the_verdict(python: Path, tiny_model: Path) -> None:
    command = f"'{python}' -m modelguard scan '{tiny_model}' --detector faulty-fine -q -f json | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], check=False, capture_output=True).returncode == 0
