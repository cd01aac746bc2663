"""`modelguard fetch` against a Hub on loopback: the folder comes to be whole after a pass, and after anything else it is as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guarding import BAD, GOOD, below, quick_policy
from support import Ran

from modelguard._temporary import YOUNG
from modelguard.testing.hub import LoopbackHub

Fetch = Callable[..., tuple[Ran, dict[str, Any]]]


@pytest.fixture
def fetch(own_hub: LoopbackHub, tmp_path: Path, mg: Callable[..., Ran]) -> Fetch:
    """Fetch into ``tmp_path/models/m``, and return how that ended and the report."""
    own_hub.tag("org/model", "v1", own_hub.commit("org/model", GOOD))
    own_hub.commit("org/bad", BAD)
    (tmp_path / "models").mkdir()
    policy = quick_policy(tmp_path)

    def run(uri: str = "hf://org/model@v1", *argv: object, folder: Path = tmp_path / "models" / "m") -> tuple[Ran, dict[str, Any]]:
        path = tmp_path / "r.json"
        path.unlink(missing_ok=True)
        ran = mg("fetch", uri, folder, "-q", "--policy", policy, "-o", f"json={path}", *argv)
        assert "Traceback" not in ran.err
        assert not [item for item in os.listdir(tmp_path / "models") if item.startswith(".")], "the quarantine is gone"
        return ran, json.loads(path.read_text()) if path.exists() else {}

    return run


def test_a_model_that_passes_is_put_in_place_whole(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path) -> None:
    ran, report = fetch()
    assert (ran.code, report["decision"]["verdict"]) == (0, "pass")
    assert below(tmp_path / "models" / "m") == GOOD
    assert not any(path.is_symlink() for path in (tmp_path / "models" / "m").rglob("*"))
    assert (tmp_path / "models" / "m").stat().st_mode & 0o777 == 0o755
    (commit,) = own_hub.repos["org/model"].commits
    assert (report["target"]["uri"], report["target"]["identity"]) == ("hf://org/model@v1", "hf:org/model")
    assert report["target"]["revision"] == commit
    assert f"commit {commit}" in ran.err
    assert not (tmp_path / "cache").exists(), "the user's cache has no part in it"


@pytest.mark.parametrize("uri", ["hf://org/bad", "hf://org/model@nope", "hf://org/none"])
def test_nothing_is_left_of_what_does_not_pass_but_the_report(fetch: Fetch, tmp_path: Path, uri: str) -> None:
    ran, report = fetch(uri)
    assert ran.code == (1 if uri.endswith("bad") else 3)
    assert report["decision"]["verdict"] == ("block" if uri.endswith("bad") else "incomplete")
    assert os.listdir(tmp_path / "models") == []
    assert "nothing was written to" in ran.err


def test_a_policy_in_report_mode_lets_nothing_out_of_quarantine(fetch: Fetch, tmp_path: Path) -> None:
    lenient = tmp_path / "lenient.yaml"
    lenient.write_text("version: 1\nname: lenient\nextends: [gate.yaml]\nmode: report\n")
    ran, report = fetch("hf://org/bad", "--policy", lenient)
    assert (ran.code, report["decision"]["exit_code"]) == (1, 1)
    assert os.listdir(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kind": "wrong-bytes", "request": "storage"}, "but the Hub advertises"),
        ({"kind": "truncate", "request": "storage"}, "the connection broke"),
        ({"kind": "short", "request": "storage"}, "fewer or more bytes"),
        ({"kind": "status", "request": "info", "status": 401}, "(HTTP 401)"),
        ({"kind": "status", "request": "resolve", "status": 404}, "(HTTP 404)"),
        ({"kind": "status", "request": "storage", "status": 503}, "(HTTP 503)"),
        ({"kind": "rate-limit", "request": "resolve", "seconds": 3600}, "(HTTP 429)"),
    ],
    ids=lambda value: f"{value['kind']}-{value['request']}" if isinstance(value, dict) else "",
)
def test_a_fault_of_the_hub_leaves_nothing(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path, fault: dict[str, Any], cause: str) -> None:
    own_hub.fault(**fault)
    ran, report = fetch()
    assert ran.code == 3
    assert cause in report["failure"]
    assert os.listdir(tmp_path / "models") == []


def test_arguments_are_refused_before_anything_is_fetched(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    for uri, folder, cause in (
        ("./model", full, "is not on the Hub"),
        ("hf://@main", full, "names no repository"),
        ("hf://org/model", full, "exists and is not empty"),
        ("hf://org/model", tmp_path / "gate.yaml", "exists and is no folder"),
        ("hf://org/model", tmp_path / "no" / "m", "does not exist"),
        ("hf://org/model", Path("/proc"), "mount point"),
    ):
        ran, report = fetch(uri, folder=folder)
        assert (ran.code, report, ran.err.count("\n")) == (2, {}, 1), ran.err
        assert cause in ran.err
    assert own_hub.requests == []
    assert below(full) == {"mine": b"mine"}


def test_an_empty_folder_is_taken_and_one_filled_meanwhile_is_not(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir()
    assert fetch()[0].code == 0
    assert below(folder) == GOOD
    other = tmp_path / "models" / "other"

    def fill() -> None:
        other.mkdir()
        (other / "mine").write_text("mine")

    own_hub.before("tree", fill)
    ran, report = fetch(folder=other)
    assert (ran.code, report["decision"]["verdict"]) == (3, "pass"), "it passed, and could not be delivered"
    assert "has come to exist meanwhile" in ran.err
    assert below(other) == {"mine": b"mine"}


def test_what_the_cache_has_is_not_fetched_again_and_is_checked(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot = Path(snapshot_download("org/model", cache_dir=tmp_path / "cache", endpoint=own_hub.endpoint))
    own_hub.requests.clear()
    assert fetch()[0].code == 0
    assert not [item for item in own_hub.requests if item.kind == "storage"]
    blob = (snapshot / "model.safetensors").resolve()
    assert blob.read_bytes() == GOOD["model.safetensors"]
    assert not blob.samefile(tmp_path / "models" / "m" / "model.safetensors"), "whoever edits one leaves the other alone"
    own_hub.stop()
    assert below(tmp_path / "models" / "m") == GOOD
    ran, report = fetch("hf://org/model@main", "--offline", folder=tmp_path / "models" / "offline")
    assert (ran.code, below(tmp_path / "models" / "offline")) == (0, GOOD)
    assert any("was resolved from the cache" in note for note in report["target"]["notes"])
    blob.write_bytes(b"x" * len(GOOD["model.safetensors"]))
    ran, report = fetch("hf://org/model@main", "--offline", folder=tmp_path / "models" / "again")
    assert ran.code == 3
    assert "delete the model from the cache" in report["failure"]
    assert not (tmp_path / "models" / "again").exists()


def test_a_folder_of_a_repository(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path) -> None:
    own_hub.commit(
        "org/two", {"fp16/model.safetensors": GOOD["model.safetensors"], "fp16/config.json": b"{}", "evil.pkl": BAD["extra.pkl"]}
    )
    assert fetch("hf://org/two@main/fp16")[0].code == 0
    assert below(tmp_path / "models" / "m") == {"model.safetensors": GOOD["model.safetensors"], "config.json": b"{}"}


def test_a_listing_that_climbs_out_leaves_nothing(fetch: Fetch, own_hub: LoopbackHub, tmp_path: Path) -> None:
    own_hub.list_also("org/model", path="../climbed")
    ran, report = fetch()
    assert (ran.code, os.listdir(tmp_path / "models")) == (3, [])
    assert "leaves the artifact" in report["failure"]
    assert not (tmp_path / "climbed").exists()


@pytest.fixture
def stalled(hub: LoopbackHub, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A fetch as a process of its own that waits for a file for ever, and the folder its quarantine lies in."""
    hub.commit("org/model", GOOD)
    hub.fault("stall", request="storage", seconds=3600)
    models = tmp_path / "models"
    models.mkdir()
    command = [sys.executable, "-m", "modelguard", "fetch", "hf://org/model", str(models / "m"), "--policy", str(quick_policy(tmp_path))]
    env = {**os.environ, **hub.env(tmp_path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(models.glob(".modelguard-tmp-*/hub/*/blobs/*.incomplete")) and process.poll() is None:
            time.sleep(0.02)
        yield process, models
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fetch_leaves_nothing(stalled: tuple[subprocess.Popen[str], Path], number: signal.Signals, code: int) -> None:
    process, models = stalled
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, os.listdir(models)) == (code, [])
    assert err.strip().endswith("nothing was decided")


def test_a_later_fetch_sweeps_up_after_a_killed_one(stalled: tuple[subprocess.Popen[str], Path], hub: LoopbackHub, tmp_path: Path) -> None:
    process, models = stalled
    process.kill()
    process.communicate()
    (left,) = models.iterdir()
    assert left.stat().st_mode & 0o777 == 0o700
    old = time.time() - 2 * YOUNG
    os.utime(left, (old, old))
    hub.heal()
    command = [sys.executable, "-m", "modelguard", "fetch", "hf://org/model", str(models / "m"), "--policy", str(tmp_path / "gate.yaml")]
    done = subprocess.run(command, env={**os.environ, **hub.env(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.listdir(models) == ["m"]
    assert below(models / "m") == GOOD


def test_a_full_disk_leaves_nothing(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.commit("org/model", {**GOOD, "big.txt": b"words " * 400_000})
    (tmp_path / "small").mkdir()
    policy = quick_policy(tmp_path)
    # A file system of one megabyte, in a namespace of its own: nothing of it is left when the process has ended.
    script = (
        f"mount -t tmpfs -o size=1m none small || exit 77; {sys.executable} -m modelguard fetch hf://org/model small/m "
        f"--policy {policy} -q -o json=r.json; code=$?; ls -A small >left; exit $code"
    )
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **hub.env(tmp_path)}, capture_output=True, text=True, check=False)
    if not (tmp_path / "left").exists():
        pytest.skip(f"this machine lets nobody mount a small file system: {done.stderr.strip()}")
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "left").read_text() == ""
    assert "no space left" in json.loads((tmp_path / "r.json").read_text())["failure"]
