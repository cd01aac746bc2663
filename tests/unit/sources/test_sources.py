"""Local paths become artifacts; what leads out of them, or is no file, is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from modelguard import Artifact, ArtifactError, SourceContext, SourceError, UsageError
from modelguard._sources import builtin_sources, resolve_source
from modelguard._sources.digest import git_blob_id, hash_files
from modelguard._sources.hub_uri import HubUri, meant
from modelguard._sources.local import LocalSource
from modelguard._sources.paths import normal_path, unsafe_path
from modelguard._sources.references import references
from modelguard.artifact import ArtifactFile

COMMIT = "c" * 40


def fetch(path: Path | str, cache: Path | None = None, **options: Any) -> Artifact:
    return LocalSource(cache or Path("/nowhere")).fetch(str(path), SourceContext(**options))


def paths(artifact: Artifact) -> list[str]:
    return [file.path for file in artifact.files]


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        fetch(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "/tmp" not in line
    assert caught.value.exit_code == 3
    return line


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "vae" / "model.safetensors").write_bytes(b"more")
    return folder


def snapshot(cache: Path, files: dict[str, bytes], repository: str = "models--org--name") -> Path:
    """A repository in a Hugging Face cache, as huggingface_hub lays it out."""
    folder = cache / repository / "snapshots" / COMMIT
    for path, content in files.items():
        blob = cache / repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


def test_a_directory_is_its_files_sorted_and_hashed(model: Path) -> None:
    artifact = fetch(model)
    assert paths(artifact) == ["config.json", "model.safetensors", "vae/model.safetensors"]
    assert artifact.file("vae/model.safetensors").sha256 == hashlib.sha256(b"more").hexdigest()  # type: ignore[union-attr]
    assert (artifact.uri, artifact.revision) == ("model", None)


def test_the_uri_is_relative_as_given_and_never_absolute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert fetch("./model").uri == "model"
    assert fetch("../" + model.parent.name + "/model").uri == f"../{model.parent.name}/model"
    assert fetch(model / "config.json").uri == "config.json"
    monkeypatch.chdir(model)
    assert fetch(".").uri == "."


def test_a_local_model_is_known_by_its_path_and_no_absolute_path_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (model.parent / name / "model").mkdir(parents=True)
        (model.parent / name / "model" / "x").write_text("x")
    monkeypatch.chdir(model.parent)
    assert [fetch(path).identity for path in ("a/model", "./b/../b/model", model.parent / "b" / "model")] == [
        "local:a/model", "local:b/model", "local:b/model",
    ]  # fmt: skip
    monkeypatch.chdir(model.parent / "a" / "model")
    outside = [fetch(path).identity for path in (".", "../../b/model", model.parent / "b" / "model")]
    assert outside[0] != outside[1] == outside[2]
    assert all(re.fullmatch(r"local:model@[0-9a-f]{16}", item) for item in outside)


def test_digests_can_be_left_out_and_progress_counts_bytes(model: Path) -> None:
    assert {file.sha256 for file in fetch(model, digest=False).files} == {None}
    seen: list[tuple[int, int, str]] = []
    fetch(model, progress=lambda done, total, note: seen.append((done, total, note)))
    assert seen[-1][:2] == (13, 13)
    assert sorted(note for _, _, note in seen) == ["config.json", "model.safetensors", "vae/model.safetensors"]


def test_whatever_is_called_like_a_record_and_is_none_is_listed(model: Path) -> None:
    odd = [".git/objects/aa/" + "b" * 38, ".cache/huggingface/download/x.metadata", "vae/.git/config2", ".cache/other", ".hidden/..w/x"]
    for path in odd:
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_text("x")
    artifact = fetch(model)
    assert paths(artifact) == sorted([*odd, "config.json", "model.safetensors", "vae/model.safetensors"])
    assert artifact.left_out == ()


def test_an_empty_directory_and_a_missing_path_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert refusal(tmp_path / "empty") == "empty: the directory contains no files; name the directory that holds the model"
    assert refusal(tmp_path / "missing") == "missing: does not exist; check the path"
    assert "does not exist" in refusal(tmp_path / "missing" / "model.onnx")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be opened" in refusal(tmp_path / "loop")
    assert "cannot be opened" in refusal(str(tmp_path) + "/nul\0byte")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_an_error(model: Path) -> None:
    (model / "config.json").chmod(0)
    assert "config.json: cannot be read (Permission denied)" in refusal(model)


def test_unreadable_is_said_whoever_runs_this(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "config.json")
    assert refusal(model) == "config.json: cannot be read (Permission denied); make it readable, or scan a copy"


def test_an_unreadable_directory_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "vae":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(model) == "vae: the directory cannot be read (Permission denied); make it readable, or scan a copy"


def test_symlinks_out_are_refused_and_symlinks_inside_followed(model: Path) -> None:
    (model / "latest.safetensors").symlink_to("vae/model.safetensors")
    (model / "unet").symlink_to("vae")
    artifact = fetch(model)
    assert artifact.file("latest.safetensors").sha256 == hashlib.sha256(b"more").hexdigest()  # type: ignore[union-attr]
    assert "unet/model.safetensors" not in paths(artifact)

    (model.parent / "secret").write_text("s")
    for target in ("../secret", str(model.parent / "secret"), "vae/../../secret"):
        (model / "link.bin").unlink(missing_ok=True)
        (model / "link.bin").symlink_to(target)
        assert "link.bin: is a symlink out of the artifact" in refusal(model)
    (model / "link.bin").unlink()
    (model / "folder").symlink_to("..")
    assert "folder: is a symlink out of the artifact" in refusal(model)
    (model / "folder").unlink()
    (model / "gone").symlink_to("nothing")
    assert "gone: is a symlink to nothing" in refusal(model)


def test_what_the_user_names_may_be_a_symlink(model: Path) -> None:
    (model.parent / "current").symlink_to("model")
    (model.parent / "current.safetensors").symlink_to("model/model.safetensors")
    assert paths(fetch(model.parent / "current")) == ["config.json", "model.safetensors", "vae/model.safetensors"]
    artifact = fetch(model.parent / "current.safetensors")
    assert (paths(artifact), artifact.uri) == (["model.safetensors"], "current.safetensors")


def test_a_hard_link_is_inside_only_when_all_its_names_are(model: Path) -> None:
    os.link(model / "model.safetensors", model / "vae" / "same.safetensors")
    assert "vae/same.safetensors" in paths(fetch(model))
    os.link(model / "model.safetensors", model.parent / "outside")
    assert "model.safetensors: is a hard link whose other names lie outside the artifact" in refusal(model)
    assert paths(fetch(model / "model.safetensors")) == ["model.safetensors"], "a file named directly is what the user means"


def test_special_files_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(model / "pipe.safetensors")
    assert refusal(model) == "pipe.safetensors: is a FIFO; remove it from the artifact"
    assert "is a FIFO" in refusal(model / "pipe.safetensors")
    (model / "pipe.safetensors").unlink()
    monkeypatch.chdir(model)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("server.onnx")
        assert "server.onnx: is a socket" in refusal(model)
    assert "is a character device" in refusal("/dev/null")


def test_names_that_are_not_utf8_are_refused(model: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(model) + b"/bad\xff.bin"))).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes no such name")
    assert refusal(model) == r"bad\udcff.bin: its name is not valid UTF-8; rename it, or scan in a UTF-8 locale"


def test_a_file_that_changes_after_hashing_is_not_opened(model: Path) -> None:
    file = fetch(model).file("config.json")
    assert file is not None
    (model / "config.json").write_text("{  }")
    with pytest.raises(ArtifactError, match=r"config\.json: changed while it was being scanned"):
        file.open()


def test_a_failure_while_hashing_ends_it(model: Path) -> None:
    gone = ArtifactFile("gone", model / "gone", 0)
    with pytest.raises(ArtifactError, match="gone: cannot be opened"):
        hash_files([gone, *fetch(model).files])


class TestSnapshot:
    """A snapshot in a Hugging Face cache links into the blobs beside it."""

    def test_links_into_its_own_blobs_are_inside(self, tmp_path: Path) -> None:
        folder = snapshot(tmp_path, {"model.safetensors": b"w", "onnx/model.onnx": b"o"})
        artifact = fetch(folder)
        assert paths(artifact) == ["model.safetensors", "onnx/model.onnx"]
        assert paths(fetch(folder / "onnx" / "model.onnx")) == ["model.onnx"]
        assert paths(fetch(folder / "onnx")) == ["model.onnx"]

    def test_hard_linked_blobs_are_inside(self, tmp_path: Path) -> None:
        folder = snapshot(tmp_path, {"model.safetensors": b"w"})
        os.link((folder / "model.safetensors").resolve(), tmp_path / "deduplicated")
        assert paths(fetch(folder)) == ["model.safetensors"]

    def test_the_cache_wide_store_is_inside(self, tmp_path: Path) -> None:
        folder = snapshot(tmp_path, {"model.safetensors": b"w"})
        blob = (folder / "model.safetensors").resolve()
        shared = tmp_path / "blobs" / "ab" / ("ab" + "0" * 62)
        shared.parent.mkdir(parents=True)
        blob.rename(shared)
        blob.symlink_to(os.path.relpath(shared, blob.parent))
        artifact = fetch(folder)
        assert artifact.files[0].local == shared
        assert artifact.files[0].sha256 == hashlib.sha256(b"w").hexdigest()

    @pytest.mark.parametrize("target", ["../../blobs/not-a-digest", "../../../models--org--other/blobs/" + "0" * 64, "../../../secret"])
    def test_links_to_anything_else_are_refused(self, tmp_path: Path, target: str) -> None:
        folder = snapshot(tmp_path, {"model.safetensors": b"w"})
        place = Path(os.path.normpath(folder / target))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("s")
        (folder / "x").symlink_to(target)
        assert "x: is a symlink out of the artifact" in refusal(folder)

    def test_a_blob_that_links_out_is_refused(self, tmp_path: Path) -> None:
        folder = snapshot(tmp_path, {"model.safetensors": b"w"})
        (tmp_path / "secret").write_text("s")
        blob = (folder / "model.safetensors").resolve()
        blob.unlink()
        blob.symlink_to(tmp_path / "secret")
        assert "model.safetensors: is a symlink out of the artifact" in refusal(folder)

    def test_the_own_cache_names_the_repository(self, tmp_path: Path) -> None:
        folder = snapshot(tmp_path, {"onnx/model.onnx": b"w"})
        for target in (folder, folder / "onnx", folder / "onnx" / "model.onnx"):
            artifact = fetch(target, cache=tmp_path)
            assert (artifact.identity, artifact.revision) == ("hf:org/name", COMMIT)
        legacy = snapshot(tmp_path, {"a": b"a"}, "models--gpt2")
        assert fetch(legacy, cache=tmp_path).identity == "hf:gpt2"

    def test_the_same_names_elsewhere_are_only_names(self, tmp_path: Path) -> None:
        artifact = fetch(snapshot(tmp_path / "unpacked", {"a": b"a"}), cache=tmp_path / "cache")
        assert re.fullmatch("local:models--org--name@[0-9a-f]{16}", artifact.identity)
        assert artifact.revision is None
        datasets = fetch(snapshot(tmp_path / "cache", {"a": b"a"}, "datasets--org--name"), cache=tmp_path / "cache")
        assert datasets.identity.startswith("local:datasets--org--name@")

    def test_the_own_cache_is_the_clients(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = snapshot(tmp_path, {"a": b"a"})
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert LocalSource().fetch(str(folder), SourceContext()).identity == "hf:org/name"


def location(name: str) -> bytes:
    """An external-data entry as protobuf has it: ``{key: "location", value: name}``."""
    value = name.encode()
    length = bytes([len(value)]) if len(value) < 128 else bytes([0x80 | len(value) & 0x7F, len(value) >> 7])
    return b"\x0a\x08location\x12" + length + value


class TestNeighbours:
    """A single file brings the files it refers to, and nothing else of its folder."""

    def test_an_index_brings_its_shards(self, model: Path) -> None:
        shards = {"a": "model.safetensors", "b": "vae/model.safetensors", "c": "missing.safetensors", "d": "../secret", "e": 3}
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        artifact = fetch(model / "model.safetensors.index.json")
        assert paths(artifact) == ["model.safetensors", "model.safetensors.index.json", "vae/model.safetensors"]
        assert all(file.sha256 for file in artifact.files)

    @pytest.mark.parametrize("text", ["", "[]", '{"weight_map": [1]}', '{"weight_map": null}', "[" * 100_000, "\xff"])
    def test_an_index_that_is_none_brings_nothing(self, model: Path, text: str) -> None:
        (model / "broken.index.json").write_text(text, encoding="latin-1")
        assert paths(fetch(model / "broken.index.json")) == ["broken.index.json"]

    def test_onnx_brings_its_external_data(self, model: Path) -> None:
        long = "x" * 200 + ".bin"
        (model / long).write_text("x")
        names = ["./vae//model.safetensors", "/etc/passwd", "..\\x", long, "no"]
        (model / "m.onnx").write_bytes(b"\x08\x0a" + b"".join(map(location, names)) + b"\x0a\x08location\x12\x04\xff\xff\xff\xff")
        assert paths(fetch(model / "m.onnx")) == ["m.onnx", "vae/model.safetensors", long]

    def test_the_real_encoder_is_understood(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        import numpy as np

        weight = onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [],
            [onnx.helper.make_tensor_value_info("y", 1, [64, 64])], [weight],
        )  # fmt: skip
        where = tmp_path / "m.onnx"
        onnx.save_model(onnx.helper.make_model(graph), str(where), save_as_external_data=True, location="weights.data", size_threshold=0)
        assert paths(fetch(where)) == ["m.onnx", "weights.data"]

    def test_a_neighbour_that_links_out_is_refused(self, model: Path) -> None:
        (model.parent / "secret").write_text("s")
        (model / "w.bin").symlink_to("../secret")
        (model / "m.onnx").write_bytes(b"\x08\x0a" + location("w.bin"))
        assert "w.bin: is a symlink out of the artifact" in refusal(model / "m.onnx")
        (model / "w.bin").unlink()
        os.link(model.parent / "secret", model / "w.bin")
        assert "w.bin: is a hard link whose other names lie outside" in refusal(model / "m.onnx")

    def test_safetensors_are_not_searched(self, model: Path) -> None:
        (model / "s.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"{}" + location("config.json"))
        assert paths(fetch(model / "s.safetensors")) == ["s.safetensors"]

    def test_the_number_of_references_is_bounded(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modelguard._sources.references.MAX_REFERENCES", 3)
        (model / "m.onnx").write_bytes(b"".join(location(f"w{i}") for i in range(10)))
        assert len(references(ArtifactFile("m.onnx", model / "m.onnx", 1))) == 3


def test_too_many_files_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._sources.local.MAX_FILES", 2)
    assert "holds more than 2 files" in refusal(model)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"), ("a/", "ends in a slash"), ("/etc/passwd", "is absolute"), ("C:/x", "is absolute"), ("../x", "'..'"),
        ("a/../../x", "'..'"), ("a\\..\\x", "backslash"), ("a\0b", "NUL"), ("\ud800", "UTF-8"),
    ],
)  # fmt: skip
def test_unsafe_paths_are_told(name: str, reason: str) -> None:
    assert reason in unsafe_path(name)


def test_safe_paths_are_brought_into_one_form() -> None:
    assert unsafe_path("a/..b/c.safetensors") == ""
    assert normal_path("./a//b/./c") == "a/b/c"


def test_git_blob_ids_are_gits(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello\n")
    assert git_blob_id(ArtifactFile("f", tmp_path / "f", 6)) == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://org/name", HubUri("org/name")),
        ("hf://models/org/name@v1.0", HubUri("org/name", "v1.0")),
        ("hf://org/name@" + COMMIT + "/onnx/", HubUri("org/name", COMMIT, "onnx")),
        ("hf://org/name/a/b.onnx", HubUri("org/name", None, "a/b.onnx")),
        ("hf://org/name@refs/pr/12", HubUri("org/name", "refs/pr/12")),
        ("hf://org/name@refs/pr/12/a.onnx", HubUri("org/name", "refs/pr/12", "a.onnx")),
        ("hf://org/name@feature%2Fx/a", HubUri("org/name", "feature/x", "a")),
        ("hf://gpt2", HubUri("gpt2")),
        ("hf://models/gpt2@v1", HubUri("gpt2", "v1")),
        ("hf://gpt2@main/onnx/model.onnx", HubUri("gpt2", "main", "onnx/model.onnx")),
        ("hf://gpt2@refs/pr/1", HubUri("gpt2", "refs/pr/1")),
    ],
)
def test_hub_uris_are_understood(uri: str, expected: HubUri) -> None:
    assert HubUri.parse(uri) == expected


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("hf://", "names no repository"), ("hf://models/", "names no repository"), ("hf://datasets/org/name", "datasets"),
        ("hf://org/na me", "not a repository name"), ("hf://org/a--b", "not a repository name"), ("hf://-/b", "not a repository name"),
        ("hf://org/name@", "not a revision"), ("hf://org/name@..%2Fx", "not a revision"), ("hf://org/name/../x", "leaves the artifact"),
        ("hf://org/" + "n" * 100, "not a repository name"), ("hf://org/name.git", "not a repository name"),
    ],
)  # fmt: skip
def test_bad_hub_uris_are_usage_errors(uri: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        HubUri.parse(uri)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("https://huggingface.co/org/name", "hf://org/name"), ("http://www.huggingface.co/gpt2/", "hf://gpt2"),
        ("https://hf.co/org/name/tree/v1", "hf://org/name@v1"), ("huggingface.co/org/name", "hf://org/name"),
        ("https://huggingface.co/org/name/blob/main/a/b.onnx?download=true", "hf://org/name@main/a/b.onnx"),
        ("org/name", "hf://org/name"), ("gpt2", "hf://gpt2"), ("org/name@v1", "hf://org/name@v1"), ("hf:org/name", "hf://org/name"),
        ("https://huggingface.co/datasets/org/name", None), ("https://huggingface.co/", None), ("./nope", None), ("a/b/c", None),
        ("/models/x", None), ("models/x", None), ("model.onnx", None), ("../x", None), ("my model/x", None),
    ],
)  # fmt: skip
def test_the_model_on_the_hub_that_was_meant_is_named(text: str, uri: str | None) -> None:
    assert meant(text) == uri


def test_the_scheme_picks_the_source() -> None:
    sources = builtin_sources()
    assert [resolve_source(uri, sources)[0].scheme for uri in ("x/y", "./hf:/x", "hf://o/n", "HF://o/n")] == ["", "", "hf", "hf"]
    assert resolve_source("HF://o/n", sources)[1] == "hf://o/n"
    with pytest.raises(UsageError, match=r"s3://b/k: no source handles s3://; use a path, or one of: hf://"):
        resolve_source("s3://b/k", sources)
    with pytest.raises(UsageError, match="is empty"):
        resolve_source("", sources)
