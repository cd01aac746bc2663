"""GGUF: what is read, what is refused, and what the tensors stand for."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelguard_serialization import limits
from modelguard_serialization._formats.gguf_header import read_header
from modelguard_serialization._formats.gguf_quants import TYPES, Kind, dequantise, ranges
from modelguard_serialization._readers.gguf import GgufReader
from modelguard_serialization.blob import Blob
from modelguard_serialization.detector import _look_through
from modelguard_serialization.reader import Look
from modelguard_serialization.testing_gguf import Raw, Stored, gguf_bytes, quantise

from modelguard import ArtifactFile, FormatError, Target
from modelguard.testing import open_target

RNG = np.random.default_rng(0)
PLAIN: dict[str, npt.NDArray[Any]] = {
    "a": RNG.normal(size=(4, 6)).astype(np.float32),
    "b": RNG.normal(size=(3,)).astype(np.float16),
    "c": RNG.normal(size=(2, 3, 4)).astype(ml_dtypes.bfloat16),
    "d": np.arange(-5, 5, dtype=np.int32),
    "e": np.array(1.5, np.float64),
    "f": np.arange(6, dtype=np.int8).reshape(2, 3),
}
VALUES = {
    "general.architecture": "none",
    "number": 7,
    "negative": -7,
    "real": 0.5,
    "flag": True,
    "numbers": [1, 2, 3],
    "texts": ["one", "two"],
    "nested": [[1, 2], [3]],
    "empty": Raw(9, struct.pack("<IQ", 4, 0)),
    "wide": Raw(10, struct.pack("<Q", 2**63)),
}
QUANTISED = [kind for kind in TYPES.values() if kind.blocks is not None]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Callable[..., Target]:
    def call(data: bytes, name: str = "model.gguf") -> Target:
        (tmp_path / name).write_bytes(data)
        return open_target(tmp_path)

    return call


def equal(left: npt.NDArray[np.generic], right: npt.NDArray[np.generic]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tensors_and_metadata(open_bytes: Callable[..., Target], version: int, order: str) -> None:
    values = {key: value for key, value in VALUES.items() if not isinstance(value, Raw)}
    target = open_bytes(gguf_bytes(PLAIN, values, version=version, order=order))
    assert target.problems == ()
    (checkpoint,) = target.checkpoints
    assert (checkpoint.name, checkpoint.format) == ("model", "gguf")
    assert {name: checkpoint.tensors[name].shape for name in PLAIN} == {name: array.shape for name, array in PLAIN.items()}
    assert all(equal(checkpoint.read(name), array) for name, array in PLAIN.items())
    assert all(bytes(checkpoint.raw(name)) == array.tobytes() for name, array in PLAIN.items())
    assert checkpoint.metadata["number"] == "7"
    assert checkpoint.metadata["flag"] == "True"
    assert not checkpoint.read("a").flags.writeable
    assert all(checkpoint.quantization(name) is None for name in PLAIN)


def test_what_lies_in_the_file_as_it_is_read_is_not_copied(open_bytes: Callable[..., Target], tmp_path: Path) -> None:
    checkpoint = open_bytes(gguf_bytes(PLAIN, VALUES)).checkpoints[0]
    data = (tmp_path / "model.gguf").read_bytes()
    for name, array in PLAIN.items():
        offset = checkpoint.tensors[name].byte_offset
        assert offset is not None
        assert data[offset : offset + array.nbytes] == array.tobytes()
    assert checkpoint.raw("a").readonly
    assert not checkpoint.read("a").flags.owndata


def test_an_alignment_of_its_own(open_bytes: Callable[..., Target]) -> None:
    target = open_bytes(gguf_bytes(PLAIN, {"general.alignment": 128}, alignment=128))
    assert target.problems == ()
    assert equal(target.checkpoints[0].read("c"), PLAIN["c"])


def test_a_vocabulary_without_tensors_is_read(open_bytes: Callable[..., Target]) -> None:
    target = open_bytes(gguf_bytes({}, VALUES))
    assert (target.problems, len(target.checkpoints[0].tensors)) == ((), 0)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_block_types_are_dequantised_as_the_gguf_package_does(kind: Kind) -> None:
    gguf = pytest.importorskip("gguf")
    raw = np.random.default_rng(kind.size).integers(0, 256, (200, kind.size), dtype=np.uint8)
    try:
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(raw.copy(), gguf.GGMLQuantizationType[kind.name]).reshape(-1)
    except NotImplementedError:
        pytest.skip("the package does not dequantise it")
    found = dequantise(memoryview(raw.tobytes()), kind, 200 * kind.block)
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    assert same.all()


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_entry_lies_between_the_ends_of_its_group(kind: Kind) -> None:
    raw = np.random.default_rng(kind.size).integers(0, 256, (64, kind.size), dtype=np.uint8)
    values = dequantise(memoryview(raw.tobytes()), kind, 64 * kind.block)
    group, step, low, high = ranges(memoryview(raw.tobytes()), kind)
    assert len(step) == len(low) == len(high) == 64 * kind.block // group
    lines = values.reshape(-1, group)
    finite = np.isfinite(lines).all(axis=1) & np.isfinite(low) & np.isfinite(high)
    room = 1e-5 * (high - low)[:, None]
    assert ((lines >= low[:, None] - room) & (lines <= high[:, None] + room))[finite].all()
    rounding = 1e-6 * np.maximum(np.abs(low), np.abs(high))
    assert (step <= (high - low) * 1.001 + rounding)[finite].all()


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q4_K"])
def test_a_quantised_tensor_is_read_as_what_it_stands_for(open_bytes: Callable[..., Target], type: str) -> None:
    values = RNG.normal(size=(8, 512)).astype(np.float32)
    checkpoint = open_bytes(gguf_bytes({"w": quantise(values, type)})).checkpoints[0]
    info, quantization = checkpoint.tensors["w"], checkpoint.quantization("w")
    assert (info.dtype, info.shape, info.byte_offset, info.byte_length) == ("F32", (8, 512), None, values.nbytes)
    assert len(checkpoint.raw("w")) == values.nbytes
    assert quantization is not None
    assert quantization.type == type
    step = np.repeat(quantization.step, quantization.group).reshape(values.shape)
    assert (np.abs(checkpoint.read("w") - values) <= 1.1 * step).all()


def test_the_header_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    tensors = {**PLAIN, "q": quantise(np.ones((2, 64), np.float32), "Q8_0")}
    path.write_bytes(gguf_bytes(tensors, {key: value for key, value in VALUES.items() if key not in ("nested", "empty")}))
    ours, theirs = read_header(memoryview(path.read_bytes()), "model.gguf"), gguf.GGUFReader(path)
    assert {key: value.scalar for key, value in ours.values.items() if value.scalar is not None} == {
        key: field.contents() for key, field in theirs.fields.items() if key in ours.values and ours.values[key].scalar is not None
    }
    assert [(item.name, list(reversed(item.shape)), item.offset, item.length) for item in ours.tensors if item.shape] == [
        (item.name, [int(size) for size in item.shape], item.data_offset, item.n_bytes) for item in theirs.tensors if len(item.shape)
    ]


ONE = {"w": np.ones((2, 8), np.float32)}
ROW = Stored("F32", (8,), bytes(32))


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def deep(levels: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * levels + struct.pack("<IQI", 4, 1, 7)


# The memory errors of llama.cpp's first reader: TALOS-2024-1912 to -1916 (https://talosintelligence.com/vulnerability_reports/TALOS-2024-1912;
# CVE-2024-21802, -21825, -21836, -23496, -23605) and CVE-2024-25664 to -25668
# (https://www.databricks.com/blog/ggml-gguf-file-format-vulnerabilities): counts, lengths and dimensions that nobody checked.
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty after the magic": (b"GGUF", "MG0102"),
    "version 1": (gguf_bytes(ONE, version=1), "MG0102"),
    "version 4": (gguf_bytes(ONE, version=4), "MG0102"),
    "version 0": (gguf_bytes(ONE, version=0), "MG0102"),
    # CVE-2024-23605, CVE-2024-25664: the number of metadata
    "2^64 - 1 metadata": (gguf_bytes(ONE, counts=(1, 2**64 - 1)), "MG0104"),
    "metadata that do not fit": (gguf_bytes(ONE, counts=(1, 1000)), "MG0102"),
    # CVE-2024-21836, CVE-2024-25666: the number of tensors
    "2^63 tensors": (gguf_bytes(ONE, counts=(2**63, 0)), "MG0104"),
    "tensors that do not fit": (gguf_bytes(ONE, counts=(100_000, 0)), "MG0102"),
    # CVE-2024-23496, CVE-2024-25665: lengths of texts that wrap around when one is added
    "string of 2^64 - 1 bytes": (gguf_bytes({}, [("key", Raw(8, b"\xff" * 8))]), "MG0102"),
    "key of 2^64 - 1 bytes": (gguf_bytes()[:16] + struct.pack("<Q", 1) + b"\xff" * 8 + bytes(32), "MG0102"),
    # CVE-2024-21825, CVE-2024-25667, CVE-2024-25668: numbers of items that overflow times their size
    "array of 2^61 numbers": (gguf_bytes({}, [("key", Raw(9, struct.pack("<IQ", 10, 2**61)))]), "MG0102"),
    "array of 2^61 strings": (gguf_bytes({}, [("key", Raw(9, struct.pack("<IQ", 8, 2**61)))]), "MG0104"),
    "array cut off": (gguf_bytes({}, [("key", Raw(9, struct.pack("<IQ", 8, 2) + text(b"one")))]), "MG0102"),
    "text in an array past the end": (gguf_bytes({}, [("key", Raw(9, struct.pack("<IQQ", 8, 1, 9)))]), "MG0102"),
    "arrays in each other": (gguf_bytes({}, [("key", Raw(9, deep(100)))]), "MG0104"),
    "value of an unknown type": (gguf_bytes({}, [("key", Raw(13, bytes(8)))]), "MG0102"),
    "items of an unknown type": (gguf_bytes({}, [("key", Raw(9, struct.pack("<IQ", 13, 1) + bytes(8)))]), "MG0102"),
    "boolean 2": (gguf_bytes({}, [("key", Raw(7, b"\2"))]), "MG0102"),
    "boolean 2 in an array": (gguf_bytes({}, [("key", Raw(9, struct.pack("<IQ", 7, 3) + b"\0\1\2"))]), "MG0102"),
    "key twice": (gguf_bytes(ONE, [("key", 1), ("key", 2)]), "MG0107"),
    "key with NUL": (gguf_bytes(ONE, [("key\0a", 1), ("key\0b", 2)]), "MG0102"),
    "empty key": (gguf_bytes(ONE, [("", 1)]), "MG0102"),
    "key that is no UTF-8": (gguf_bytes(ONE, [(b"\xff", 1)]), "MG0102"),
    "key of 65536 bytes": (gguf_bytes(ONE, [("k" * 65536, 1)]), "MG0104"),
    "alignment 0": (gguf_bytes(ONE, {"general.alignment": 0}), "MG0102"),
    "alignment 24": (gguf_bytes(ONE, {"general.alignment": 24}), "MG0102"),
    "alignment 1": (gguf_bytes(ONE, {"general.alignment": 1}), "MG0102"),
    "alignment as text": (gguf_bytes(ONE, {"general.alignment": "32"}), "MG0102"),
    "alignment of 64 bits": (gguf_bytes(ONE, {"general.alignment": Raw(10, struct.pack("<Q", 32))}), "MG0102"),
    "tensor twice": (gguf_bytes([("w", ROW), ("w", ROW)]), "MG0107"),
    "tensor names that differ after NUL": (gguf_bytes([("w\0a", ROW), ("w\0b", ROW)]), "MG0102"),
    "tensor name of 65 bytes": (gguf_bytes([("w" * 65, ROW)]), "MG0104"),
    # CVE-2024-21802: more dimensions than the table has
    "5 dimensions": (gguf_bytes([("w", Stored("F32", (1, 1, 1, 1, 8), bytes(32)))]), "MG0104"),
    "2^32 - 1 dimensions": (gguf_bytes(ONE)[: 24 + 8 + 1] + b"\xff" * 4 + bytes(200), "MG0104"),
    "unknown type": (gguf_bytes([("w", Stored(99, (8,), bytes(32)))]), "MG0102"),
    "negative type": (gguf_bytes([("w", Stored(2**32 - 1, (8,), bytes(32)))]), "MG0102"),
    "removed type": (gguf_bytes([("w", Stored(4, (32,), bytes(32)))]), "MG0102"),
    "type of computations": (gguf_bytes([("w", Stored(9, (32,), bytes(64)))]), "MG0102"),
    # CVE-2025-53630, CVE-2026-27940 (https://github.com/ggml-org/llama.cpp/security/advisories/GHSA-3p4r-fq3f-q74v): sizes that overflow
    "dimensions that overflow": (gguf_bytes([("w", Stored("F32", (2**32, 2**32), bytes(32)))]), "MG0105"),
    "dimensions that overflow before a zero": (gguf_bytes([("w", Stored("F32", (0, 2**40, 2**40), b""))]), "MG0105"),
    "dimensions past the end": (gguf_bytes([("w", Stored("F32", (2**20, 2**20), bytes(32)))]), "MG0105"),
    "rows of half a block": (gguf_bytes([("w", Stored("Q8_0", (2, 16), bytes(34)))]), "MG0105"),
    "offset past the end": (gguf_bytes([("w", Stored("F32", (8,), bytes(32), offset=2**63 - 32))]), "MG0105"),
    "offset that wraps around": (gguf_bytes([("w", Stored("F32", (8,), bytes(32), offset=2**64 - 32))]), "MG0105"),
    "offset off the alignment": (gguf_bytes([("w", Stored("F32", (4,), bytes(32), offset=16))]), "MG0105"),
    "overlap": (gguf_bytes([("v", ROW), ("w", Stored("F32", (8,), bytes(32), offset=0))]), "MG0105"),
    # CVE-2026-7482 (https://nvd.nist.gov/vuln/detail/CVE-2026-7482): a tensor that claims more than the file has
    "truncated": (gguf_bytes(ONE)[:-8], "MG0105"),
    "cut in the header": (gguf_bytes(ONE, VALUES)[:60], "MG0102"),
    "gap": (gguf_bytes([("v", ROW), ("w", Stored("F32", (8,), bytes(64), offset=64))]), "MG0106"),
    "padding that is not zero": (gguf_bytes([("w", Stored("F32", (4,), bytes(16)))], tail=b"x" * 16), "MG0106"),
    "trailing bytes": (gguf_bytes(ONE) + b"payload" * 10, "MG0106"),
    "trailing zeros": (gguf_bytes(ONE) + bytes(32), "MG0106"),
    "bytes without tensors": (gguf_bytes({}, {"key": 1}) + b"payload", "MG0106"),
    "big-endian blocks": (gguf_bytes({"w": quantise(np.ones((1, 32), np.float32), "Q8_0")}, order=">"), "MG0102"),
}


@pytest.mark.parametrize(("data", "rule"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_format_is_refused(open_bytes: Callable[..., Target], data: bytes, rule: str) -> None:
    target = open_bytes(data)
    assert target.checkpoints == ()
    (problem,) = target.problems
    assert (problem.rule, problem.fatal) == (rule, True)
    assert problem.message.startswith("model.gguf: ")
    assert "; " in problem.message


@pytest.mark.parametrize(
    ("limit", "value", "metadata"),
    [
        ("GGUF_KEYS", 2, {"a": 1, "b": 2, "c": 3}),
        ("GGUF_STRING", 8, {"a": "nine bytes"}),
        ("GGUF_STRING", 8, {"a": ["nine bytes"]}),
        ("GGUF_ITEMS", 2, {"a": ["1", "2"], "b": ["3"]}),
        ("GGUF_METADATA", 64, {"a": "x" * 50, "b": 1}),
        ("GGUF_TENSORS", 0, {}),
        ("GGUF_NESTING", 1, {"a": [[1]]}),
    ],
)
def test_limits_hold_from_both_sides(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, metadata: dict[str, object]) -> None:
    data = memoryview(gguf_bytes(ONE, metadata))
    read_header(data, "model.gguf")
    monkeypatch.setattr(limits, limit, value)
    with pytest.raises(FormatError) as caught:
        read_header(data, "model.gguf")
    assert caught.value.rule == "MG0104"


SEED = gguf_bytes({**PLAIN, "q": quantise(np.ones((2, 256), np.float32), "Q4_K")}, VALUES)
CHANGE = st.tuples(st.integers(0, len(SEED) - 1), st.binary(min_size=1, max_size=8))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4), st.integers(0, len(SEED))
)
def test_changed_files_are_read_or_refused(changes: list[tuple[int, bytes]], end: int) -> None:
    data = bytearray(SEED)
    for at, new in changes:
        data[at : at + len(new)] = new
    try:
        header = read_header(memoryview(bytes(data[: end or None])), "model.gguf")
    except FormatError as error:
        assert error.rule.startswith("MG01")  # noqa: PT017
        return
    for entry in header.tensors:
        assert entry.offset + entry.length <= len(data)


def test_the_parts_of_a_split_model_are_one_checkpoint(tmp_path: Path) -> None:
    values = {"blk.0.ffn_up.weight": np.ones((2, 4), np.float32), "output.weight": np.zeros((3, 4), np.float32)}
    for number, (name, array) in enumerate(values.items()):
        own = {"general.architecture": "llama"} if number == 0 else {}
        split = {"split.no": number, "split.count": 2, "split.tensors.count": 2}
        (tmp_path / f"m-{number + 1:05d}-of-00002.gguf").write_bytes(gguf_bytes({name: array}, own | split))
    target = open_target(tmp_path)
    assert target.problems == ()
    (checkpoint,) = target.checkpoints
    assert list(checkpoint.tensors) == ["lm_head.weight", "model.layers.0.mlp.up_proj.weight"]
    assert checkpoint.quantization("lm_head.weight") is None
    (tmp_path / "m-00002-of-00002.gguf").rename(tmp_path / "n-00001-of-00001.gguf")
    assert {problem.rule for problem in open_target(tmp_path).problems} == {"MG0108", "MG0109"}


@pytest.mark.parametrize("also", ["PK", "pickle"])
def test_a_file_that_is_something_else_too_is_refused(open_bytes: Callable[..., Target], also: str) -> None:
    tail = b"PK\5\6" + bytes(18) if also == "PK" else b"\x80\4N."
    (problem,) = open_bytes(gguf_bytes(ONE) + tail).problems
    assert (problem.rule, problem.fatal) == ("MG0106", True)


def look(data: bytes, tmp_path: Path) -> Look:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    found = Look(open_target(tmp_path).artifact, lambda: None)
    GgufReader().read(Blob("model.gguf", memoryview(data)), found)
    return found


def test_templates_and_texts_are_left_to_their_readers(tmp_path: Path) -> None:
    metadata = {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_template.rag": "{{ documents }}",
        "tokenizer.huggingface.json": "{}",
        "general.name": "short",
        "general.description": "long enough to be something else",
        "tokenizer.ggml.precompiled_charsmap": Raw(9, struct.pack("<IQ", 0, 20) + bytes(range(20))),
    }
    data = gguf_bytes(ONE, metadata)
    found = look(data, tmp_path)
    assert {blob.place: bytes(blob.data) for blob in found.inside} == {
        "model.gguf!chat_template.jinja": b"{{ messages }}",
        "model.gguf!rag/chat_template.jinja": b"{{ documents }}",
        "model.gguf!tokenizer.json": b"{}",
    }
    assert {blob.name for blob in found.perhaps} == {"general.description.txt", "tokenizer.ggml.precompiled_charsmap.bytes"}
    for blob in (*found.inside, *found.perhaps):
        assert blob.offset is not None
        assert data[blob.offset : blob.offset + len(blob.data)] == bytes(blob.data)


def test_metadata_that_nothing_recognises_are_no_gap_and_a_broken_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for data, gaps in ((gguf_bytes(ONE, {"general.description": "an ordinary sentence"}), 0), (gguf_bytes(ONE) + b"x", 1)):
        path.write_bytes(data)
        file = ArtifactFile("model.gguf", path, len(data))
        found = Look(open_target(tmp_path).artifact, lambda: None)
        assert [reader.what for reader in _look_through(Blob(file.path, file.map()), found)] == ["a GGUF model"]
        assert len(found.missed) == gaps


def test_invisible_characters_in_a_name_are_told(open_bytes: Callable[..., Target]) -> None:
    (problem,) = open_bytes(gguf_bytes({"w\u202e": PLAIN["a"]})).problems
    assert (problem.rule, problem.fatal) == ("MG0112", False)


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_under_another_formats_name_it_is_read_as_what_it_is(open_bytes: Callable[..., Target], name: str) -> None:
    target = open_bytes(gguf_bytes(ONE), name)
    assert [(problem.rule, problem.fatal) for problem in target.problems] == [("MG0103", False)]
    assert target.checkpoints[0].format == "gguf"
