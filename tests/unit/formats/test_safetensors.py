"""The safetensors reader on legal files: every dtype, shape and size, lazily and without copies."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from modelguard import ArtifactError, ArtifactFile, numpy_dtype
from modelguard._formats import mapped
from modelguard._formats.safetensors import DTYPES, SafetensorsCheckpoint, SafetensorsFormat, read_header
from modelguard.artifact import Artifact
from modelguard.checkpoint import DTYPE_BITS
from modelguard.testing.checkpoints import open_target, safetensors_bytes, write_safetensors

WHOLE_BYTES = sorted(dtype for dtype in DTYPES if DTYPE_BITS[dtype] >= 8)


def opened(path: Path) -> SafetensorsCheckpoint:
    artifact = Artifact("x", "local:x", path.parent, (file := ArtifactFile(path.name, path, path.stat().st_size),))
    checkpoint, problems = SafetensorsFormat().open(file, artifact)
    assert not problems
    return checkpoint


def test_the_dtypes_are_those_of_the_reference_parser() -> None:
    with pytest.raises(safetensors.SafetensorError) as error:
        safetensors.deserialize(  # type: ignore[no-untyped-call]
            safetensors_bytes({"a": {"dtype": "?", "shape": [], "data_offsets": [0, 0]}})
        )
    listed = set(str(error.value).partition("expected one of ")[2].partition(" at line")[0].replace("`", "").split(", "))
    assert listed == DTYPES


@pytest.mark.parametrize("dtype", WHOLE_BYTES)
def test_every_dtype_comes_back_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2 if dtype == "BOOL" else 256, size=6 * DTYPE_BITS[dtype] // 8, dtype=np.uint8)
    array = raw.view(numpy_dtype(dtype)).reshape(2, 3)
    checkpoint = opened(write_safetensors(tmp_path / "m.safetensors", {"w": array}))
    info = checkpoint.tensors["w"]
    assert (info.dtype, info.shape, info.byte_length, info.size) == (dtype, (2, 3), raw.size, 6)
    assert bytes(checkpoint.raw("w")) == raw.tobytes()
    assert checkpoint.read("w").dtype == array.dtype
    assert checkpoint.read("w").tobytes() == raw.tobytes()


@pytest.mark.parametrize(
    ("dtype", "element", "bits"),
    [("F4", ml_dtypes.float4_e2m1fn, 4), ("F6_E2M3", ml_dtypes.float6_e2m3fn, 6), ("F6_E3M2", ml_dtypes.float6_e3m2fn, 6)],
)
def test_elements_narrower_than_a_byte_are_unpacked_lowest_bits_first(dtype: str, element: type, bits: int, tmp_path: Path) -> None:
    codes = np.arange(1 << bits, dtype=np.uint8)
    stream = sum(int(code) << (bits * index) for index, code in enumerate(codes))
    packed = stream.to_bytes(len(codes) * bits // 8, "little")
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({"w": {"dtype": dtype, "shape": [2, len(codes) // 2], "data_offsets": [0, len(packed)]}}, packed))
    checkpoint = opened(path)
    assert bytes(checkpoint.raw("w")) == packed
    np.testing.assert_array_equal(checkpoint.read("w").reshape(-1).view(np.uint8), codes)
    assert checkpoint.read("w").dtype == np.dtype(element)


def test_it_reads_what_the_reference_library_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, Any] = {f"layer.{index}": rng.normal(size=(index, 7)).astype(np.float16) for index in range(5)}
    arrays["scalar"] = np.float64(2.5).reshape(())
    path = write_safetensors(tmp_path / "m.safetensors", arrays, {"format": "np", "author": "Ünïcode"})
    checkpoint, expected = opened(path), load_file(path)
    assert list(checkpoint.tensors) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint.read(name), array)
        assert checkpoint.read(name).shape == array.shape
    assert checkpoint.metadata == {"format": "np", "author": "Ünïcode"}


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"none": np.zeros((0, 4), np.float32), "one": np.full((), 3, np.int8), "last": np.zeros((2, 0), np.int64)}
    checkpoint = opened(write_safetensors(tmp_path / "m.safetensors", arrays))
    assert checkpoint.read("none").shape == (0, 4)
    assert checkpoint.read("one").shape == ()
    assert checkpoint.read("one") == 3
    assert len(checkpoint.raw("last")) == 0


def test_a_file_without_tensors_is_legal(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({}))
    assert not opened(path).tensors


def test_reading_copies_nothing_and_hands_out_nothing_to_write_to(tmp_path: Path) -> None:
    checkpoint = opened(write_safetensors(tmp_path / "m.safetensors", {"w": np.arange(100.0)}))
    array, again = checkpoint.read("w"), checkpoint.read("w")
    assert np.shares_memory(array, again)
    assert checkpoint.raw("w").readonly
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_byte_offsets_are_absolute(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a": np.arange(3, dtype=np.int16), "b": np.arange(5, dtype=np.uint8)})
    info = opened(path).tensors["b"]
    assert info.byte_offset is not None
    assert path.read_bytes()[info.byte_offset : info.byte_offset + info.byte_length] == bytes(range(5))


def test_views_outlive_the_maps_that_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAX_OPEN", 4)
    checkpoints = [opened(write_safetensors(tmp_path / f"{number}.safetensors", {"w": np.full(9, number)})) for number in range(12)]
    arrays = [checkpoint.read("w") for checkpoint in checkpoints]
    gc.collect()
    assert len(mapped._open) <= 4
    assert [int(array[0]) for array in arrays] == list(range(12))
    assert [int(checkpoint.read("w")[0]) for checkpoint in checkpoints] == list(range(12))


def test_a_file_that_shrank_after_its_header_was_checked_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"w": np.zeros(1000)})
    checkpoint = opened(path)
    os.truncate(path, 500)
    with pytest.raises(ArtifactError, match="changed while it was being scanned"):
        checkpoint.read("w")


def test_every_order_of_keys_and_white_space_json_allows_is_read() -> None:
    text = b'{ "b" :\t{"data_offsets": [ 2 , 4 ],\n"shape":[2] ,"dtype":"U8"}'
    text += b', "\\u0061":{"dtype":"\\u0055\\u0038","shape":[2],"data_offsets":[0,2]}}  '
    tensors, _ = read_header(memoryview(safetensors_bytes(text, b"\1\2\3\4")), "m")
    assert {name: info.shape for name, info in tensors.items()} == {"a": (2,), "b": (2,)}


@pytest.mark.parametrize("name", ["w\x1b[31m", "w\x00", "a\u202eb", "zero\u200bwidth", "line\nbreak"])
def test_a_deceptive_tensor_name_is_reported_escaped_and_still_read(name: str, tmp_path: Path) -> None:
    target = open_target(write_safetensors(tmp_path / "m.safetensors", {name: np.ones(2), "ok": np.ones(2)}))
    (problem,) = target.problems
    assert (problem.rule, problem.tensor, problem.fatal) == ("MG0112", name, False)
    assert not any(char in problem.message for char in "\x1b\x00\u202e\u200b\n")
    assert target.checkpoints[0].read(name).sum() == 2


def test_many_deceptive_names_are_counted(tmp_path: Path) -> None:
    target = open_target(write_safetensors(tmp_path / "m.safetensors", {f"w\x01{index}": np.ones(1) for index in range(50)}))
    assert len(target.problems) == 21
    assert target.problems[-1].evidence == {"count": 30} or any(item.evidence == {"count": 30} for item in target.problems)


def test_the_checkpoint_is_named_by_its_path(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "vae" / "model.safetensors", {"w": np.ones(1)})
    (checkpoint,) = open_target(tmp_path).checkpoints
    assert (checkpoint.name, checkpoint.format, checkpoint.files) == ("vae/model", "safetensors", ("vae/model.safetensors",))


def test_it_recognises_content_and_not_text(tmp_path: Path) -> None:
    data = write_safetensors(tmp_path / "m", {"w": np.ones(1)}).read_bytes()
    assert SafetensorsFormat().recognise(data, len(data))
    for other in (json.dumps({"a": 1} | {"b" * 30: 2}).encode(), b"12345678{", b"", b"{}", b"\0" * 64):
        assert not SafetensorsFormat().recognise(other, len(other))
