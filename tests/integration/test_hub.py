"""hf:// against a Hub on loopback: online, then offline; every fault ends in an error that names its cause, never in other bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from modelguard import Artifact, DigestMismatchError, SourceContext, SourceError, UnfetchedFile
from modelguard._sources.hub import HubSource
from modelguard._sources.session import Patience
from modelguard.testing.hub import LoopbackHub

WEIGHTS = b"\x02\0\0\0\0\0\0\0{}" + bytes(range(256)) * 16
FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}\n", "vae/model.safetensors": b"vae", "empty.txt": b""}
TOKEN = "hf_loopback"
LARGE = bytes(17 << 20)


def location(name: str) -> bytes:
    return b"\x0a\x08location\x12" + bytes([len(name)]) + name.encode()


class Client:
    """HubSource as a user has it: one Hub, one cache."""

    def __init__(self, hub: LoopbackHub, cache: Path, **options: Any) -> None:
        self.hub, self.cache, self.options = hub, cache, options

    def fetch(self, uri: str = "hf://org/model", **context: Any) -> Artifact:
        return HubSource(endpoint=self.hub.endpoint, cache=self.cache, **self.options).fetch(uri, SourceContext(**context))

    def error(self, uri: str = "hf://org/model", **context: Any) -> str:
        with pytest.raises(SourceError) as caught:
            self.fetch(uri, **context)
        line = str(caught.value)
        assert caught.value.exit_code == 3
        assert "\n" not in line
        assert line.startswith("hf://")
        assert not any(secret in line for secret in (str(self.cache), "127.0.0.1", "localhost", "signature", TOKEN))
        return line


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    hub.commit("org/model", FILES)
    return Client(hub, tmp_path / "cache")


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {file.path: bytes(file.map()) for file in artifact.files}


def test_a_model_is_brought_and_every_file_hashed(client: Client, hub: LoopbackHub) -> None:
    commit = hub.commit("org/model", {})
    artifact = client.fetch()
    assert contents(artifact) == FILES
    assert [file.path for file in artifact.files] == sorted(FILES)
    assert [file.sha256 for file in artifact.files] == [hashlib.sha256(FILES[path]).hexdigest() for path in sorted(FILES)]
    assert (artifact.uri, artifact.identity, artifact.revision) == ("hf://org/model", "hf:org/model", commit)
    assert (artifact.unfetched, artifact.notes) == ((), ())


def test_a_second_scan_downloads_nothing(client: Client, hub: LoopbackHub) -> None:
    first = client.fetch()
    hub.requests.clear()
    assert client.fetch() == first
    assert {request.kind for request in hub.requests} == {"info", "tree"}


def test_progress_counts_the_bytes(client: Client) -> None:
    seen: list[tuple[int, int, str]] = []
    client.fetch(progress=lambda *values: seen.append(values))
    total = sum(map(len, FILES.values()))
    assert [done for done, _, _ in seen].count(total) == 2, "once downloaded, once hashed"
    assert {total_ for _, total_, _ in seen} == {total}


def test_branches_tags_commits_and_pull_requests(client: Client, hub: LoopbackHub) -> None:
    first = hub.commit("org/model", {"v": b"1"})
    hub.tag("org/model", "v1.0", first)
    other = hub.commit("org/model", {"v": b"2"}, branch="feature/x")
    hub.tag("org/model", "refs/pr/7", other)
    hub.commit("org/model", {"v": b"3"})
    for revision, expected in (("v1.0", b"1"), (first, b"1"), ("feature%2Fx", b"2"), ("refs/pr/7", b"2"), ("main", b"3")):
        artifact = client.fetch(f"hf://org/model@{revision}")
        assert contents(artifact)["v"] == expected
        assert artifact.uri == f"hf://org/model@{revision}"
    assert client.fetch("hf://org/model@refs/pr/7/vae").files[0].path == "model.safetensors"


def test_a_branch_that_moves_meanwhile_moves_nothing(client: Client, hub: LoopbackHub) -> None:
    first = hub.commit("org/model", {})
    for request in ("tree", "resolve"):
        hub.before(request, lambda: hub.commit("org/model", {"model.safetensors": b"new"}))
        artifact = client.fetch(f"hf://org/model@{first}" if request == "resolve" else "hf://org/model")
        assert artifact.revision == first
        assert contents(artifact) == FILES
    assert all(first in request.target for request in hub.requests if request.kind in ("tree", "resolve"))


def test_a_folder_and_a_file_are_as_they_are_locally(client: Client, hub: LoopbackHub) -> None:
    folder = client.fetch("hf://org/model/vae")
    assert (contents(folder), folder.root.name) == ({"model.safetensors": b"vae"}, "vae")
    file = client.fetch("hf://org/model/vae/model.safetensors")
    assert (contents(file), file.root.name, file.unfetched) == ({"model.safetensors": b"vae"}, "vae", ())
    assert "no file or folder 'vae/mod' at commit" in client.error("hf://org/model/vae/mod")
    hub.commit("org/void", {})
    assert "has no files at commit" in client.error("hf://org/void")


def test_large_files_no_format_reads_are_listed_not_fetched(client: Client, hub: LoopbackHub) -> None:
    hub.commit("org/model", {"pytorch_model.bin": LARGE, "notes.md": b"x", "big.safetensor": LARGE + b"1", "big.json": LARGE})
    artifact = client.fetch()
    reason = "no format reads it, and it is larger than 16 MiB (text: 256 MiB)"
    git = hashlib.sha1(b"blob %d\0" % (len(LARGE) + 1) + LARGE + b"1").hexdigest()
    assert artifact.unfetched == (
        UnfetchedFile("big.safetensor", len(LARGE) + 1, f"git:{git}", reason),
        UnfetchedFile("pytorch_model.bin", len(LARGE), f"sha256:{hashlib.sha256(LARGE).hexdigest()}", reason),
    )
    assert artifact.file("notes.md") is not None
    assert artifact.file("big.json") is not None, "a name that promises text is no evidence of it"
    assert not any("pytorch_model.bin" in request.target for request in hub.requests)
    assert client.fetch(extensions=(".bin",)).file("pytorch_model.bin") is not None


def test_patterns_limit_what_is_fetched(client: Client) -> None:
    artifact = client.fetch(patterns=("*.json", "vae/*"))
    assert sorted(contents(artifact)) == ["config.json", "vae/model.safetensors"]
    assert [file.path for file in artifact.unfetched] == ["empty.txt", "model.safetensors"]
    assert artifact.unfetched[0].reason == "it matches none of the patterns asked for"


def test_external_data_and_shards_are_fetched_whatever_they_are_called(client: Client, hub: LoopbackHub) -> None:
    onnx = b"\x08\x0a" + location("weights/w.bin") + location("../../etc/passwd") + location("absent")
    index = b'{"weight_map": {"a": "shard.weights", "b": 1}}'
    hub.commit(
        "org/onnx",
        {
            "onnx/model.onnx": onnx, "onnx/weights/w.bin": LARGE, "onnx/other.bin": LARGE,
            "model.safetensors.index.json": index, "shard.weights": LARGE,
            "pytorch_model.bin.index.json": index.replace(b"shard", b"torch"), "torch.weights": LARGE,
        },
    )  # fmt: skip
    artifact = client.fetch("hf://org/onnx")
    assert [file.path for file in artifact.unfetched] == ["onnx/other.bin"]
    single = client.fetch("hf://org/onnx/onnx/model.onnx")
    assert [file.path for file in single.files] == ["model.onnx", "weights/w.bin"]


class TestOffline:
    """What was scanned online scans offline, with nothing asked of the Hub; what cannot be known is said."""

    def test_the_same_artifact_without_network(self, client: Client, hub: LoopbackHub) -> None:
        hub.commit("org/model", {"big.bin": LARGE})
        online = client.fetch()
        hub.stop()
        offline = client.fetch(offline=True)
        assert (offline.files, offline.unfetched, offline.revision) == (online.files, online.unfetched, online.revision)
        assert offline.notes == ("revision 'main' was resolved from the cache: the Hub was not asked whether it has moved",)
        assert client.fetch(f"hf://org/model@{online.revision}", offline=True).notes == ()
        assert [file.path for file in client.fetch("hf://org/model/vae", offline=True).files] == ["model.safetensors"]

    def test_an_unreachable_hub_is_no_reason_to_use_the_cache(self, client: Client, hub: LoopbackHub, hasty: None) -> None:
        client.fetch()
        hub.stop()
        assert "the Hub cannot be reached" in client.error()
        assert "the Hub cannot be reached" in client.error(f"hf://org/model@{hub.commit('org/model', {})}")

    def test_what_was_never_fetched_is_an_error(self, client: Client, hub: LoopbackHub) -> None:
        assert "revision 'main' is not in the cache; scan once online" in client.error(offline=True)
        assert f"commit {'a' * 40} is not in the cache" in client.error(f"hf://org/model@{'a' * 40}", offline=True)
        client.fetch(patterns=("*.json",))
        assert "hf://org/model empty.txt: is not in the cache" in client.error(offline=True)

    def test_damage_in_the_cache_is_found(self, client: Client) -> None:
        file = client.fetch().file("model.safetensors")
        assert file is not None
        file.local.write_bytes(WEIGHTS[::-1])
        for offline in (True, False):
            line = client.error(offline=offline)
            assert hashlib.sha256(WEIGHTS).hexdigest() in line
            assert hashlib.sha256(WEIGHTS[::-1]).hexdigest() in line
            assert "`hf cache rm`" in line
        assert file.local.exists(), "what this fetch did not bring is left alone"

    def test_a_snapshot_of_another_program_is_compared_with_its_blob_names(self, client: Client, hub: LoopbackHub) -> None:
        from huggingface_hub import hf_hub_download

        for path in FILES:
            hf_hub_download("org/model", path, cache_dir=client.cache, endpoint=hub.endpoint)
        artifact = client.fetch(offline=True)
        assert contents(artifact) == FILES
        assert any("the cache has no listing of this commit" in note for note in artifact.notes)
        copy = artifact.root / "copied.txt"
        copy.write_text("no link, no digest")
        assert client.fetch(offline=True).notes[-1] == "not compared with any digest: copied.txt"
        file = artifact.file("config.json")
        assert file is not None
        file.local.write_bytes(b"[]\n")
        assert "its bytes have digest" in client.error(offline=True)

    def test_a_listing_the_client_did_not_write_is_not_used(self, client: Client) -> None:
        artifact = client.fetch()
        trees = artifact.root.parents[1] / "trees" / f"{artifact.revision}.json"
        good = trees.read_text()
        for text in ("", "[]", '{"format_version": 2, "files": {}}', '{"format_version": 1, "files": {"a": 1}}'):
            trees.write_text(text)
            assert any("no listing" in note for note in client.fetch(offline=True).notes)
        trees.write_text(good.replace("config.json", "../config.json"))
        assert "leaves the artifact with '..'" in client.error(offline=True)

    def test_a_damaged_ref_is_an_error(self, client: Client) -> None:
        artifact = client.fetch()
        (artifact.root.parents[1] / "refs" / "main").write_text("../../x")
        assert "record of revision 'main' is damaged" in client.error(offline=True)
        (artifact.root.parents[1] / "refs" / "main").write_text(str(artifact.revision))
        for file in artifact.files:
            (artifact.root / file.path).unlink()
        (artifact.root.parents[1] / "trees" / f"{artifact.revision}.json").unlink()
        assert "nothing of it at commit" in client.error(offline=True)


class TestFaults:
    """Each ends in its own error."""

    @pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
    def test_wrong_bytes_under_the_right_digest(self, client: Client, hub: LoopbackHub, path: str) -> None:
        hub.fault("wrong-bytes", path=path)
        wrong = bytes(byte ^ 0xFF for byte in FILES[path])
        with pytest.raises(DigestMismatchError) as caught:
            client.fetch()
        line = str(caught.value)
        assert line.startswith(f"hf://org/model {path}: ")
        if path == "config.json":
            digests = [hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for data in (wrong, FILES[path])]
        else:
            digests = [hashlib.sha256(data).hexdigest() for data in (wrong, FILES[path])]
        assert all(digest in line for digest in digests)
        assert "removed from the cache" in line
        hub.heal()
        assert contents(client.fetch())[path] == FILES[path]

    def test_other_bytes_that_call_themselves_so(self, client: Client, hub: LoopbackHub) -> None:
        hub.fault("wrong-bytes", path="model.safetensors")
        hub.fault("wrong-etag", path="model.safetensors")
        assert "but the Hub advertises" in client.error()

    def test_truncation(self, client: Client, hub: LoopbackHub, hasty: None) -> None:
        hub.fault("truncate", request="storage", path="model.safetensors")
        assert client.error() == (
            "hf://org/model model.safetensors: the connection broke before the whole answer had come; try again later"
        )

    def test_truncation_once_is_resumed(self, client: Client, hub: LoopbackHub, hasty: None) -> None:
        hub.fault("truncate", request="storage", path="model.safetensors", times=1)
        hub.fault("ignore-range", request="storage")
        assert contents(client.fetch()) == FILES

    def test_a_shorter_file(self, client: Client, hub: LoopbackHub) -> None:
        hub.fault("short", request="storage", path="model.safetensors")
        assert "model.safetensors: the Hub sent fewer or more bytes than it announced" in client.error()

    def test_a_file_that_is_listed_but_gone(self, client: Client, hub: LoopbackHub) -> None:
        hub.list_also("org/model", path="gone.txt")
        assert "hf://org/model gone.txt: the Hub does not have the file it lists (HTTP 404)" in client.error()

    @pytest.mark.parametrize(
        ("status", "cause"),
        [
            (401, "asks for a valid token"),
            (403, "may not read it"),
            (404, "does not have it"),
            (410, "refuses the request"),
            (500, "failing"),
        ],
    )
    @pytest.mark.parametrize("request_kind", ["info", "tree", "resolve", "storage"])
    def test_http_errors(self, client: Client, hub: LoopbackHub, hasty: None, request_kind: str, status: int, cause: str) -> None:
        hub.fault("status", request=request_kind, status=status)
        line = client.error()
        assert cause in line
        assert f"(HTTP {status})" in line

    @pytest.mark.parametrize("request_kind", ["info", "tree", "resolve", "storage"])
    def test_a_rate_limit_that_asks_for_too_long(
        self, client: Client, hub: LoopbackHub, request_kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.fault("rate-limit", request=request_kind, seconds=3600)
        pauses: list[float] = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        assert "limits the rate of requests (HTTP 429) and asks to wait 3600 s" in client.error()
        assert max(pauses, default=0.0) < 60, "nobody waits that long"

    def test_a_short_rate_limit_is_obeyed(self, client: Client, hub: LoopbackHub, hasty: None) -> None:
        hub.fault("rate-limit", request="storage", seconds=1, times=2)
        assert contents(client.fetch()) == FILES

    def test_short_rate_limits_without_end(self, client: Client, hub: LoopbackHub, hasty: None) -> None:
        client.options["patience"] = Patience(rate_limit=10)
        hub.fault("rate-limit", request="tree", seconds=3)
        assert "asks to wait 3 s" in client.error()
        assert len([request for request in hub.requests if request.kind == "tree"]) <= 3

    @pytest.mark.parametrize("request_kind", ["info", "tree", "resolve", "storage"])
    def test_a_dropped_connection(self, client: Client, hub: LoopbackHub, hasty: None, request_kind: str) -> None:
        hub.fault("drop", request=request_kind)
        assert "the connection broke before the whole answer had come" in client.error()

    @pytest.mark.parametrize("request_kind", ["info", "tree", "resolve", "storage"])
    def test_redirects_in_circles(self, client: Client, hub: LoopbackHub, request_kind: str) -> None:
        hub.fault("redirect-loop", request=request_kind)
        assert "the Hub redirects in circles" in client.error()

    def test_a_hub_that_stops_answering(self, client: Client, hub: LoopbackHub, hasty: None) -> None:
        client.options["patience"] = Patience(timeout=0.3)
        hub.fault("stall", request="storage", seconds=60)
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.2  # type: ignore[assignment]  # put back by `hasty`
        assert "the Hub stopped answering (timed out)" in client.error()

    def test_a_body_that_drips(self, client: Client, hub: LoopbackHub) -> None:
        client.options["patience"] = Patience(window=0.5)
        hub.fault("slow", request="storage", path="model.safetensors", seconds=0.05)
        assert "the Hub sends too slowly (less than 1024 bytes/s over 0.5 s)" in client.error()

    def test_the_first_failure_ends_the_other_transfers(self, client: Client, hub: LoopbackHub) -> None:
        """If it did not, this would take more than an hour: a byte a second, and nobody who loses patience."""
        client.options["patience"] = Patience(window=1e9)
        hub.fault("slow", request="storage", path="model.safetensors", seconds=1)
        hub.fault("status", request="resolve", path="config.json", status=403)
        assert "config.json" in client.error()

    def test_an_unasked_for_encoding(self, client: Client, hub: LoopbackHub) -> None:
        hub.fault("encoded", request="storage", path="model.safetensors")
        assert "model.safetensors: the Hub's answer cannot be understood" in client.error()

    def test_an_answer_for_another_commit(self, client: Client, hub: LoopbackHub) -> None:
        hub.fault("wrong-commit", request="resolve", path="config.json")
        assert "config.json: the Hub answers for another commit" in client.error()

    def test_no_hub_at_all(self, client: Client, hub: LoopbackHub) -> None:
        hub.stop()
        assert client.error() == (
            "hf://org/model: the Hub cannot be reached (connection refused, or name or certificate not accepted); "
            "check the network and HF_ENDPOINT"
        )

    def test_a_host_that_is_no_hub(self, client: Client, hub: LoopbackHub) -> None:
        hub.endpoint = "no url"
        assert "hf://org/model: " in client.error()

    def test_a_full_disk(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
        assert "there is no space left for it in the cache" in client.error()

    def test_a_cache_that_cannot_be_written(self, client: Client) -> None:
        client.cache.write_text("a file")
        assert "cannot be stored in the cache" in client.error()

    def test_whatever_else_the_client_does(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError(f"{TOKEN}\x1b[31m\n")

        monkeypatch.setattr("huggingface_hub.file_download.http_get", broken)
        assert "the Hub's client failed (RuntimeError)" in client.error()


class TestListings:
    """A listing is what somebody else wrote."""

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("../x", "leaves the artifact"), ("a/../../x", "leaves the artifact"), ("..\\x", "backslash"), ("/x", "is absolute"),
            ("C:/x", "is absolute"), ("a\0b", "NUL"), ("", "is empty"), ("a/", "slash"), ("a//b", "no valid path"),
            ("./a", "no valid path"),
        ],
    )  # fmt: skip
    def test_paths_that_lead_out_are_refused(self, client: Client, hub: LoopbackHub, path: str, reason: str) -> None:
        hub.list_also("org/model", path=path)
        line = client.error()
        assert reason in line
        assert "\0" not in line
        assert not any(request.kind == "resolve" for request in hub.requests)

    @pytest.mark.parametrize(
        "entry",
        [
            {"path": 3}, {"path": "x", "size": -1}, {"path": "x", "size": "1"}, {"path": "x", "size": True},
            {"path": "x", "oid": "../../x"}, {"path": "x", "lfs": {"oid": "short", "size": 1, "pointerSize": 1}},
            {"path": "x", "xetHash": "../x"}, {"path": "config.json"},
        ],
    )  # fmt: skip
    def test_entries_that_are_none_are_refused(self, client: Client, hub: LoopbackHub, entry: dict[str, Any]) -> None:
        hub.list_also("org/model", **entry)
        line = client.error()
        assert "the listing" in line

    def test_terminal_escapes_in_a_listing_stay_escaped(self, client: Client, hub: LoopbackHub) -> None:
        hub.list_also("org/model", path="\x1b[2J/../x")
        assert "\x1b" not in client.error()

    def test_a_listing_has_many_pages_and_an_end(self, client: Client, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.page_size = 2
        assert contents(client.fetch()) == FILES
        assert len([request for request in hub.requests if "cursor=" in request.target]) >= 2
        monkeypatch.setattr("modelguard._sources.listing.MAX_FILES", 3)
        assert "the repository has more than 3 files" in client.error()


class TestToken:
    """Private repositories by the usual token, which goes to the Hub and nowhere else."""

    @pytest.mark.parametrize(("token", "cause"), [(None, "it is private and the token may not see it"), ("hf_wrong", "a valid token")])
    def test_private_repositories(self, client: Client, hub: LoopbackHub, token: str | None, cause: str) -> None:
        hub.create("org/model", private=True)
        client.options["token"] = token
        assert cause in client.error()
        client.options["token"] = TOKEN
        assert contents(client.fetch()) == FILES

    def test_missing_repositories_and_revisions(self, client: Client) -> None:
        assert client.error("hf://org/none").startswith("hf://org/none: no such repository, or it is private")
        assert "the repository has no such revision" in client.error("hf://org/model@none")
        assert "the repository has no such revision" in client.error(f"hf://org/model@{'b' * 40}")

    def test_a_slash_in_a_revision_is_taken_for_a_path_and_the_message_says_so(self, client: Client, hub: LoopbackHub) -> None:
        hub.commit("org/model", {"v": b"2"}, branch="feature/x")
        says = (
            "'feature' was taken for the revision and 'x' for a path in it; if the revision has a slash, write hf://org/model@feature%2Fx"
        )
        assert says in client.error("hf://org/model@feature/x")
        assert "if the revision has a slash, write hf://org/model@main%2Fx" in client.error("hf://org/model@main/x")
        assert "slash" not in client.error("hf://org/model@feature")
        assert "slash" not in client.error("hf://org/model/x")
        assert contents(client.fetch("hf://org/model@feature%2Fx"))["v"] == b"2"
        assert says in client.error("hf://org/model@feature/x", offline=True)

    @pytest.mark.parametrize("token", [None, TOKEN])
    def test_gated_repositories(self, client: Client, hub: LoopbackHub, token: str | None) -> None:
        hub.create("org/model", gated=True)
        client.options["token"] = token
        assert "the repository is gated and access was not granted" in client.error()

    def test_the_token_stays_on_the_hub(self, client: Client, hub: LoopbackHub) -> None:
        client.options["token"] = TOKEN
        client.fetch()
        assert {request.token for request in hub.requests if request.kind != "storage"} == {TOKEN}
        assert {request.token for request in hub.requests if request.kind == "storage"} == {None}

    def test_no_failure_shows_it(self, client: Client, hub: LoopbackHub, hasty: None, capfd: pytest.CaptureFixture[str]) -> None:
        client.options["token"] = TOKEN
        for kind in ("status", "truncate", "drop", "redirect-loop", "rate-limit", "wrong-bytes"):
            hub.fault(kind, request="*" if kind != "truncate" else "storage")
            with pytest.raises(SourceError) as caught:
                client.fetch()
            assert TOKEN not in "".join(traceback.format_exception(caught.value))
            hub.heal()
        captured = capfd.readouterr()
        assert captured.out + captured.err == ""


class TestSession:
    """The client's session is lent, not taken."""

    def test_it_is_given_back(self, client: Client) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import logging

        before = {event: list(hooks) for event, hooks in get_session().event_hooks.items()}
        verbosity = logging.get_verbosity()
        client.fetch()
        assert get_session().event_hooks == before
        assert logging.get_verbosity() == verbosity

    def test_two_fetches_at_once(self, client: Client, hub: LoopbackHub) -> None:
        hub.commit("org/other", {"a.safetensors": b"a"})
        results: dict[str, Artifact] = {}
        threads = [
            threading.Thread(target=lambda uri=uri: results.update({uri: client.fetch(uri)}))
            for uri in ("hf://org/model", "hf://org/other")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {uri: len(artifact.files) for uri, artifact in results.items()} == {"hf://org/model": 4, "hf://org/other": 1}


SCRIPT = """
import sys
from modelguard import SourceContext
from modelguard._sources import builtin_sources, resolve_source
source, uri = resolve_source(sys.argv[1], builtin_sources())
artifact = source.fetch(uri, SourceContext())
print(artifact.revision, *(file.path for file in artifact.files))
"""


def test_a_process_takes_hub_cache_token_and_offline_mode_from_its_environment(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.create("org/model", private=True)
    commit = hub.commit("org/model", FILES)

    def run(**extra: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **hub.env(tmp_path, TOKEN), **extra}
        return subprocess.run([sys.executable, "-c", SCRIPT, "hf://org/model"], env=env, capture_output=True, text=True, check=False)

    online = run()
    assert online.stdout.split() == [commit, *sorted(FILES)], online.stderr
    assert (tmp_path / "hub" / "models--org--model" / "snapshots" / commit).is_dir()
    hub.stop()
    assert run(HF_HUB_OFFLINE="1").stdout == online.stdout
    assert "the Hub cannot be reached" in run().stderr
