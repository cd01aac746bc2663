"""Torch files as checkpoints: the tensors torch would load, without loading anything."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_serialization.hooks import modelguard_formats

from modelguard import Artifact, ArtifactFile, Checkpoint, FormatProblem
from modelguard._formats import builtin_formats
from modelguard._formats.opening import open_artifact

torch = pytest.importorskip("torch")
FORMATS = [item() for item in (*builtin_formats(), *modelguard_formats())]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., tuple[tuple[Checkpoint, ...], tuple[FormatProblem, ...]]]:
    def open_files(**files: bytes) -> tuple[tuple[Checkpoint, ...], tuple[FormatProblem, ...]]:
        listed = []
        for key, data in sorted(files.items()):
            name = key.replace("__", ".").replace("_of_", "-of-")
            (tmp_path / name).write_bytes(data)
            listed.append(ArtifactFile(name, tmp_path / name, len(data)))
        found = open_artifact(Artifact("m", "local:m", tmp_path, tuple(listed)), FORMATS)
        return found.checkpoints, found.problems

    return open_files


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rewritten(data: bytes, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A torch file with every member as ``change`` makes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            if (content := change(name, source.read(name))) is not None:
                target.writestr(name, content)
    return out.getvalue()


def tensors() -> dict[str, Any]:
    torch.manual_seed(0)
    a = torch.arange(24.0).reshape(4, 6)
    found = {
        "a": a, "transposed": a.t(), "part": a[1:, ::2], "row": a[1], "expanded": torch.ones(1).expand(3, 4), "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0), "parameter": torch.nn.Parameter(a.clone()),
    }  # fmt: skip
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64):
        found[str(dtype)] = torch.arange(6).to(dtype)
    return found


def same(checkpoint: Checkpoint, wanted: dict[str, Any]) -> None:
    assert sorted(checkpoint.tensors) == sorted(wanted)
    for name, tensor in wanted.items():
        info = checkpoint.tensors[name]
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert bytes(checkpoint.raw(name)) == raw, name
        assert info.shape == tuple(tensor.shape)
        assert info.byte_length == len(raw)
        array = checkpoint.read(name)
        assert array.shape == tuple(tensor.shape)
        assert not array.flags.writeable


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_tensors_that_torch_saved(opened: Any, zipped: bool, protocol: int) -> None:
    wanted = tensors()
    checkpoints, problems = opened(pytorch_model__bin=saved(wanted, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol))
    assert problems == ()
    assert [item.name for item in checkpoints] == ["pytorch_model"]
    same(checkpoints[0], wanted)
    info = checkpoints[0].tensors["a"]
    assert info.byte_offset is not None  # zero-copy
    assert checkpoints[0].tensors["transposed"].byte_offset is None


def test_names_are_those_of_a_state_dictionary(opened: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ModuleDict({"n": torch.nn.BatchNorm1d(3)}), torch.nn.LSTM(2, 2))
    state = model.state_dict()
    (whole,), problems = opened(whole__pt=saved(model))
    assert problems == ()
    same(whole, dict(state))
    (wrapped,), _ = opened(wrapped__ckpt=saved({"state_dict": state, "epoch": 3, "config": {"lr": 1.0}}))
    same(wrapped, dict(state))
    assert wrapped.metadata == {"wrapper": "state_dict"}
    (both,), _ = opened(both__pth=saved({"state_dict": state, "ema": [torch.ones(1)]}))
    assert "state_dict.0.weight" in both.tensors
    assert "ema.0" in both.tensors


def test_a_module_that_knows_what_it_is_in(opened: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    model[0].__dict__["parent"] = model
    (whole,), problems = opened(whole__pt=saved(model))
    assert problems == ()
    assert list(whole.tensors) == ["0.bias", "0.weight"]


def test_what_is_no_plain_tensor_is_named_and_not_dropped(opened: Any) -> None:
    (checkpoint,), problems = opened(model__pt=saved({"plain": torch.ones(2), "sparse": torch.eye(3).to_sparse()}))
    assert list(checkpoint.tensors) == ["plain"]
    assert [(problem.rule, problem.tensor) for problem in problems] == [("MG9004", "sparse")]


def test_shards_are_joined_and_their_index_is_checked(opened: Any) -> None:
    one, two = saved({"a": torch.ones(2)}), saved({"b": torch.zeros(3)})
    index = json.dumps({"metadata": {"total_size": 20}, "weight_map": {"a": "m-00001-of-00002.bin", "b": "m-00002-of-00002.bin"}}).encode()
    names = {"m-00001_of_00002__bin": one, "m-00002_of_00002__bin": two}
    (joined,), problems = opened(**names, m__bin__index__json=index)
    assert problems == ()
    assert list(joined.tensors) == ["a", "b"]
    _, problems = opened(**names, m__bin__index__json=index.replace(b'"b": "m-00002', b'"c": "m-00002'))
    assert {problem.rule for problem in problems} == {"MG0109"}
    _, problems = opened(m__bin__index__json=index, **{"m-00001_of_00002__bin": one})
    assert "MG0108" in {problem.rule for problem in problems}


def test_compressed_and_big_endian_files(opened: Any) -> None:
    value = {"a": torch.arange(6.0), "b": torch.arange(4).to(torch.int64), "c": torch.ones(3, dtype=torch.bfloat16)}
    (packed,), problems = opened(packed__pt=rewritten(saved(value), lambda _, content: content, zipfile.ZIP_DEFLATED))
    assert problems == ()
    same(packed, value)
    widths = {"archive/data/0": 4, "archive/data/1": 8, "archive/data/2": 2}

    def swap(name: str, content: bytes) -> bytes:
        if name == "archive/byteorder":
            return b"big"
        width = widths.get(name, 1)
        return np.frombuffer(content, f"u{width}").byteswap().tobytes() if width > 1 else content

    (big,), problems = opened(big__pt=rewritten(saved(value), swap))
    assert problems == ()
    same(big, value)


def test_other_files_with_these_endings_are_left_alone(opened: Any) -> None:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a.txt", "x")
    checkpoints, problems = opened(a__bin=b"\x00\x01raw", b__pt=plain.getvalue(), c__ckpt=pickle.dumps({"a": 1}), d__pth=b"")
    assert checkpoints == ()
    assert problems == ()


def _fails(opened: Any, data: bytes) -> set[str]:
    checkpoints, problems = opened(model__pt=data)
    assert checkpoints == ()
    assert all(problem.fatal for problem in problems)
    return {problem.rule for problem in problems}


def test_storages_that_are_not_what_the_pickle_says(opened: Any) -> None:
    good = saved({"a": torch.arange(6.0)})
    assert _fails(opened, rewritten(good, lambda name, content: None if name.endswith("data/0") else content)) == {"MG0105"}
    assert _fails(opened, rewritten(good, lambda name, content: content[:-4] if name.endswith("data/0") else content)) == {"MG0105"}
    # https://github.com/advisories/GHSA-63cw-57p8-fm3p (CVE-2026-24747): sizes past the storage
    reaching = rewritten(good, lambda name, content: content.replace(b"K\x06\x85", b"K\x07\x85") if name.endswith("data.pkl") else content)
    assert _fails(opened, reaching) == {"MG0105"}
    cut = rewritten(good, lambda name, content: content[:-9] if name.endswith("data.pkl") else content)
    assert _fails(opened, cut) == {"MG0102"}
    legacy = saved({"a": torch.arange(6.0)}, _use_new_zipfile_serialization=False)
    assert _fails(opened, legacy[:-1]) == {"MG0105"}
    _, problems = opened(legacy__pt=legacy + b"more")
    assert [problem.rule for problem in problems] == ["MG0106"]


def test_a_second_pickle_that_torch_could_take(opened: Any) -> None:
    out = io.BytesIO(saved({"a": torch.ones(1)}))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps({}))
    assert _fails(opened, out.getvalue()) == {"MG0107"}


def test_a_hostile_pickle_is_read_and_never_run(opened: Any, tmp_path: Path) -> None:
    marker = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> Any:
            import os

            return os.system, (f"touch {marker}",)

    for zipped in (True, False):
        (checkpoint,), _ = opened(hostile__pt=saved({"a": torch.ones(2), "x": Payload()}, _use_new_zipfile_serialization=zipped))
        assert bytes(checkpoint.raw("a")) == struct.pack("<2f", 1, 1)
    assert not marker.exists()


def test_what_expands_or_nests_past_every_limit(opened: Any) -> None:
    huge = torch.ones(1).expand(1 << 20, 1 << 12)
    assert _fails(opened, saved({"a": huge})) == {"MG0104"}
    deep: Any = torch.ones(1)
    for _ in range(100):
        deep = [deep]
    assert _fails(opened, saved(deep)) == {"MG0104"}
    shared: Any = [torch.ones(1)]
    for _ in range(40):
        shared = [shared, shared]
    assert _fails(opened, saved(shared)) == {"MG0104"}
