"""Meta-classifiers are files, and files are hostile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_meta import _file
from modelguard_meta._architecture import PARTS
from modelguard_meta._file import DIGEST, KEY, Facts, MetaFile, read, write

from modelguard import UsageError
from modelguard.testing import write_safetensors

FACTS = Facts(
    architecture=dict.fromkeys(PARTS, "0" * 64),
    described="images of 1x2x2",
    samples={"sha256": "0" * 64, "name": "clean.npz", "count": 100},
    shadows={"benign": 8},
    quality={"agreement": 1.0},
    auroc=0.9,
    level=0.05,
    threshold=1.0,
    seed=0,
    cpu_seconds=1.0,
    versions={"torch": "2"},
)


def tensors(**changed: Any) -> dict[str, Any]:
    shapes = {
        "queries": (5, 2, 1, 2, 2), "hidden": (5, 4, 6), "hidden_bias": (5, 4), "out": (5, 4), "out_bias": (5,),
        "benign": (19,), "trojaned": (19,), "probes": (3, 1, 2, 2),
    }  # fmt: skip
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | changed


@pytest.fixture
def written(tmp_path: Path) -> MetaFile:
    return write(tmp_path / "meta.safetensors", FACTS, tensors())


def test_what_is_written_is_read(tmp_path: Path, written: MetaFile) -> None:
    found = read(tmp_path / "meta.safetensors", written.sha256.upper())
    assert found.facts == FACTS
    assert found.tensors.keys() == tensors().keys()
    assert [path.name for path in tmp_path.iterdir()] == ["meta.safetensors"]


def test_a_file_that_is_not_the_one_meant_is_refused(tmp_path: Path, written: MetaFile) -> None:
    with pytest.raises(UsageError, match=r"has the sha256 .*, not 00"):
        read(tmp_path / "meta.safetensors", "00")


def test_a_file_of_which_a_bit_was_changed_is_refused(tmp_path: Path, written: MetaFile) -> None:
    path = tmp_path / "meta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="was changed"):
        read(path)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "nowhere" / "meta.safetensors", FACTS, tensors())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"queries": np.ones((5, 2, 1, 2, 3), np.float32)}, "do not fit each other"),
        ({"queries": np.ones((4, 2, 1, 2, 2), np.float32)}, "do not fit each other"),
        ({"hidden": np.ones((5, 4, 5), np.float32)}, "do not fit each other"),
        ({"out": np.ones((5, 5), np.float32)}, "do not fit each other"),
        ({"benign": np.ones(0, np.float32)}, "do not fit each other"),
        ({"queries": np.ones((2, 1, 2, 2), np.float32)}, "does not hold the float32 tensors"),
        ({"queries": np.ones((5, 2, 1, 2, 2), np.float64)}, "does not hold the float32 tensors"),
        ({"more": np.ones(1, np.float32)}, "does not hold the float32 tensors"),
        ({"out": np.full((5, 4), np.nan, np.float32)}, "not finite"),
    ],
)
def test_tensors_that_are_no_meta_classifier_are_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write(tmp_path / "meta.safetensors", FACTS, tensors(**changed))


def _with(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda facts: {**facts, **changed}


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: [],
        lambda facts: 1,
        lambda facts: {key: value for key, value in facts.items() if key != "auroc"},
        _with(more=1),
        _with(auroc="high"),
        _with(threshold=float("nan")),
        _with(threshold=float("inf")),
        _with(architecture={}),
        _with(architecture=[]),
        _with(architecture=dict.fromkeys(PARTS, 1)),
        _with(samples={}),
        _with(samples=None),
        _with(quality={}),
        _with(quality={"agreement": None}),
        _with(shadows={"benign": "many"}),
        _with(seed=None),
    ],
)
def test_facts_of_another_form_are_refused(tmp_path: Path, written: MetaFile, change: Callable[[dict[str, Any]], Any]) -> None:
    path = tmp_path / "meta.safetensors"
    text = json.dumps(change(json.loads(_metadata(path)[KEY])))
    write_safetensors(path, tensors(), {KEY: text, DIGEST: _file._digest(text, tensors())})
    with pytest.raises(UsageError, match="has metadata of another form"):
        read(path)


def _metadata(path: Path) -> Mapping[str, str]:
    data = path.read_bytes()
    found: Mapping[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 8,
        (2**20 + 1).to_bytes(8, "little") + b" " * (2**20 + 1),
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_what_is_no_safetensors_file_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "junk"
    path.write_bytes(data)
    with pytest.raises(UsageError) as told:
        read(path)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("meta-classifier junk: ")


def test_tensors_beyond_the_end_are_refused(tmp_path: Path, written: MetaFile) -> None:
    path = tmp_path / "meta.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UsageError, match="is no safetensors file"):
        read(path)


def test_a_file_past_the_limit_is_not_read(tmp_path: Path, written: MetaFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_file, "LIMIT", 100)
    with pytest.raises(UsageError, match="has more than 100 bytes"):
        read(tmp_path / "meta.safetensors")


def test_other_safetensors_are_no_meta_classifier(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros(2, np.float32)}, {"format": "pt"})
    with pytest.raises(UsageError, match="it is no meta-classifier"):
        read(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "none")
