"""``modelguard.hub`` beside the real client, on its own cache layout: same arguments, same places, and nothing there that did not pass."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from guarding import BAD, GOOD, below, quick_policy, weights

from modelguard import OutputError, UsageError, hub
from modelguard._guard.quarantine import Quarantine
from modelguard.hub import ModelRefused
from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def policy(own_hub: LoopbackHub, tmp_path: Path) -> Path:
    own_hub.tag("org/model", "v1", own_hub.commit("org/model", GOOD))
    own_hub.commit("org/bad", BAD)
    return quick_policy(tmp_path)


def cached(folder: Path) -> set[str]:
    """What a cache holds, locks and empty folders aside."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() and ".locks" not in path.parts}


@pytest.mark.parametrize("name", ["snapshot_download", "hf_hub_download"])
def test_every_argument_of_the_client_is_taken_with_its_default(name: str) -> None:
    theirs = inspect.signature(getattr(huggingface_hub, name)).parameters
    ours = inspect.signature(getattr(hub, name)).parameters
    assert [(item.name, item.kind, item.default) for item in theirs.values()] == [
        (item.name, item.kind, item.default) for item in ours.values() if item.name != "policy"
    ]


def test_a_snapshot_that_passes_lies_where_the_client_looks_for_it(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    there = Path(huggingface_hub.snapshot_download("org/model", revision="v1", cache_dir=theirs, endpoint=own_hub.endpoint))
    ours = Path(hub.snapshot_download("org/model", revision="v1", policy=policy))
    assert ours == tmp_path / "cache" / there.relative_to(theirs)
    assert below(ours) == GOOD
    assert cached(tmp_path / "cache") == cached(theirs)
    own_hub.stop()
    again = huggingface_hub.snapshot_download("org/model", revision="v1", cache_dir=tmp_path / "cache", local_files_only=True)
    assert Path(again) == ours
    assert hub.snapshot_download("org/model", revision="v1", policy=policy, local_files_only=True) == str(ours)
    found = huggingface_hub.scan_cache_dir(tmp_path / "cache")
    assert ({item.repo_id for item in found.repos}, found.warnings) == ({"org/model"}, [])


@pytest.mark.parametrize("local", [False, True])
def test_a_hostile_repository_leaves_nothing_and_the_report_says_why(policy: Path, tmp_path: Path, local: bool) -> None:
    where: dict[str, Any] = {"local_dir": tmp_path / "out"} if local else {}
    calls: list[Callable[[], object]] = [
        lambda: hub.snapshot_download("org/bad", policy=policy, **where),
        lambda: hub.hf_hub_download("org/bad", "config.json", policy=policy, **where),
        lambda: hub.hf_hub_download("org/bad", "extra.pkl", policy=policy, **where),
    ]
    for call in calls:
        with pytest.raises(ModelRefused) as caught:
            call()
        assert caught.value.decision.verdict.value == "block"
        assert any(finding.rule.startswith("MG03") for _, finding in caught.value.report.findings())
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("hf://org/bad: blocked by policy gate: extra.pkl")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists() or cached(tmp_path / "cache") == set()


def test_what_cannot_be_fetched_is_refused_with_its_report(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    own_hub.fault("truncate", request="storage")
    with pytest.raises(ModelRefused, match="the connection broke") as caught:
        hub.snapshot_download("org/model", policy=policy)
    assert (caught.value.decision.verdict.value, cached(tmp_path / "cache")) == ("incomplete", set())
    with pytest.raises(ModelRefused, match="no such revision"):
        hub.snapshot_download("org/model", revision="nope", policy=policy)


def test_what_is_in_the_cache_is_scanned_and_not_fetched_again(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    first = hub.snapshot_download("org/model", policy=policy)
    own_hub.requests.clear()
    assert hub.snapshot_download("org/model", policy=policy) == first
    assert {item.kind for item in own_hub.requests} == {"info", "tree", "resolve"}
    assert {item.method for item in own_hub.requests if item.kind == "resolve"} == {"HEAD"}
    huggingface_hub.snapshot_download("org/bad", cache_dir=tmp_path / "cache", endpoint=own_hub.endpoint)
    held = cached(tmp_path / "cache")
    with pytest.raises(ModelRefused, match=r"extra\.pkl"):
        hub.snapshot_download("org/bad", policy=policy)
    assert cached(tmp_path / "cache") == held, "what others put there is theirs"


@pytest.mark.parametrize("local", [False, True])
def test_a_blob_that_changes_after_the_scan_is_not_delivered(
    own_hub: LoopbackHub, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    """The cache lends its blobs, and whoever owns it may write to them at any time."""
    snapshot = Path(huggingface_hub.snapshot_download("org/model", cache_dir=tmp_path / "cache", endpoint=own_hub.endpoint))
    blob = (snapshot / "config.json").resolve()
    name = "to_folder" if local else "to_cache"
    deliver = getattr(Quarantine, name)

    def late(self: Quarantine, *arguments: Any) -> Any:
        blob.write_bytes(b"[]\n")
        return deliver(self, *arguments)

    monkeypatch.setattr(Quarantine, name, late)
    where: dict[str, Any] = {"local_dir": tmp_path / "out"} if local else {}
    with pytest.raises(OutputError, match=r"config\.json changed while it was being scanned"):
        hub.snapshot_download("org/model", policy=policy, **where)
    assert not (tmp_path / "out").exists()


def test_whoever_is_given_a_folder_is_given_what_was_scanned(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    huggingface_hub.hf_hub_download("org/bad", "extra.pkl", cache_dir=cache, endpoint=own_hub.endpoint)
    with pytest.raises(ModelRefused, match=r"extra\.pkl"):
        hub.snapshot_download("org/bad", allow_patterns=["*.safetensors"], policy=policy)
    path = Path(hub.hf_hub_download("org/bad", "model.safetensors", policy=policy))
    assert path.read_bytes() == GOOD["model.safetensors"], "a file alone is given alone"
    snapshot = Path(hub.snapshot_download("org/model", allow_patterns="*.safetensors", policy=policy))
    assert set(below(snapshot)) == {"model.safetensors"}
    (snapshot / "planted.py").write_text("import os")
    with pytest.raises(OutputError, match=r"holds files that were not scanned \(planted\.py\)"):
        hub.snapshot_download("org/model", allow_patterns="*.safetensors", policy=policy)


def test_a_file_that_is_no_checkpoint_is_judged_with_its_model(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    path = hub.hf_hub_download("org/model", "config.json", policy=policy)
    assert Path(path).read_bytes() == b"{}\n"
    own_hub.requests.clear()
    assert Path(hub.hf_hub_download("org/model", "empty.txt", subfolder="vocab", policy=policy)).read_bytes() == b""
    assert not [item for item in own_hub.requests if item.kind == "storage"], "what was scanned with it stayed in the cache"
    place = Path(hub.hf_hub_download("org/model", "config.json", local_dir=tmp_path / "out", policy=policy))
    assert (place, below(tmp_path / "out")) == (tmp_path / "out" / "config.json", {"config.json": b"{}\n"})
    with pytest.raises(ModelRefused, match="holds none of the files asked for"):
        hub.hf_hub_download("org/model", "nope.json", policy=policy)


def test_patterns_choose_as_the_clients_do(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    own_hub.commit("org/model", {"fp16/model.safetensors": weights(1), "fp16/x.json": b"{}", "evil.pkl": BAD["extra.pkl"]})
    choices: list[dict[str, Any]] = [
        {"allow_patterns": "fp16/"},
        {"allow_patterns": ["*.safetensors", "config.json"]},
        {"ignore_patterns": ["*.pkl", "*.md"]},
        {"allow_patterns": ["fp16/*", "*.json"], "ignore_patterns": "*x.json"},
    ]
    for number, choice in enumerate(choices):
        theirs, ours = tmp_path / f"theirs{number}", tmp_path / f"ours{number}"
        huggingface_hub.snapshot_download("org/model", local_dir=theirs, endpoint=own_hub.endpoint, **choice)
        hub.snapshot_download("org/model", local_dir=ours, policy=policy, **choice)
        assert below(ours) == {path: body for path, body in below(theirs).items() if not path.startswith(".cache/")}
    with pytest.raises(ModelRefused):
        hub.snapshot_download("org/model", local_dir=tmp_path / "all", policy=policy)


def test_a_local_folder_is_made_at_once_or_left_alone(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert hub.snapshot_download("org/model", local_dir=out, policy=policy) == str(out)
    assert hub.snapshot_download("org/model", local_dir=out, policy=policy) == str(out), "the same files once more"
    (out / "mine.txt").write_text("mine")
    held = below(out)
    with pytest.raises(UsageError, match="holds other files than the commit's"):
        hub.snapshot_download("org/model", local_dir=out, policy=policy)
    assert below(out) == held
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".modelguard")]


def test_a_place_that_cannot_be_written_to(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        hub.snapshot_download("org/model", cache_dir=tmp_path / "file" / "cache", policy=policy)
    with pytest.raises(OutputError, match="cannot be written"):
        hub.hf_hub_download("org/model", "config.json", local_dir=tmp_path / "file", policy=policy)


def test_private_repositories_are_read_with_the_callers_token(own_hub: LoopbackHub, policy: Path) -> None:
    own_hub.create("org/model", private=True)
    with pytest.raises(ModelRefused, match="private and the token may not see it"):
        hub.snapshot_download("org/model", policy=policy)
    assert Path(hub.snapshot_download("org/model", policy=policy, token="hf_loopback")).is_dir()


def test_several_at_once_on_one_cache(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    paths: list[str] = []
    calls: list[Callable[[], None]] = [lambda: paths.append(hub.snapshot_download("org/model", policy=policy))] * 3
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3
    assert below(Path(paths[0])) == GOOD


@pytest.mark.parametrize(
    ("argument", "cause"),
    [
        ({"repo_type": "dataset"}, "only models can be scanned"),
        ({"headers": {"x": "y"}}, "cannot be sent"),
        ({"policy": "builtin:nope"}, "no such built-in policy"),
        ({"revision": "../x"}, "is not a revision"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_asked(own_hub: LoopbackHub, argument: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        hub.snapshot_download("org/model", **argument)
    assert own_hub.requests == []


def test_a_dry_run_is_the_clients(own_hub: LoopbackHub, policy: Path, tmp_path: Path) -> None:
    planned = hub.snapshot_download("org/model", dry_run=True, endpoint=own_hub.endpoint, cache_dir=tmp_path / "cache")
    assert {item.filename for item in planned} == set(GOOD)
    one = hub.hf_hub_download("org/model", "config.json", dry_run=True, endpoint=own_hub.endpoint, cache_dir=tmp_path / "cache")
    assert one.filename == "config.json"
