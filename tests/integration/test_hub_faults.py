"""Each fault of a Hub, through the command line: exit 3, the cause in one line of console and report; and what is no fault passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from support import Ran

from modelguard._sources import hub as hub_source
from modelguard._sources import ranges
from modelguard._sources.session import Patience
from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]
WEIGHTS = save({"weight": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)})


@pytest.fixture
def commit(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None) -> str:
    """The commit of hf://org/model, on a Hub that this process takes for the real one."""
    monkeypatch.setattr(hub_source.HubSource, "endpoint", hub.endpoint)  # the client reads HF_ENDPOINT when it is imported
    monkeypatch.setattr(ranges, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub_source, "Patience", lambda: Patience(window=0.5, rate_limit=5))
    hub.commit("org/base", {"model.safetensors": WEIGHTS[:-4] + b"\0\0\0\0", "config.json": b"{}"})
    return hub.commit("org/model", {"model.safetensors": WEIGHTS, "config.json": b"{}"})


def scan(mg: Run, folder: Path, *argv: object) -> tuple[Ran, dict[str, Any]]:
    path = folder / "r.json"
    ran = mg("scan", *argv, "--detector", "format-integrity", "-q", "-o", f"json={path}")
    report: dict[str, Any] = json.loads(path.read_text())
    assert "Traceback" not in ran.err
    assert "127.0.0.1" not in ran.out + ran.err + path.read_text()
    return ran, report


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kind": "wrong-bytes", "request": "storage"}, "but the Hub advertises"),
        ({"kind": "truncate", "request": "storage"}, "the connection broke before the whole answer had come"),
        ({"kind": "short", "request": "storage"}, "the Hub sent fewer or more bytes than it announced"),
        ({"kind": "status", "request": "info", "status": 404}, "(HTTP 404)"),
        ({"kind": "status", "request": "resolve", "status": 404}, "(HTTP 404)"),
        ({"kind": "status", "request": "info", "status": 401}, "(HTTP 401)"),
        ({"kind": "status", "request": "storage", "status": 401}, "(HTTP 401)"),
        ({"kind": "status", "request": "tree", "status": 500}, "(HTTP 500)"),
        ({"kind": "rate-limit", "request": "storage", "seconds": 3600}, "(HTTP 429) and asks to wait 3600 s"),
        ({"kind": "slow", "request": "storage", "seconds": 0.05}, "the Hub sends too slowly"),
        ({"kind": "drop", "request": "resolve"}, "the connection broke"),
        ({"kind": "redirect-loop", "request": "storage"}, "redirects in circles"),
    ],
    ids=lambda value: f"{value['kind']}-{value['request']}-{value.get('status', '')}" if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("side", ["target", "reference"])
def test_a_fault_is_no_verdict_and_names_its_cause(
    mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path, tiny_model: Path, fault: dict[str, Any], cause: str, side: str
) -> None:
    hub.fault(**fault)
    ran, report = scan(mg, tmp_path, *(("hf://org/model",) if side == "target" else (tiny_model, "--reference", "hf://org/model")))
    assert ran.code == 3
    assert report["decision"]["verdict"] == "incomplete"
    assert cause in report["failure"]
    assert report["failure"].startswith("hf://org/model")
    assert "; " in report["failure"], "a remedy is named"
    assert "\n" not in report["failure"]
    assert ran.out.startswith("INCOMPLETE")
    assert "MG9006 hf://org/model" in ran.out


def test_a_digest_that_does_not_match_names_both(mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path) -> None:
    hub.fault("wrong-bytes", request="storage")
    _, report = scan(mg, tmp_path, "hf://org/model")
    have, advertised = report["failure"].split(", but the Hub advertises ")
    assert "sha256:" in have
    assert "sha256:" in advertised
    assert have.split("sha256:")[1][:64] != advertised.split("sha256:")[1][:64]


def test_what_passes_again_is_no_fault(mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path) -> None:
    hub.fault("rate-limit", request="storage", seconds=1, times=2)
    hub.fault("truncate", request="storage", times=1)
    hub.fault("ignore-range", request="storage")
    ran, report = scan(mg, tmp_path, "hf://org/model")
    assert ran.code == 0, report["failure"]
    assert report["target"]["revision"] == commit


def test_a_branch_that_moves_meanwhile_moves_nothing(mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path) -> None:
    hub.before("tree", lambda: hub.commit("org/model", {"model.safetensors": b"other"}))
    ran, report = scan(mg, tmp_path, "hf://org/model")
    assert ran.code == 0, report["failure"]
    assert report["target"]["revision"] == commit
    assert scan(mg, tmp_path, "hf://org/model")[1]["target"]["revision"] != commit, "the next scan sees where it went"


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kind": "ignore-range", "request": "storage"}, "range"),
        ({"kind": "wrong-range", "request": "storage"}, "range"),
        ({"kind": "wrong-bytes", "request": "storage"}, ""),
    ],
    ids=["ignored", "another", "wrong-bytes"],
)
def test_a_comparison_by_range_believes_no_range(
    mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path, fault: dict[str, Any], cause: str
) -> None:
    hub.fault(**fault)
    ran = mg("diff", "hf://org/base", "hf://org/model", "-q", "-o", f"json={tmp_path / 'r.json'}")
    assert ran.code == 3, ran.out
    failure = json.loads((tmp_path / "r.json").read_text())["failure"]
    assert failure.startswith("hf://org/")
    assert cause in failure
    assert failure in " ".join(ran.out.split())


@pytest.mark.parametrize("argv", [["hf://org/nothing"], ["hf://org/model@nowhere"], ["hf://org/model/nofile.onnx"]])
def test_what_the_hub_does_not_have_is_named(mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path, argv: list[str]) -> None:
    ran, report = scan(mg, tmp_path, *argv)
    assert ran.code == 3
    assert report["failure"].startswith(argv[0].split("/nofile")[0].split("@")[0])


def test_offline_and_never_fetched(mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path) -> None:
    ran, report = scan(mg, tmp_path, "hf://org/model", "--offline")
    assert ran.code == 3
    assert "is not in the cache; scan once online" in report["failure"]
    assert scan(mg, tmp_path, "hf://org/model")[0].code == 0
    hub.stop()
    ran, report = scan(mg, tmp_path, "hf://org/model", "--offline")
    assert ran.code == 0
    assert "was resolved from the cache" in report["target"]["notes"][0]
    assert "was resolved from the cache" in " ".join(ran.out.split()), "what could not be verified is shown"


def test_a_pinned_policy_tells_the_commit_to_name(mg: Run, hub: LoopbackHub, commit: str, tmp_path: Path) -> None:
    ran, _ = scan(mg, tmp_path, "hf://org/model", "--policy", "builtin:hub-download")
    assert ran.code == 1
    assert commit in "".join(ran.out.split())
    pinned = (f"hf://org/model@{commit}", "--policy", "builtin:hub-download")
    assert scan(mg, tmp_path, *pinned, "--detector", "remote-code", "--detector", "executable-content")[0].code == 0
    assert scan(mg, tmp_path, *pinned)[0].code == 3, "whether code comes with the weights is asked for, and nobody looked"
