"""Opening whole artifacts: recognition by content, shards and their index, what is left unread."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from modelguard import Artifact, ArtifactFile, Checkpoint, Format, FormatError, FormatProblem, Target, UnfetchedFile
from modelguard._formats import builtin_formats
from modelguard._formats.named import by_name
from modelguard._formats.opening import open_artifact
from modelguard._formats.sniff import classify
from modelguard.images import png
from modelguard.testing.checkpoints import open_target, safetensors_bytes, write_onnx_mlp, write_safetensors, write_sharded

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123\n"
ARRAYS = {f"layer.{index}": np.full((2, 2), float(index)) for index in range(6)}


def zipped(entry: str = "archive/data.pkl") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, pickle.dumps({"a": 1}))
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def rules(target: Target) -> list[str]:
    return [problem.rule for problem in target.problems]


def names(target: Target) -> list[tuple[str, str]]:
    return [(item.name, item.format) for item in target.checkpoints]


# Recognition by content.


def test_checkpoints_of_several_formats_and_folders_side_by_side(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    write_onnx_mlp(tmp_path / "model.onnx")
    write_safetensors(tmp_path / "vae" / "model.safetensors", ARRAYS)
    (tmp_path / "README.md").write_text("# A model\n")
    target = open_target(tmp_path)
    assert names(target) == [("model", "onnx"), ("model", "safetensors"), ("vae/model", "safetensors")]
    assert not target.problems
    assert [file.path for file in target.unread] == ["README.md"]


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.onnx", "weights.json"])
def test_a_wrong_extension_is_a_problem_and_the_file_is_read(name: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / name, ARRAYS)
    target = open_target(tmp_path)
    assert rules(target) == ["MG0103"]
    assert "is safetensors" in target.problems[0].message
    assert "rename it to end in .safetensors" in target.problems[0].message
    assert names(target) == [("weights", "safetensors")]
    assert not target.problems[0].fatal


def test_a_file_without_an_extension_claims_nothing(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "weights", ARRAYS)
    target = open_target(tmp_path)
    assert rules(target) == []
    assert names(target) == [("weights", "safetensors")]


def test_extensions_are_compared_without_case(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "Model.SafeTensors", ARRAYS)
    target = open_target(tmp_path)
    assert rules(target) == []
    assert names(target) == [("Model", "safetensors")]


@pytest.mark.parametrize("extension", [".safetensors", ".onnx"])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (zipped(), "a zip archive"),
        (pickle.dumps([1, 2]), "a Python pickle"),
        (pickle.dumps([1, 2], protocol=2), "a Python pickle"),
        (tarred(), "a tar archive"),
        (b"\x1f\x8b\x08" + bytes(30), "gzip data"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7z archive"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(30), "a RAR archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file"),
        (b"\x93NUMPY\x01\0" + bytes(30), "a NumPy array"),
        (b"\x7fELF" + bytes(30), "an ELF program"),
        (b"MZ\x90\0" + bytes(30), "a Windows program"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_named_for_what_it_is(data: bytes, what: str, extension: str, tmp_path: Path) -> None:
    (tmp_path / f"model{extension}").write_bytes(data)
    write_safetensors(tmp_path / "other.safetensors", ARRAYS)
    target = open_target(tmp_path)
    (problem,) = target.problems
    assert (problem.rule, problem.fatal) == ("MG0101", True)
    assert f"is {what}" in problem.message
    assert "do not load it" in problem.message
    assert names(target) == [("other", "safetensors")]


def test_a_git_lfs_pointer_says_what_to_run(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "tokenizer.json"):
        (tmp_path / name).write_bytes(LFS)
    target = open_target(tmp_path)
    assert [(item.rule, item.file) for item in target.problems] == [("MG0113", "model.safetensors"), ("MG0113", "pytorch_model.bin")]
    assert target.problems[0].message.endswith("run git lfs pull")


def test_a_broken_file_keeps_no_other_from_being_opened(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 4)
    (tmp_path / "b.onnx").write_bytes(b"\x08\x08\x3a\x7f")
    write_safetensors(tmp_path / "c.safetensors", ARRAYS)
    target = open_target(tmp_path)
    assert [(item.rule, item.file, item.fatal) for item in target.problems] == [
        ("MG0102", "a.safetensors", True),
        ("MG0102", "b.onnx", True),
    ]
    assert names(target) == [("c", "safetensors")]


def test_a_file_that_vanished_is_a_problem(tmp_path: Path) -> None:
    gone = ArtifactFile("gone.safetensors", tmp_path / "gone.safetensors", 100)
    path = write_safetensors(tmp_path / "here.safetensors", ARRAYS)
    artifact = Artifact("x", "local:x", tmp_path, (gone, ArtifactFile(path.name, path, path.stat().st_size)))
    opened = open_artifact(artifact, [item() for item in builtin_formats()])
    assert [(item.rule, item.file) for item in opened.problems] == [("MG0114", "gone.safetensors")]
    assert len(opened.checkpoints) == 1


def test_a_header_that_needs_more_memory_than_there_is_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard._formats import safetensors

    def exhausted(*_: object) -> None:
        raise MemoryError

    write_safetensors(tmp_path / "a.safetensors", ARRAYS)
    write_onnx_mlp(tmp_path / "b.onnx")
    monkeypatch.setattr(safetensors, "read_header", exhausted)
    target = open_target(tmp_path)
    assert [(item.rule, item.file) for item in target.problems] == [("MG0104", "a.safetensors")]
    assert names(target) == [("b", "onnx")]


# Polyglots.


def test_a_checkpoint_that_is_a_zip_as_well(tmp_path: Path) -> None:
    archive = np.frombuffer(zipped(), np.uint8)
    write_safetensors(tmp_path / "a.safetensors", {"w": np.zeros(1000), "z": archive})
    proto = onnx.load(str(write_onnx_mlp(tmp_path / "b.onnx")))
    proto.metadata_props.add(key="z", value="x")
    (tmp_path / "b.onnx").write_bytes(proto.SerializeToString() + b"\xca\x3e" + bytes([len(archive) | 0x80, len(archive) >> 7]) + zipped())
    target = open_target(tmp_path)
    assert [(item.rule, item.file) for item in target.problems if item.rule == "MG0111"] == [
        ("MG0111", "a.safetensors"),
        ("MG0111", "b.onnx"),
    ]
    assert "a zip archive at once" in target.problems[0].message
    assert len(target.checkpoints) == 2


def test_a_zip_signature_alone_makes_no_polyglot(tmp_path: Path) -> None:
    data = np.frombuffer(b"PK\x05\x06" * 300, np.uint8)
    write_safetensors(tmp_path / "a.safetensors", {"z": data})
    assert not open_target(tmp_path).problems


def test_a_checkpoint_that_is_a_tar_as_well(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"a":"' + b" " * 227 + b'ustar  "}}'
    data = safetensors_bytes(header)
    assert data[257:262] == b"ustar"
    (tmp_path / "a.safetensors").write_bytes(data)
    assert rules(open_target(tmp_path)) == ["MG0111"]


# Shards.


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write_sharded(tmp_path / "text_encoder", ARRAYS, 3)
    target = open_target(tmp_path)
    (checkpoint,) = target.checkpoints
    assert not target.problems
    assert not target.unread
    assert (checkpoint.name, checkpoint.format) == ("text_encoder/model", "safetensors")
    assert checkpoint.files == tuple(f"text_encoder/model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
    assert list(checkpoint.tensors) == sorted(ARRAYS)
    assert checkpoint.metadata == {"format": "pt"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint.read(name), array)
        assert bytes(checkpoint.raw(name)) == array.tobytes()


@pytest.mark.parametrize("stem", ["model.fp16", "model.safetensors", "a-b", "consolidated"])
def test_stems_of_every_shape(stem: str, tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2, stem=stem, index=False)
    target = open_target(tmp_path)
    assert names(target) == [(stem, "safetensors")]
    assert not target.problems


def test_shards_may_count_from_zero(tmp_path: Path) -> None:
    for number in range(2):
        write_safetensors(tmp_path / f"m-{number}-of-2.safetensors", {f"w{number}": np.ones(1)})
    target = open_target(tmp_path)
    assert not target.problems
    assert list(target.checkpoints[0].tensors) == ["w0", "w1"]


def test_two_sets_and_a_whole_file_in_one_folder(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    write_sharded(tmp_path, ARRAYS, 2, index=False)
    write_sharded(tmp_path, ARRAYS, 3, index=False)
    assert names(open_target(tmp_path)) == [("model", "safetensors"), ("model-of-2", "safetensors"), ("model-of-3", "safetensors")]


def test_a_missing_shard_is_fatal_and_the_rest_is_still_there(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 4, index=False)
    for number in (2, 3):
        (tmp_path / f"model-0000{number}-of-00004.safetensors").unlink()
    target = open_target(tmp_path)
    (problem,) = target.problems
    assert (problem.rule, problem.fatal) == ("MG0108", True)
    assert "2 of the 4 shards of 'model' are missing (number 2, 3)" in problem.message
    assert list(target.checkpoints[0].tensors) == ["layer.0", "layer.3", "layer.4"]


def test_a_set_of_a_thousand_million_shards_is_counted_and_not_listed(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m-1-of-999999999.safetensors", ARRAYS)
    (problem,) = open_target(tmp_path).problems
    assert "999999998 of the 999999999 shards" in problem.message
    assert len(problem.message) < 300


def test_a_shard_that_cannot_be_opened_is_not_missing(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2, index=False)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x")
    target = open_target(tmp_path)
    assert rules(target) == ["MG0102"]


def test_shards_that_do_not_belong(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2, index=False)
    write_safetensors(tmp_path / "model-00003-of-00002.safetensors", {"extra": np.ones(1)})
    write_safetensors(tmp_path / "model-1-of-2.safetensors", {"again": np.ones(1)})
    target = open_target(tmp_path)
    assert set(rules(target)) == {"MG0108"}
    assert not any(problem.fatal for problem in target.problems)
    assert {"extra", "again"} <= set(target.checkpoints[0].tensors)


def test_a_tensor_in_two_shards_is_reported_and_both_can_be_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m-1-of-2.safetensors", {"w": np.full(2, 1.0)})
    write_safetensors(tmp_path / "m-2-of-2.safetensors", {"w": np.full(2, 2.0)})
    target = open_target(tmp_path)
    assert [(item.rule, item.tensor, item.file) for item in target.problems] == [("MG0107", "w", "m-2-of-2.safetensors")]
    (checkpoint,) = target.checkpoints
    assert [float(checkpoint.read(name)[0]) for name in checkpoint.tensors] == [2.0, 1.0]
    assert list(checkpoint.tensors) == ["w", "w (m-1-of-2.safetensors)"]


# The index.


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "rule", "says"),
    [
        (
            lambda index: index["weight_map"].update({"layer.0": "model-00002-of-00002.safetensors"}),
            "MG0109",
            "1 tensors are not in the file",
        ),
        (lambda index: index["weight_map"].update(ghost="model-00001-of-00002.safetensors"), "MG0109", "('ghost')"),
        (lambda index: index["weight_map"].pop("layer.0"), "MG0109", "1 tensors are in the shards and not in the index ('layer.0')"),
        (lambda index: index["weight_map"].update(x="model-00003-of-00003.safetensors"), "MG0108", "which the artifact does not have"),
        (lambda index: index["weight_map"].update(x="../../etc/passwd"), "MG0110", "leaves the artifact with '..'"),
        (lambda index: index["weight_map"].update(x="/etc/passwd"), "MG0110", "is absolute"),
        (lambda index: index["weight_map"].update(x="C:\\secret"), "MG0110", "contains a backslash"),
        (lambda index: index["metadata"].update(total_size=1), "MG0118", "total_size is 1"),
        (lambda index: index.pop("weight_map"), "MG0109", "without a weight_map"),
        (lambda index: index.update(weight_map=[1]), "MG0109", "without a weight_map"),
        (lambda index: index["weight_map"].update(x=1), "MG0109", "without a weight_map"),
    ],
    ids=["elsewhere", "ghost", "unlisted", "missing", "climbs out", "absolute", "backslash", "size", "no map", "list", "number"],
)
def test_an_index_is_checked_against_the_headers(change: Callable[[dict[str, Any]], object], rule: str, says: str, tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2)
    edit(tmp_path, change)
    target = open_target(tmp_path)
    (problem,) = target.problems
    assert (problem.rule, problem.file) == (rule, "model.safetensors.index.json")
    assert says in problem.message
    assert list(target.checkpoints[0].tensors) == sorted(ARRAYS)


def test_shards_that_the_index_does_not_name(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2)
    only = "model-00001-of-00002.safetensors"
    edit(tmp_path, lambda index: index.update(weight_map={name: file for name, file in index["weight_map"].items() if file == only}))
    edit(tmp_path, lambda index: index["metadata"].clear())
    (problem,) = open_target(tmp_path).problems
    assert (problem.rule, problem.evidence["kind"]) == ("MG0109", "extra")


def test_an_index_left_over_beside_a_whole_file_is_out_of_date(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2)
    for path in tmp_path.glob("*-of-*"):
        path.unlink()
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    assert rules(open_target(tmp_path)) == ["MG0118"]


def test_an_index_alone_is_missing_its_shards(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2)
    for path in tmp_path.glob("*-of-*"):
        path.unlink()
    target = open_target(tmp_path)
    assert [(item.rule, item.fatal) for item in target.problems] == [("MG0108", True)]
    assert not target.checkpoints


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", "MG0109"),
        ("[" * 100_000, "MG0109"),
        ('{"weight_map":{"a":"x","a":"y"}}', "MG0107"),
        ('{"weight_map":' + "[[]" + ",[]" * 1_000_001 + "]}", "MG0104"),
        ('{"a":' + "9" * 5000 + "}", "MG0109"),
    ],
    ids=["cut off", "nested", "duplicate key", "million lists", "huge number"],
)
def test_a_hostile_index_is_a_problem(text: str, rule: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    target = open_target(tmp_path)
    assert [(item.rule, item.fatal) for item in target.problems] == [(rule, True)]
    assert len(target.checkpoints) == 1


def test_an_index_of_a_variant_is_checked_too(tmp_path: Path) -> None:
    write_sharded(tmp_path, ARRAYS, 2, stem="model.fp16", index=False)
    index = {"weight_map": dict.fromkeys([*ARRAYS, "ghost"], "model.fp16-00001-of-00002.safetensors")}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert set(rules(open_target(tmp_path))) == {"MG0109"}


# External data beside a model.


def test_bytes_in_external_data_that_no_tensor_claims(tmp_path: Path) -> None:
    proto = onnx.load(str(write_onnx_mlp(tmp_path / "m.onnx")))
    onnx.save(proto, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    assert not open_target(tmp_path).problems
    with (tmp_path / "m.data").open("ab") as handle:
        handle.write(bytes(5000))
    assert not open_target(tmp_path).problems  # zeros are padding
    with (tmp_path / "m.data").open("ab") as handle:
        handle.write(b"payload")
    (problem,) = open_target(tmp_path).problems
    assert (problem.rule, problem.file, problem.fatal) == ("MG0116", "m.data", False)


def test_two_models_may_share_external_data(tmp_path: Path) -> None:
    values = np.arange(1.0, 9.0, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    for number in range(2):
        tensor = numpy_helper.from_array(values[4 * number : 4 * number + 4], "w")
        onnx.external_data_helper.set_external_data(tensor, "w.bin", offset=16 * number, length=16)
        tensor.ClearField("raw_data")
        proto = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
        (tmp_path / f"m{number}.onnx").write_bytes(proto.SerializeToString())
    target = open_target(tmp_path)
    assert not target.problems
    assert [float(item.read("w")[0]) for item in target.checkpoints] == [1.0, 5.0]


def test_external_data_that_was_not_fetched_says_so(tmp_path: Path) -> None:
    proto = onnx.load(str(write_onnx_mlp(tmp_path / "m.onnx")))
    onnx.save(proto, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    path = tmp_path / "m.onnx"
    unfetched = (UnfetchedFile("m.data", 10, "", "it is over the size limit"),)
    artifact = Artifact("x", "local:x", tmp_path, (ArtifactFile("m.onnx", path, path.stat().st_size),), unfetched=unfetched)
    (problem,) = open_artifact(artifact, [item() for item in builtin_formats()]).problems
    assert (problem.rule, problem.fatal) == ("MG0108", True)
    assert "was not fetched: it is over the size limit" in problem.message


# What is left unread.


@pytest.mark.parametrize(
    ("name", "data", "matter"),
    [
        ("README.md", b"# hello\n", "inert"),
        ("config.json", b'{"a": 1}', "inert"),
        ("LICENSE", b"Apache License", "inert"),
        (".gitattributes", b"*.bin filter=lfs", "inert"),
        ("merges.txt", b"#version: 0.2\n\xc4\xa0 t", "inert"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02", "inert"),
        ("image.png", png(np.zeros((3, 2, 2), np.uint8)), "inert"),
        ("image.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "unknown"),
        ("empty.bin", b"", "inert"),
        ("notes", b"text without an ending", "inert"),
        ("pytorch_model.bin", zipped(), "archive"),
        ("scheduler.pt", pickle.dumps({"a": 1}), "code"),
        ("model.pkl", b"cos\nsystem\n(S'id'\ntR.", "code"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "weights"),
        ("model.h5", b"\x89PNG\r\n\x1a\n" + bytes(504) + b"\x89HDF\r\n\x1a\n", "weights"),
        ("model.gguf", b"GGUF\x03" + bytes(50), "weights"),
        ("flax_model.msgpack", b"\x83\xa5layer" + bytes([200, 0, 1]), "weights"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(50), "weights"),
        ("modeling_x.py", b"import os\n", "code"),
        ("run", b"#!/bin/sh\nrm -rf /\n", "code"),
        ("lib.so", b"\x7fELF" + bytes(50), "code"),
        ("data.txt", b"text\0binary", "unknown"),
        ("README.md", bytes(range(128, 200)), "unknown"),
        ("picture.png", b"not a picture \xff\xfe", "unknown"),
        ("late.txt", b"a" * 100_000 + b"\xff", "unknown"),
        ("weights.json", LFS, "unknown"),
    ],
)
def test_unread_files_are_sorted_by_content_first(name: str, data: bytes, matter: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert classify(ArtifactFile(name, path, len(data))).matter == matter


@pytest.mark.parametrize(
    ("name", "matter"),
    [
        ("a/tf_model.h5", "weights"),
        ("x.PY", "code"),
        ("x.tar.gz", "archive"),
        ("README", "inert"),
        (".gitignore", "inert"),
        ("x.zzz", "unknown"),
    ],
)
def test_files_that_are_not_here_are_sorted_by_name(name: str, matter: str) -> None:
    assert by_name(name).matter == matter


# Formats of plugins.


class Anything(Format):
    """A plugin's format that believes every file to be its own, and can open none."""

    id = "anything"
    extensions = (".any",)

    def recognise(self, head: bytes, size: int) -> bool:
        return True

    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[Checkpoint, tuple[FormatProblem, ...]]:
        raise FormatError(file.path, "is nothing", "do not load it", rule="MG0102")


def test_a_file_that_two_formats_claim_is_a_polyglot_and_every_reading_is_tried(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", ARRAYS)
    artifact = Artifact("x", "local:x", tmp_path, (ArtifactFile(path.name, path, path.stat().st_size),))
    result = open_artifact(artifact, [Anything(), *(item() for item in builtin_formats())])
    assert [(item.rule, item.fatal) for item in result.problems] == [("MG0111", False)]
    assert "can be read as anything and safetensors" in result.problems[0].message
    assert [item.format for item in result.checkpoints] == ["safetensors"]


def test_a_format_that_cannot_open_what_it_claims_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m.any").write_bytes(b"x")
    artifact = Artifact("x", "local:x", tmp_path, (ArtifactFile("m.any", tmp_path / "m.any", 1),))
    result = open_artifact(artifact, [Anything()])
    assert [(item.rule, item.fatal, item.message) for item in result.problems] == [("MG0102", True, "m.any: is nothing; do not load it")]
