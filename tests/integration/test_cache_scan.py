"""`modelguard cache scan` over caches that the real client wrote."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from guarding import BAD, GOOD, quick_policy
from support import Ran

from modelguard.testing.hub import LoopbackHub


@pytest.fixture
def cache(own_hub: LoopbackHub, tmp_path: Path) -> Path:
    """Two commits of a good model, of which one is partly there, a tag that adds nothing, and a hostile model."""

    def bring(repo: str, **more: Any) -> None:
        huggingface_hub.snapshot_download(repo, cache_dir=tmp_path / "cache", endpoint=own_hub.endpoint, **more)

    own_hub.commit("org/model", GOOD)
    bring("org/model")
    own_hub.tag("org/model", "v2", own_hub.commit("org/model", {"large.gguf": b"never fetched"}))
    bring("org/model", revision="v2", ignore_patterns="*.gguf")
    own_hub.commit("org/bad", BAD)
    bring("org/bad")
    own_hub.stop()
    return tmp_path / "cache"


def test_every_snapshot_once_with_table_and_reports(cache: Path, tmp_path: Path, mg: Callable[..., Ran]) -> None:
    policy, reports = quick_policy(tmp_path), tmp_path / "reports"
    ran = mg("cache", "scan", cache, "--policy", policy, "-q", "--reports", reports)
    assert (ran.code, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[0] == "3 snapshots of 2 models, 9 blobs: 1 BLOCKED, 2 PASS"
    assert lines[1].split()[:2] == ["BLOCKED", next(line for line in lines if "org/bad" in line).split()[1]]
    assert "extra.pkl" in lines[2]
    assert sum("the same files as" in line for line in lines) == 1
    stored = [json.loads(path.read_text()) for path in sorted(reports.iterdir())]
    assert [item["decision"]["verdict"] for item in stored] == ["block", "pass", "pass"]
    assert {item["target"]["identity"] for item in stored} == {"hf:org/bad", "hf:org/model"}
    assert {f"{item['target']['uri'].removeprefix('hf://').replace('/', '--')}.json" for item in stored} == {
        path.name for path in reports.iterdir()
    }
    assert not any(str(tmp_path) in path.read_text() for path in reports.iterdir())
    document = mg("cache", "scan", cache, "--policy", policy, "-q", "-f", "json").json
    assert {item["verdict"]: item["exit_code"] for item in document["snapshots"]} == {"block": 1, "pass": 0}
    assert sorted(ref for item in document["snapshots"] for ref in item["refs"]) == ["main", "main", "v2"]


def test_what_cannot_be_read_is_a_row_without_a_verdict(cache: Path, tmp_path: Path, mg: Callable[..., Ran]) -> None:
    policy = quick_policy(tmp_path)
    (cache / "models--org--bad" / "refs").rename(cache / "refs-elsewhere")
    for blob in (cache / "models--org--bad" / "blobs").iterdir():
        blob.write_bytes(b"other bytes")
    (cache / "models--org--odd" / "snapshots" / "no-commit").mkdir(parents=True)
    (cache / "datasets--org--data").mkdir()
    (next((cache / "models--org--model" / "snapshots").iterdir()) / "gone").symlink_to("../../blobs/" + "0" * 40)
    ran = mg("cache", "scan", cache, "--policy", policy, "-q")
    assert ran.code == 3
    assert ran.out.splitlines()[0].endswith("3 INCOMPLETE, 1 PASS")
    for said in ("but the cache holds them under", "is no commit's", "is a symlink to nothing", "datasets--org--data"):
        assert said in ran.out


def test_no_cache_and_no_snapshot(tmp_path: Path, mg: Callable[..., Ran]) -> None:
    ran = mg("cache", "scan", tmp_path / "none", "-q")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "is no cache that can be read" in ran.err
    ran = mg("cache", "scan", tmp_path, "-q")
    assert (ran.code, ran.out) == (3, "No snapshot of a model is in this cache; nothing was looked at.\n")
    (tmp_path / "file").write_text("")
    ran = mg("cache", "scan", tmp_path, "-q", "--reports", tmp_path / "file")
    assert (ran.code, ran.err.count("\n")) == (2, 1)


def test_ctrl_c_keeps_what_was_scanned(cache: Path, tmp_path: Path) -> None:
    policy = quick_policy(tmp_path)
    argv = [sys.executable, "-m", "modelguard", "cache", "scan", str(cache), "--policy", str(policy), "-f", "json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = iter(process.stderr.readline, "")
    assert any("completed" in line for line in said)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["not_scanned"] + len(document["snapshots"]) == 3
    assert "interrupted" in err
    assert not any(item["verdict"] == "pass" and "interrupted" in str(item["reasons"]) for item in document["snapshots"])
