"""`modelguard scan hf://...` as a process: online, then offline from the cache; what goes wrong ends in exit 3 with its cause named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from modelguard.testing.hub import LoopbackHub

TOKEN = "hf_loopback"


@pytest.fixture
def model(hub: LoopbackHub) -> str:
    """The commit of hf://org/model, a private repository."""
    hub.create("org/model", private=True)
    weight = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    return hub.commit("org/model", {"model.safetensors": save({"weight": weight}), "config.json": b"{}"})


def scan(hub: LoopbackHub, home: Path, **extra: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, report, and everything that was shown."""
    report = home / "report.json"
    command = [sys.executable, "-m", "modelguard", "scan", "hf://org/model", "--detector", "format-integrity", "-o", f"json={report}"]
    done = subprocess.run(command, env={**os.environ, **hub.env(home, TOKEN), **extra}, capture_output=True, text=True, check=False)
    shown = done.stdout + done.stderr + report.read_text()
    assert "Traceback" not in shown
    assert TOKEN not in shown
    assert str(home / "hub") not in shown
    return done.returncode, json.loads(report.read_text()), shown


def test_online_then_offline(hub: LoopbackHub, model: str, tmp_path: Path) -> None:
    code, online, _ = scan(hub, tmp_path)
    assert (code, online["target"]["revision"], online["target"]["identity"]) == (0, model, "hf:org/model")
    assert all(file["sha256"] for file in online["target"]["files"])
    hub.stop()
    code, offline, _ = scan(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert code == 0
    assert {**offline["target"], "notes": None} == {**online["target"], "notes": None}
    code, failed, _ = scan(hub, tmp_path)
    assert (code, failed["decision"]["verdict"]) == (3, "incomplete")
    assert "the Hub cannot be reached" in failed["failure"]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kind": "wrong-bytes", "request": "storage"}, "but the Hub advertises"),
        ({"kind": "short", "request": "storage"}, "fewer or more bytes than it announced"),
        ({"kind": "status", "request": "resolve", "status": 403}, "the token may not read it (HTTP 403)"),
        ({"kind": "status", "request": "tree", "status": 404}, "the Hub does not have it (HTTP 404)"),
        ({"kind": "rate-limit", "request": "info", "seconds": 3600}, "asks to wait 3600 s"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_faults_end_in_exit_3_with_their_cause(hub: LoopbackHub, model: str, tmp_path: Path, fault: dict[str, Any], cause: str) -> None:
    hub.fault(**fault)
    code, report, _ = scan(hub, tmp_path)
    assert code == 3
    assert cause in report["failure"]
    assert "\n" not in report["failure"]


def test_diff_of_two_repositories_compares_the_files_beside_the_weights(hub: LoopbackHub, tmp_path: Path) -> None:
    weights = save({"weight": np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)})
    large = json.dumps({f"token{at}": at for at in range(8000)}).encode()
    same = {"model.safetensors": weights, "config.json": b'{"a": 1, "b": 2}', "tokenizer.json": large}
    hub.commit("org/a", same)
    hub.commit("org/b", same | {"config.json": b'{"b": 2, "a": 1}'})
    hub.commit("org/c", same | {"config.json": b'{"a": 1, "b": 3}', "tokenizer.json": large.replace(b"token7", b"token8")})

    def diff(target: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "modelguard", "diff", "hf://org/a", target, "-q"]
        done = subprocess.run(command, env={**os.environ, **hub.env(tmp_path, TOKEN)}, capture_output=True, text=True, check=False)
        return done.returncode, " ".join(done.stdout.split())

    code, shown = diff("hf://org/b")
    assert (code, shown.split()[0]) == (0, "IDENTICAL")
    code, shown = diff("hf://org/c")
    assert code == 1
    assert shown.startswith("WEIGHTS IDENTICAL, 2 FILES DIFFER")
    assert "config.json differs from the reference's in 1 value: b (2 -> 3)" in shown
    assert "tokenizer.json differs from the reference's and was not read" in shown


@pytest.mark.parametrize("moved", [False, True])
def test_a_repository_with_a_single_name_is_scanned(hub: LoopbackHub, tmp_path: Path, moved: bool) -> None:
    commit = hub.commit("org/gpt2" if moved else "gpt2", {"model.safetensors": save({"w": np.ones((4, 4), np.float32)})})
    if moved:
        hub.moved["gpt2"] = "org/gpt2"
    for uri in ("hf://gpt2", "hf://gpt2@main/model.safetensors"):
        command = [sys.executable, "-m", "modelguard", "scan", uri, "-q", "-f", "json"]
        done = subprocess.run(command, env={**os.environ, **hub.env(tmp_path, TOKEN)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        target = json.loads(done.stdout)["target"]
        assert (target["identity"], target["revision"]) == ("hf:gpt2", commit)
        assert [file["path"] for file in target["files"]] == ["model.safetensors"]
