"""Two models on a Hub compared by ranges: little is read, and a server that answers otherwise than asked is an error, never wrong bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from modelguard import Artifact, ArtifactFile, DigestMismatchError, FormatError, SourceContext, SourceError
from modelguard._formats.safetensors import SafetensorsFormat
from modelguard._sources import ranges
from modelguard._sources.hub import HubSource
from modelguard._sources.remote import remote_pair
from modelguard._sources.session import Patience
from modelguard._sources.xet import Term, common_runs, uncovered
from modelguard.testing.hub import LoopbackHub

TOKEN = "hf_loopback"
Tensors = dict[str, "np.ndarray[Any, Any]"]


def tensors(seed: int, count: int = 4, rows: int = 64) -> Tensors:
    rng = np.random.default_rng(seed)
    return {f"layers.{seed}.{i}.weight": rng.normal(size=(rows, 256)).astype(np.float32) for i in range(count)}


def read(artifact: Artifact) -> Tensors:
    """Every tensor, through the format's own reader."""
    found = {}
    for file in artifact.files:
        if file.path.endswith(".safetensors"):
            checkpoint, _ = SafetensorsFormat().open(file, artifact)
            found.update({name: checkpoint.read(name).copy() for name in checkpoint.tensors})
    return found


@contextmanager
def pair(hub: LoopbackHub, old: str = "hf://org/a", new: str = "hf://org/b", **options: Any) -> Iterator[tuple[Artifact, Artifact]]:
    context = SourceContext(progress=options.pop("progress", None), offline=options.pop("offline", False))
    with remote_pair(old, new, context, HubSource(endpoint=hub.endpoint, **options)) as artifacts:
        yield artifacts


def error(hub: LoopbackHub, **options: Any) -> str:
    with pytest.raises(SourceError) as caught, pair(hub, **options):
        pytest.fail("compared")
    line = str(caught.value)
    assert "\n" not in line
    assert not any(secret in line for secret in (TOKEN, "signature", "127.0.0.1", "localhost", "/tmp"))
    return line


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(ranges, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def edited(hub: LoopbackHub) -> tuple[Tensors, Tensors]:
    """Three shards, of which the second has one changed tensor in the second model."""
    shards = [tensors(seed) for seed in range(3)]
    hub.commit("org/a", {f"model-{i}.safetensors": save(shard) for i, shard in enumerate(shards)} | {"config.json": b"{}"})
    old = {name: value for shard in shards for name, value in shard.items()}
    changed = {name: value + (name == "layers.1.2.weight") for name, value in shards[1].items()}
    hub.commit("org/b", {f"model-{i}.safetensors": save(changed if i == 1 else shard) for i, shard in enumerate(shards)})
    return old, old | changed


def test_what_differs_is_there_and_what_is_equal_is_a_hole_on_both_sides(hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
    with pair(hub) as (old, new):
        read_old, read_new = read(old), read(new)
        for name in edited[0]:
            if name.startswith("layers.1."):
                assert np.array_equal(read_old[name], edited[0][name])
                assert np.array_equal(read_new[name], edited[1][name])
            else:
                assert not read_old[name].any()
                assert not read_new[name].any()
        places = [file.local for artifact in (old, new) for file in artifact.files]
    assert not any(place.exists() for place in places)


def test_what_was_compared_by_hash_only_is_said(hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
    with pair(hub) as (old, new):
        note = "equal in both models by the digest the Hub lists, not read: model-0.safetensors, model-2.safetensors"
        assert old.notes == new.notes == (note,)
        assert (old.identity, old.uri, new.identity) == ("hf:org/a", "hf://org/a", "hf:org/b")
        whole = new.file("model-1.safetensors")
        assert whole is not None
        assert whole.sha256 == hashlib.sha256(bytes(whole.map())).hexdigest(), "a file that was read to the end is verified"
        assert [file.sha256 is None for file in new.files] == [True, False, True]
        assert old.file("config.json") is not None


def test_only_what_may_differ_is_read(hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
    seen: list[tuple[int, int, str]] = []
    with pair(hub, progress=lambda *values: seen.append(values)):
        pass
    shard = 4 * 64 * 256 * 4
    sent = sum(request.sent for request in hub.requests if request.kind in ("resolve", "storage"))
    assert 2 * shard < sent < 2 * shard + 8000
    assert seen[-1][:2] == (sent, sent)


@pytest.mark.parametrize("changed_rows", [slice(None), slice(3, 4)])
def test_one_changed_tensor_of_a_hundred_costs_at_most_three_times_itself(changed_rows: slice) -> None:
    """The figure of the README: 10 shards, 100 tensors, one changed; bytes on the wire <= headers + 3 x that tensor."""
    with LoopbackHub(xet=True) as hub:
        shards = [tensors(seed, count=10, rows=512 if seed == 4 else 32) for seed in range(10)]
        files = {f"model-{i}.safetensors": save(shard) for i, shard in enumerate(shards)}
        hub.commit("org/a", files)
        edited = dict(shards[4])
        edited["layers.4.5.weight"] = edited["layers.4.5.weight"].copy()
        edited["layers.4.5.weight"][changed_rows] += 1
        hub.commit("org/b", {**files, "model-4.safetensors": save(edited)})
        with pair(hub) as (old, new):
            assert np.array_equal(read(new)["layers.4.5.weight"], edited["layers.4.5.weight"])
            assert np.array_equal(read(old)["layers.4.5.weight"], shards[4]["layers.4.5.weight"])
            changed = {name for name, value in read(new).items() if not np.array_equal(value, read(old)[name])}
            assert changed == {"layers.4.5.weight"}
            assert any("9 tensors of model-4.safetensors" in note for note in new.notes)
            assert "read in part, so not compared with the digest the Hub lists: model-4.safetensors" in new.notes
        headers = sum(8 + int.from_bytes(data[:8], "little") for data in files.values())
        one = edited["layers.4.5.weight"].nbytes
        print(f"wire bytes {hub.wire_bytes}, headers {headers}, tensor {one}, ratio {(hub.wire_bytes - headers) / one:.2f}")
        assert hub.wire_bytes <= headers + 3 * one


def test_several_edits_in_one_shard_are_told_apart() -> None:
    with LoopbackHub(xet=True) as hub:
        shard = tensors(0, count=20, rows=512)
        hub.commit("org/a", {"model.safetensors": save(shard)})
        names = sorted(shard)
        edited = {name: value + (name in names[3::5]) for name, value in shard.items()}
        hub.commit("org/b", {"model.safetensors": save(edited)})
        with pair(hub) as (old, new):
            ours, theirs = read(old), read(new)
            assert [name for name in names if not np.array_equal(ours[name], theirs[name])] == names[3::5]
            for name in names[3::5]:
                assert np.array_equal(ours[name], shard[name])
                assert np.array_equal(theirs[name], edited[name])
        sent = sum(request.sent for request in hub.requests if request.kind == "storage")
        assert sent < 3 * 4 * shard[names[0]].nbytes


def test_without_xet_answers_everything_is_read() -> None:
    for fault in ({"kind": "status", "request": "xet"}, {"kind": "status", "request": "xet-read-token"}):
        with LoopbackHub(xet=True) as hub:
            shard = tensors(0)
            hub.commit("org/a", {"model.safetensors": save(shard)})
            hub.commit("org/b", {"model.safetensors": save({name: value * 2 for name, value in shard.items()})})
            hub.fault(**fault)  # type: ignore[arg-type]
            with pair(hub) as (old, new):
                assert all(file.sha256 for file in old.files + new.files)
                assert all(np.array_equal(read(old)[name] * 2, value) for name, value in read(new).items())


def test_a_tensor_without_counterpart_can_be_compared_with_all_of_its_size(hub: LoopbackHub) -> None:
    """An added lm_head that equals the embedding: the embedding, equal on both sides, must not be a hole."""
    embedding = {"embed.weight": tensors(0)["layers.0.0.weight"], "norm": np.ones(3, np.float32)}
    head = {"layer": np.ones((2, 2), np.float32)}
    hub.commit("org/a", {"a.safetensors": save(embedding), "b.safetensors": save(head)})
    hub.commit("org/b", {"a.safetensors": save(embedding), "b.safetensors": save(head | {"lm_head.weight": embedding["embed.weight"]})})
    with pair(hub) as (old, new):
        for side in (read(old), read(new)):
            assert np.array_equal(side["embed.weight"], embedding["embed.weight"])
            assert not side["norm"].any()
        assert np.array_equal(read(new)["lm_head.weight"], embedding["embed.weight"])


def test_another_sharding_is_read_whole(hub: LoopbackHub) -> None:
    everything = tensors(0)
    names = sorted(everything)
    hub.commit("org/a", {"model.safetensors": save(everything)})
    hub.commit("org/b", {f"{i}.safetensors": save({name: everything[name]}) for i, name in enumerate(names)})
    with pair(hub) as (old, new):
        assert all(np.array_equal(read(side)[name], everything[name]) for side in (old, new) for name in names)
        assert old.notes == new.notes == ()


def test_equal_models_cost_one_header(hub: LoopbackHub) -> None:
    data = save(tensors(0))
    hub.commit("org/a", {"model.safetensors": data})
    hub.commit("org/b", {"renamed.safetensors": data})
    with pair(hub) as (old, new):
        assert list(read(old)) == list(read(new)) == sorted(tensors(0))
    assert sum(request.sent for request in hub.requests if request.kind == "storage") == 8 + int.from_bytes(data[:8], "little")


def test_the_same_model_at_two_revisions_and_a_folder(hub: LoopbackHub) -> None:
    hub.commit("org/a", {"unet/model.safetensors": save(tensors(0)), "vae/model.safetensors": save(tensors(1)), "big.bin": bytes(1 << 17)})
    hub.tag("org/a", "v1", hub.commit("org/a", {}))
    hub.commit("org/a", {"unet/model.safetensors": save(tensors(2))})
    with pair(hub, "hf://org/a@v1/unet", "hf://org/a/unet") as (old, new):
        assert ([file.path for file in old.files], old.revision != new.revision) == (["model.safetensors"], True)
        assert sorted(read(new)) == sorted(tensors(2))
    with pair(hub, "hf://org/a@v1/unet/model.safetensors", "hf://org/a/vae/model.safetensors") as (old, new):
        assert ([file.path for file in old.files], [file.path for file in new.files]) == (["model.safetensors"], ["model.safetensors"])
    with pair(hub, "hf://org/a@v1", "hf://org/a") as (old, new):
        assert [file.path for file in old.unfetched] == ["big.bin"]


def test_a_branch_that_moves_meanwhile_moves_nothing(hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
    first = hub.commit("org/b", {})
    hub.before("storage", lambda: hub.commit("org/b", {"model-1.safetensors": b"new"}))
    with pair(hub) as (_, new):
        assert new.revision == first
        assert np.array_equal(read(new)["layers.1.2.weight"], edited[1]["layers.1.2.weight"])


BROKEN = {
    "empty": b"", "short": b"\x05", "huge": b"\xff" * 8, "2^63": (1 << 63).to_bytes(8, "little") + b"{}",
    "no object": (2).to_bytes(8, "little") + b"[]", "truncated": (99).to_bytes(8, "little") + b"{}",
}  # fmt: skip


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_an_invalid_file_is_as_invalid_for_its_reader(
    hub: LoopbackHub, edited: tuple[Tensors, Tensors], tmp_path: Path, data: bytes
) -> None:
    hub.commit("org/b", {"broken.safetensors": data})
    (tmp_path / "broken.safetensors").write_bytes(data)

    def complaint(file: ArtifactFile | None, artifact: Artifact) -> str:
        assert file is not None
        with pytest.raises(FormatError) as caught:
            SafetensorsFormat().open(file, artifact)
        return str(caught.value)

    with pair(hub) as (_, new):
        original = ArtifactFile("broken.safetensors", tmp_path / "broken.safetensors", len(data))
        assert complaint(new.file("broken.safetensors"), new) == complaint(original, new)


class TestFaults:
    """The server answers otherwise than asked."""

    @pytest.mark.parametrize(
        ("kind", "cause"),
        [
            ("ignore-range", "the server ignores ranges (HTTP 200 instead of 206)"),
            ("wrong-range", "the server answers with another range than the one asked for (bytes 0-7/"),
            ("short", "the server answers with another range than the one asked for"),
            ("encoded", "the server encodes the range"),
            ("truncate", "the connection broke before the whole answer had come"),
            ("drop", "the connection broke before the whole answer had come"),
            ("redirect-loop", "the Hub redirects in circles"),
        ],
    )
    def test_ranges_that_are_not_the_ones_asked_for(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors], kind: Any, cause: str) -> None:
        hub.fault(kind, request="storage", path="model-1.safetensors")
        assert cause in error(hub)

    def test_a_wrong_header_is_no_header(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.fault("wrong-bytes", request="storage", repo="org/b", path="model-1.safetensors")
        with pair(hub) as (_, new), pytest.raises(FormatError):
            read(new)

    def test_wrong_bytes(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        def after_headers(done: int, total: int, note: str) -> None:
            if total > 100_000:
                hub.fault("wrong-bytes", request="storage", repo="org/b", path="model-1.safetensors")

        with pytest.raises(DigestMismatchError, match="but the Hub advertises"), pair(hub, progress=after_headers):
            pytest.fail("compared")

    def test_another_digest_or_commit_than_listed(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.fault("wrong-etag", request="resolve", path="model-1.safetensors")
        line = error(hub)
        assert "model-1.safetensors: the Hub offers it as " in line
        assert "but lists it with sha256:" in line
        hub.heal()
        hub.fault("wrong-commit", request="resolve")
        assert "the Hub answers for another commit" in error(hub)

    @pytest.mark.parametrize(("status", "cause"), [(401, "valid token"), (403, "may not read it"), (404, "HTTP 404"), (500, "is failing")])
    @pytest.mark.parametrize("request_kind", ["resolve", "storage"])
    def test_http_errors(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors], request_kind: str, status: int, cause: str) -> None:
        hub.fault("status", request=request_kind, path="model-1.safetensors", status=status)
        assert cause in error(hub)

    def test_errors_that_pass_are_outlived(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.fault("status", request="storage", status=503, times=1)
        hub.fault("drop", request="resolve", times=1)
        hub.fault("rate-limit", request="resolve", seconds=1, times=1)
        hub.fault("truncate", request="storage", path="model-1.safetensors", times=1)
        with pair(hub) as (_, new):
            assert np.array_equal(read(new)["layers.1.2.weight"], edited[1]["layers.1.2.weight"])

    def test_an_address_that_expires_is_asked_for_again(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        asked: list[int] = []

        def expire(done: int, total: int, note: str) -> None:
            if not asked and total > 100_000:
                asked.append(done)
                hub.fault("status", request="storage", status=403, times=1)

        with pair(hub, progress=expire) as (_, new):
            assert np.array_equal(read(new)["layers.1.2.weight"], edited[1]["layers.1.2.weight"])
        assert asked

    def test_a_rate_limit_that_asks_for_too_long(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.fault("rate-limit", request="resolve", seconds=3600)
        assert "asks to wait 3600 s" in error(hub)

    def test_a_body_that_drips(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.fault("slow", request="storage", seconds=0.05)
        assert "the Hub sends too slowly" in error(hub, patience=Patience(window=0.3))

    def test_a_hub_that_stops_answering(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.fault("stall", request="storage", seconds=60)
        assert "the Hub stopped answering (timed out)" in error(hub, patience=Patience(timeout=0.2))

    def test_no_hub(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.stop()
        assert "hf://org/a: the Hub cannot be reached" in error(hub)

    def test_offline(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        assert "cannot be compared by ranges without the network; compare with --download" in error(hub, offline=True)

    def test_nothing_to_compare(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.commit("org/onnx", {"model.onnx": b"x"})
        assert "hf://org/onnx: has no safetensors files there" in error(hub, new="hf://org/onnx")
        assert "no such repository" in error(hub, new="hf://org/none")

    def test_a_listing_that_leads_out(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
        hub.list_also("org/b", path="../../x.safetensors")
        assert "leaves the artifact with '..'" in error(hub)

    def test_a_full_disk(self, hub: LoopbackHub, edited: tuple[Tensors, Tensors], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.pwrite", lambda fd, data, offset: len(data) - 1)
        assert "no space left" in error(hub)


def test_the_token_goes_to_the_hub_only(hub: LoopbackHub, edited: tuple[Tensors, Tensors]) -> None:
    for repo in ("org/a", "org/b"):
        hub.create(repo, private=True)
    assert "it is private and the token may not see it" in error(hub)
    hub.requests.clear()
    with pair(hub, token=TOKEN):
        pass
    assert {request.token for request in hub.requests if request.kind == "storage"} == {None}
    assert {request.token for request in hub.requests if request.kind != "storage"} == {TOKEN}


def test_storage_gets_its_own_credential_and_not_the_token() -> None:
    with LoopbackHub(xet=True) as hub:
        shard = tensors(0)
        hub.commit("org/a", {"model.safetensors": save(shard)})
        hub.commit("org/b", {"model.safetensors": save(shard | {"layers.0.1.weight": shard["layers.0.2.weight"]})})
        with pair(hub, token=TOKEN):
            pass
        assert {request.token for request in hub.requests if request.kind == "xet"} == {"xet-org/a", "xet-org/b"}
        assert {request.token for request in hub.requests if request.kind == "storage"} == {None}


class TestXet:
    """Terms align where they begin or end with the same chunk."""

    def test_runs(self) -> None:
        whole = [Term(0, 1000, "x", 0, 100)]
        edited = [Term(0, 400, "x", 0, 40), Term(400, 430, "y", 0, 3), Term(430, 1000, "x", 43, 100)]
        assert common_runs(whole, edited) == [(0, 0, 400), (430, 430, 570)]
        assert common_runs(whole, [Term(0, 570, "x", 43, 100)]) == [(430, 0, 570)]
        assert common_runs(whole, [Term(0, 100, "x", 10, 20), Term(100, 200, "z", 0, 10)]) == []

    def test_what_no_run_covers(self) -> None:
        runs = [(0, 0, 400), (430, 430, 570), (400, 900, 10)]
        assert uncovered(0, 1000, 0, runs) == [(400, 430)]
        assert uncovered(390, 440, 0, runs) == [(400, 430)]
        assert uncovered(0, 300, 0, runs) == uncovered(5, 5, 0, []) == []
        assert uncovered(0, 10, 1, runs) == [(0, 10)]

    @pytest.mark.parametrize(
        "answer",
        [
            {}, [], {"offset_into_first_range": 0, "terms": [{}]},
            {"offset_into_first_range": 0, "terms": [{"hash": "../x", "unpacked_length": 9, "range": {"start": 0, "end": 1}}]},
            {"offset_into_first_range": 0, "terms": [{"hash": "0" * 64, "unpacked_length": -9, "range": {"start": 0, "end": 1}}]},
            {"offset_into_first_range": 0, "terms": [{"hash": "0" * 64, "unpacked_length": 9, "range": {"start": 1, "end": 1}}]},
        ],
    )  # fmt: skip
    def test_answers_that_are_none_save_nothing(self, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        with LoopbackHub(xet=True) as hub:
            shard = tensors(0)
            hub.commit("org/a", {"model.safetensors": save(shard)})
            hub.commit("org/b", {"model.safetensors": save(shard | {"layers.0.1.weight": shard["layers.0.2.weight"]})})
            assert hub.xet is not None
            monkeypatch.setattr(hub.xet, "reconstruction", lambda *_: json.loads(json.dumps(answer)))
            with pair(hub) as (old, new):
                assert all(file.sha256 for file in old.files + new.files)
