"""Hostile bytes: every file here was made to hurt a reader. Each must end in one line that names thing, cause and remedy."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelguard import Artifact, ArtifactError, ArtifactFile, FormatError, FormatProblem, LimitError, SourceError
from modelguard._formats import builtin_formats, opening, protobuf, uniform
from modelguard._formats import onnx_checkpoint as onnx_reader
from modelguard._formats import safetensors as safetensors_reader
from modelguard._formats.onnx import OnnxFormat
from modelguard._formats.onnx_checkpoint import OnnxCheckpoint
from modelguard._formats.onnx_schema import MAX_DEPTH, MAX_TEXT
from modelguard._formats.opening import open_artifact
from modelguard._formats.protobuf import encode_field, encode_varint
from modelguard._formats.safetensors import SafetensorsFormat, read_header
from modelguard.testing.checkpoints import (
    CORRUPTIONS,
    corrupt_safetensors,
    open_target,
    safetensors_bytes,
    write_onnx_mlp,
    write_safetensors,
)

REMEDIES = ("download", "export", "do not load", "split", "scan the folder", "fetch")


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fails when more than ``size`` bytes are asked of Python's allocator at once: a count, the same on every machine."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size, f"{peak} bytes were held"


def opened(path: Path) -> Any:
    """One file, opened without a source, as a plugin's source might hand it over."""
    files = tuple(
        ArtifactFile(item.relative_to(path.parent).as_posix(), item, item.stat().st_size)
        for item in sorted(path.parent.rglob("*"))
        if item.is_file()
    )
    return open_artifact(Artifact("x", "local:x", path.parent, files), [item() for item in builtin_formats()])


def refused(path: Path, data: bytes) -> FormatProblem:
    """The fatal problem of a file with this content; its message answers the three questions in one line."""
    path.write_bytes(data)
    result = opened(path)
    assert not result.checkpoints
    (problem,) = result.problems
    assert problem.fatal
    assert problem.message.startswith(path.name)
    assert "\n" not in problem.message
    assert problem.message.isprintable()
    assert len(problem.message) < 600
    assert any(remedy in problem.message for remedy in REMEDIES), problem.message
    assert isinstance(problem, FormatProblem)
    return problem


# safetensors.


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_a_broken_safetensors_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    corruption = corrupt_safetensors(kind)
    with bounded(16 * len(corruption.data) + (4 << 20)):
        problem = refused(tmp_path / "model.safetensors", corruption.data)
    assert problem.rule == corruption.rule


def test_a_header_of_2_to_the_63_bytes_names_request_and_limit(tmp_path: Path) -> None:
    problem = refused(tmp_path / "model.safetensors", struct.pack("<Q", 2**63) + b"{}")
    assert "9223372036854775808" in problem.message
    assert "100000000" in problem.message


def test_a_header_that_is_one_endless_bracket_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = b'{"a":' + b"[" * 60_000_000
    with bounded(4 * len(bomb)):
        problem = refused(tmp_path / "model.safetensors", safetensors_bytes(bomb))
    assert "must be an object" in problem.message


def test_terminal_escapes_never_reach_a_message(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\u202e\u2066\x00"
    for header in (
        {evil: {"dtype": "U8", "shape": [3], "data_offsets": [0, 2]}},
        {evil: {"dtype": evil, "shape": [2], "data_offsets": [0, 2]}},
        {evil: {evil: 1}},
        {"__metadata__": {evil: 1}},
    ):
        refused(tmp_path / "model.safetensors", safetensors_bytes(header, b"\1\2"))


def _numbers() -> st.SearchStrategy[Any]:
    small = st.integers(-1, 9)
    return st.one_of(small, small, st.sampled_from([2**63, 2**64 - 1, 2**64, 1.0, "1", None, True]))


def _entries() -> st.SearchStrategy[dict[str, Any]]:
    dtypes = st.sampled_from(["U8", "I16", "F32", "F4", "F6_E2M3", "BOOL", "F8_E8M0", "C64", "BF16", "I4", "f32", ""])
    offsets = st.lists(_numbers(), min_size=2, max_size=2)
    return st.fixed_dictionaries({"dtype": dtypes, "shape": st.lists(_numbers(), max_size=3), "data_offsets": offsets})


def _budget(examples: int, random: bool = False) -> settings:
    """Few and always the same examples in the everyday run, many and new ones in the slow one."""
    return settings(
        max_examples=examples, derandomize=not random, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
    )


RUNS = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("random", RUNS)
def test_what_the_reference_parser_rejects_we_reject(random: bool) -> None:
    _budget(20_000 if random else 500, random)(_no_laxer_than_the_reference)()


@given(
    headers=st.dictionaries(st.sampled_from(["a", "b", "é", "\x00", "__metadata__"]), _entries(), max_size=3),
    size=st.integers(0, 20),
    text=st.sampled_from(["{}", " {}", "{} ", "{}\n", "[{}]"]),
)
def _no_laxer_than_the_reference(headers: dict[str, Any], size: int, text: str) -> None:
    import json

    data = safetensors_bytes(text.replace("{}", json.dumps(headers)).encode(), bytes(size))
    assert not (accepted(data) and not accepted_by_reference(data))


@pytest.mark.parametrize("random", RUNS)
def test_tilings_the_reference_parser_accepts_we_accept_and_see_alike(random: bool) -> None:
    _budget(10_000 if random else 400, random)(_alike)()


@given(st.data())
def _alike(data: st.DataObject) -> None:
    header, position = {}, 0
    for name in data.draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), unique=True, max_size=5)):
        bits, dtype = data.draw(st.sampled_from([(8, "U8"), (16, "BF16"), (32, "F32"), (64, "C64"), (4, "F4"), (6, "F6_E3M2")]))
        shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
        count = int(np.prod(shape, dtype=int)) * bits
        length = count // 8 + data.draw(st.sampled_from([0, 0, 0, 0, 1]))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + length]}
        position += length
    header.pop("__metadata__", None)
    raw = safetensors_bytes(header, bytes(position))
    ours = accepted(raw)
    assert (ours is not None) == accepted_by_reference(raw)
    if ours is not None:
        theirs = {name: tuple(info["shape"]) for name, info in safetensors.deserialize(raw)}  # type: ignore[no-untyped-call]
        assert {name: info.shape for name, info in ours.items()} == theirs


def accepted(data: bytes) -> dict[str, Any] | None:
    try:
        return read_header(memoryview(data), "m.safetensors")[0]
    except FormatError:
        return None


def accepted_by_reference(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return False
    return True


# ONNX: the wire.


def graph(*parts: bytes) -> bytes:
    """A model whose graph has these serialised fields."""
    return b"\x08\x08" + encode_field(7, b"".join(parts))


def tensor(dims: list[int], code: int = 1, *parts: bytes, name: bytes = b"w") -> bytes:
    """A serialised initializer field."""
    body = b"".join(encode_varint(1 << 3) + encode_varint(size % 2**64) for size in dims)
    return encode_field(5, body + encode_varint(2 << 3) + encode_varint(code) + encode_field(8, name) + b"".join(parts))


def raw(data: bytes) -> bytes:
    return encode_field(9, data)


def sparse(values: list[int], indices: list[int], code: int) -> bytes:
    """A serialised sparse initializer field, its values all zero."""

    def part(number: int, dims: list[int], kind: int) -> bytes:
        data = np.zeros(dims, np.int64 if kind == TensorProto.INT64 else np.float32)
        return encode_field(number, bytes(numpy_helper.from_array(data, "s").SerializeToString()))

    return encode_field(15, part(1, values, TensorProto.FLOAT) + part(2, indices, code))


def nested_graphs(levels: int) -> bytes:
    body = b""
    for _ in range(levels):
        body = encode_field(1, encode_field(5, encode_field(1, b"body") + encode_field(6, body)))
    return graph(body)


@pytest.mark.parametrize(
    ("data", "rule", "says"),
    [
        (graph() + b"\x3b", "MG0102", "wire type 3"),
        (graph() + b"\x3c", "MG0102", "wire type 4"),
        (graph() + b"\x3e", "MG0102", "wire type 6"),
        (graph() + b"\x00\x01", "MG0102", "field number 0"),
        (graph() + encode_varint((1 << 29) << 3) + b"\x00", "MG0102", "field number 536870912"),
        (graph() + b"\x08" + b"\xff" * 10 + b"\x01", "MG0102", "more than 10 bytes"),
        (graph() + b"\x28" + b"\xff" * 9 + b"\x7f", "MG0102", "overflows 64 bits"),
        (graph() + b"\x28\xff\xff", "MG0102", "cut off"),
        (graph() + b"\x2d\x00", "MG0102", "cut off"),
        (graph() + b"\x32\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "MG0102", "claims 9223372036854775807 bytes"),
        (graph(b"\x2a\x7f"), "MG0102", "claims 127 bytes, and 0 are left"),
        (graph(b"\x28\x05"), "MG0102", "Graph.initializer has wire type 0"),
        (b"\x08\x08", "MG0102", "model without a graph"),
        (b"", "MG0102", "model without a graph"),
        (graph() + encode_field(7, b""), "MG0107", "Model.graph is there twice"),
        (graph(tensor([1], 1, raw(b"1234"), raw(b"5678"))), "MG0107", "Tensor.raw_data is there twice"),
        (nested_graphs(MAX_DEPTH), "MG0104", "nested more than 100 deep"),
    ],
    ids=["group", "end group", "wire 6", "field 0", "field 2^29", "11-byte varint", "65-bit varint", "cut varint", "cut fixed32",
         "length bomb", "inner length", "wrong wire", "no graph", "empty", "two graphs", "two payloads", "depth bomb"],
)  # fmt: skip
def test_a_broken_wire_is_refused(data: bytes, rule: str, says: str, tmp_path: Path) -> None:
    with bounded(4 << 20):
        problem = refused(tmp_path / "model.onnx", data)
    assert problem.rule == rule
    assert says in problem.message


def test_subgraphs_up_to_the_limit_are_walked(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(nested_graphs(30))
    assert len(opened(tmp_path / "model.onnx").checkpoints) == 1


def test_a_flood_of_fields_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 1000)
    assert "more than 1000 protobuf fields" in refused(tmp_path / "model.onnx", graph(b"\x0a\x00" * 1001)).message


def test_a_flood_of_tensors_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_reader, "MAX_TENSORS", 10)
    many = b"".join(tensor([0], name=str(index).encode()) for index in range(11))
    assert "more than 10 tensors" in refused(tmp_path / "model.onnx", graph(many)).message


def test_ten_thousand_tensors_of_one_name_take_no_quadratic_time(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graph(tensor([0]) * 10_000))
    (checkpoint,) = opened(tmp_path / "model.onnx").checkpoints
    assert len(checkpoint.tensors) == 10_000


def test_bytes_that_are_no_onnx_field_are_reported_and_the_model_read(tmp_path: Path) -> None:
    data = write_onnx_mlp(tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(data + encode_field(1000, b"hidden payload"))
    result = opened(tmp_path / "model.onnx")
    assert [(item.rule, item.fatal, item.evidence["fields"]) for item in result.problems] == [("MG0115", False, 1)]
    assert len(result.checkpoints) == 1


# ONNX: tensors.


@pytest.mark.parametrize(
    ("field", "rule", "says"),
    [
        (tensor([2], 1, raw(b"1234")), "MG0105", "holds 4 bytes, and F32 [2] takes 8"),
        (tensor([2], 1), "MG0105", "holds 0 bytes"),
        (tensor([-1], 1, raw(b"")), "MG0105", "negative dimension -1"),
        (tensor([2**62, 2**62], 1, raw(b"")), "MG0105", "overflows 64 bits"),
        (tensor([1] * 33, 1, raw(b"1234")), "MG0104", "more than 32 dimensions"),
        (tensor([1] * 100_000, 1, raw(b"1234")), "MG0104", "more than 32 dimensions"),
        (encode_field(5, encode_field(1, b"\x01" * 1_000_000) + b"\x10\x01" + raw(b"1234")), "MG0104", "more than 32 dimensions"),
        (tensor([1], 0, raw(b"1234")), "MG0102", "data_type 0"),
        (tensor([1], 99, raw(b"1234")), "MG0102", "data_type 99"),
        (tensor([1], 1, raw(b"1234"), encode_field(4, b"1234")), "MG0107", "values in raw_data and float_data"),
        (tensor([1], 1, encode_field(4, b"1234"), encode_field(5, b"\1")), "MG0107", "values in float_data and int32_data"),
        (tensor([1], 7, encode_field(5, b"\1")), "MG0105", "I64 values in int32_data, and they belong in int64_data"),
        (tensor([2], 7, encode_field(7, b"\1\2\3")), "MG0105", "holds 3 values"),
        (tensor([1], 1, encode_field(4, b"123")), "MG0105", "holds 3 bytes"),
        (tensor([1], 3, encode_field(5, encode_varint(128))), "MG0105", "outside -128..127"),
        (tensor([1], 9, encode_field(5, b"\2")), "MG0105", "outside 0..1"),
        (tensor([1], 10, encode_field(5, encode_varint(70000))), "MG0105", "outside 0..65535"),
        (tensor([1], 12, encode_field(11, encode_varint(2**32))), "MG0105", "outside 0..4294967295"),
        (tensor([1], 6, encode_field(5, encode_varint(2**40))), "MG0105", "outside -2147483648..2147483647"),
        (tensor([1], 7, encode_field(7, b"\xff" * 10 + b"\x01")), "MG0102", "more than 10 bytes"),
        (tensor([1], 7, encode_field(7, b"\xff" * 9 + b"\x02")), "MG0102", "overflows 64 bits"),
        (tensor([1], 7, encode_field(7, b"\xff\xff")), "MG0102", "cut off"),
        (tensor([1], 7, encode_field(7, b"\xff" * 3_000_000)), "MG0102", "more than 10 bytes"),
        (tensor([1], 1, raw(b"1234"), encode_field(3, b"")), "MG0102", "one segment"),
        (tensor([1], 1, raw(b"1234"), b"\x70\x05"), "MG0102", "data_location 5"),
        (tensor([1], 8, raw(b"1234")), "MG0102", "text outside string_data"),
        (tensor([1], 1, raw(b"1234"), name=b"n" * 5000), "MG0104", "limit of 4096"),
        (encode_field(15, encode_field(1, b"")), "MG0102", "both values and indices"),
        (sparse([1], [1], 1), "MG0105", "1 values and 1 indices of F32"),
        (sparse([2], [1], 7), "MG0105", "2 values and 1 indices"),
        (sparse([1, 1], [1], 7), "MG0105", "values must be a vector"),
        (sparse([1], [1, 1, 1], 7), "MG0105", "indices a vector or a matrix"),
        (tensor([1], 1, raw(b"12"), name=b"\x1b[31m\xff\xe2\x80\xae"), "MG0105", "\\u001b[31m\\xff\\u202e"),
    ],
)  # fmt: skip
def test_a_tensor_that_lies_is_refused(field: bytes, rule: str, says: str, tmp_path: Path) -> None:
    with bounded(32 << 20):
        problem = refused(tmp_path / "model.onnx", graph(field))
    assert problem.rule == rule
    assert says in problem.message


# ONNX: external data, in every place a tensor can be.


def outside(location: str, offset: str | None = None, length: str | None = None) -> TensorProto:
    """A float32 tensor of 20 elements whose values lie elsewhere."""
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[20], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            proto.external_data.add(key=key, value=value)
    return proto


def _model(nodes: list[Any] | None = None, initializers: list[Any] | None = None, **parts: Any) -> onnx.ModelProto:
    functions = parts.pop("functions", [])
    return helper.make_model(helper.make_graph(nodes or [], "g", [], [], initializers or [], **parts), functions=functions)


def _attribute(name: str, kind: str, value: Any) -> onnx.NodeProto:
    node = helper.make_node("Custom", [], ["y"], name="n")
    attribute = node.attribute.add(name=name)
    target = getattr(attribute, kind)
    (target.extend if kind.endswith("s") else target.CopyFrom)(value)
    return node


def _sub(nodes: list[Any] | None = None, initializers: list[Any] | None = None) -> onnx.GraphProto:
    return helper.make_graph(nodes or [], "s", [], [], initializers or [])


def _sparse(values: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(np.arange(20), "i"), dims=[99])


def _sparsely_at(indices: TensorProto) -> onnx.SparseTensorProto:
    """A sparse tensor of which the indices (10 of them in 80 bytes) are where ``indices`` says."""
    at = TensorProto()
    at.CopyFrom(indices)
    at.data_type = TensorProto.INT64
    at.dims[0] = 10
    return onnx.SparseTensorProto(values=numpy_helper.from_array(np.zeros(10), "v"), indices=at, dims=[99])


def _training(proto: TensorProto, part: str) -> onnx.ModelProto:
    model = _model()
    getattr(model.training_info.add(), part).initializer.append(proto)
    return model


def _function(proto: TensorProto, default: bool) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value=proto)
    function = helper.make_function("d", "F", [], ["y"], [] if default else [node], [])
    if default:
        function.attribute_proto.append(helper.make_attribute("t", proto))
    return _model(functions=[function])


SMALL = numpy_helper.from_array(np.zeros(20, np.float32), "s")
PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "initializer": lambda proto: _model(initializers=[proto]),
    "sparse values": lambda proto: _model(sparse_initializer=[_sparse(proto)]),
    "sparse indices": lambda proto: _model(sparse_initializer=[_sparsely_at(proto)]),
    "constant": lambda proto: _model([helper.make_node("Constant", [], ["y"], value=proto)]),
    "attribute t": lambda proto: _model([_attribute("t", "t", proto)]),
    "attribute tensors": lambda proto: _model([_attribute("ts", "tensors", [SMALL, proto])]),
    "attribute sparse_tensor": lambda proto: _model([_attribute("st", "sparse_tensor", _sparse(proto))]),
    "attribute sparse_tensors": lambda proto: _model([_attribute("sts", "sparse_tensors", [_sparsely_at(proto)])]),
    "subgraph": lambda proto: _model([_attribute("g", "g", _sub(initializers=[proto]))]),
    "subgraphs": lambda proto: _model([_attribute("gs", "graphs", [_sub(), _sub(initializers=[proto])])]),
    "nested subgraph": lambda proto: _model([_attribute("g", "g", _sub([_attribute("h", "g", _sub(initializers=[proto]))]))]),
    "subgraph constant": lambda proto: _model([_attribute("g", "g", _sub([helper.make_node("Constant", [], ["y"], value=proto)]))]),
    "function": lambda proto: _function(proto, default=False),
    "function default": lambda proto: _function(proto, default=True),
    "training initialization": lambda proto: _training(proto, "initialization"),
    "training algorithm": lambda proto: _training(proto, "algorithm"),
}


# onnx reads (https://nvd.nist.gov/vuln/detail/CVE-2022-25882, https://nvd.nist.gov/vuln/detail/CVE-2024-27318) and writes
# (https://nvd.nist.gov/vuln/detail/CVE-2025-51480) the file that the tensor names.
@pytest.mark.parametrize("place", list(PLACES))
def test_external_data_is_confined_wherever_the_tensor_is(place: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(80))
    folder = tmp_path / "artifact"
    folder.mkdir()
    problem = refused(folder / "model.onnx", PLACES[place](outside("../secret")).SerializeToString())
    assert problem.rule == "MG0110"
    assert "'../secret', whose path leaves the artifact with '..'" in problem.message
    (folder / "inside.bin").write_bytes(np.arange(20, dtype=np.float32).tobytes())
    (folder / "model.onnx").write_bytes(PLACES[place](outside("inside.bin")).SerializeToString())
    (checkpoint,) = opened(folder / "model.onnx").checkpoints
    assert [info.byte_length for info in checkpoint.tensors.values() if info.file == "inside.bin"] == [80]


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("/etc/passwd", "is absolute"),
        ("//host/share", "is absolute"),
        ("C:/secret", "is absolute"),
        ("c:secret", "is absolute"),
        ("..", "leaves the artifact"),
        ("a/../../secret", "leaves the artifact"),
        ("a\\..\\..\\secret", "contains a backslash"),
        ("\\\\host\\share", "contains a backslash"),
        ("secret\0.bin", "contains a NUL byte"),
        ("", "is empty"),
        ("dir/", "ends in a slash"),
        ("x" * 5000, "is longer than any file name"),
    ],
)
def test_no_trick_with_a_path_leads_out(location: str, why: str, tmp_path: Path) -> None:
    problem = refused(tmp_path / "model.onnx", PLACES["initializer"](outside(location)).SerializeToString())
    assert problem.rule == "MG0110"
    assert why in problem.message


@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "%2e%2e/secret", "~/secret", "file:///etc/passwd", "missing.bin", "x/./y.bin"])
def test_what_is_no_file_of_the_artifact_is_not_opened(location: str, tmp_path: Path) -> None:
    problem = refused(tmp_path / "model.onnx", PLACES["initializer"](outside(location, "140000000000", "80")).SerializeToString())
    assert problem.rule == "MG0108"
    assert "which the artifact does not have" in problem.message


@pytest.mark.parametrize(
    ("offset", "length", "rule", "says"),
    [
        ("0", "81", "MG0105", "has 81"),
        ("60", None, "MG0105", "has 40 bytes, and its shape and type take 80"),
        ("101", None, "MG0105", "which has 100"),
        ("21", "80", "MG0105", "lies at bytes 21 to 101"),
        ("18446744073709551615", "80", "MG0105", "which has 100"),
        ("-1", "80", "MG0102", "offset of its external data must be a whole number, and is '-1'"),
        ("0x10", "80", "MG0102", "'0x10'"),
        ("", "80", "MG0102", "must be a whole number"),
        (" 1", "80", "MG0102", "must be a whole number"),
        ("٣", "80", "MG0102", "must be a whole number"),
        ("9" * 5000, "80", "MG0102", "must be a whole number"),
        ("0", "8e1", "MG0102", "length of its external data"),
    ],
)
def test_offset_and_length_stay_inside_the_file(offset: str, length: str | None, rule: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    problem = refused(tmp_path / "model.onnx", PLACES["initializer"](outside("w.bin", offset, length)).SerializeToString())
    assert problem.rule == rule
    assert says in problem.message


def test_external_data_entries_must_be_whole_and_single(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(80))
    twice = outside("w.bin")
    twice.external_data.add(key="location", value="../secret")
    nowhere = outside("w.bin")
    del nowhere.external_data[:]
    both = outside("w.bin")
    both.raw_data = bytes(80)
    itself = outside("model.onnx", "0", "80")
    for proto, rule in ((twice, "MG0107"), (nowhere, "MG0102"), (both, "MG0107"), (itself, "MG0110")):
        assert refused(tmp_path / "model.onnx", PLACES["initializer"](proto).SerializeToString()).rule == rule


# https://nvd.nist.gov/vuln/detail/CVE-2026-34445: onnx before 1.21 sets every key as an attribute of an object.
@pytest.mark.parametrize("key", ["__class__", "__dict__", "__setattr__"])
def test_external_data_has_no_key_that_is_a_name_of_python_s_own(key: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(80))
    proto = outside("w.bin")
    proto.external_data.add(key=key, value="x")
    problem = refused(tmp_path / "model.onnx", PLACES["initializer"](proto).SerializeToString())
    assert problem.rule == "MG0102"
    assert key in problem.message
    proto.external_data[-1].key = "checksum"
    (tmp_path / "model.onnx").write_bytes(PLACES["initializer"](proto).SerializeToString())
    assert opened(tmp_path / "model.onnx").checkpoints


# https://nvd.nist.gov/vuln/detail/CVE-2026-34447 and https://nvd.nist.gov/vuln/detail/CVE-2026-34446: links that onnx follows.
@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symlink", "hard link"])
@pytest.mark.parametrize("target", ["folder", "file"])
def test_a_link_out_of_the_artifact_is_refused_by_the_source(link: Callable[..., None], target: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(80))
    folder = tmp_path / "artifact"
    folder.mkdir()
    link(tmp_path / "secret", folder / "w.bin")
    (folder / "model.onnx").write_bytes(PLACES["initializer"](outside("w.bin")).SerializeToString())
    with pytest.raises(SourceError, match=r"w\.bin: is a (symlink out of|hard link whose other names lie outside) the artifact"):
        open_target(folder if target == "folder" else folder / "model.onnx")


# https://nvd.nist.gov/vuln/detail/CVE-2026-27489
def test_a_symlinked_folder_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_bytes(bytes(80))
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "data").symlink_to(tmp_path / "secrets")
    (folder / "model.onnx").write_bytes(PLACES["initializer"](outside("data/key")).SerializeToString())
    with pytest.raises(SourceError, match="symlink out of the artifact"):
        open_target(folder)


def test_a_file_that_becomes_a_fifo_or_another_file_is_not_read(tmp_path: Path) -> None:
    proto = PLACES["initializer"](outside("w.bin"))
    (tmp_path / "w.bin").write_bytes(bytes(80))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    (checkpoint,) = open_target(tmp_path).checkpoints
    (tmp_path / "w.bin").unlink()
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(ArtifactError, match="is not a regular file"):
        checkpoint.read("w")
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").write_bytes(bytes(80))
    with pytest.raises(ArtifactError, match="changed while it was being scanned"):
        checkpoint.read("w")


# Random damage: whatever happens, it is one of our errors, soon, and in little memory.


def _seed_safetensors() -> bytes:
    header = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"b":{"dtype":"U8","shape":[8],"data_offsets":[24,32]}}'
    )
    return safetensors_bytes(header, bytes(32))


def _seed_onnx() -> bytes:
    big = numpy_helper.from_array(np.arange(20, dtype=np.float32), "w")
    typed = helper.make_tensor("t", TensorProto.INT64, [3], [1, -1, 300])
    nodes = [
        _attribute("g", "g", _sub([helper.make_node("Constant", [], ["k"], value=big)], [big])),
        _attribute("st", "sparse_tensor", _sparse(big)),
    ]
    nodes.append(helper.make_node("Custom", [], ["z"], floats=[0.5] * 20))
    model = _model(nodes, [big, typed, outside("w.bin", "0", "80")])
    helper.set_model_props(model, {"a": "b"})
    return bytes(model.SerializeToString())


SEEDS = {"m.safetensors": _seed_safetensors(), "m.onnx": _seed_onnx()}
_DAMAGE = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "number"]), st.integers(0, 4000), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


def _damaged(data: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    out = bytearray(data)
    for how, where, value in damage:
        at = where % (len(out) + 1)
        if how == "set":
            out[at : at + len(value)] = value
        elif how == "insert":
            out[at:at] = value
        elif how == "delete":
            del out[at : at + len(value)]
        else:
            out[at : at + 1] = encode_varint(int.from_bytes(value, "little") & (2**64 - 1))
    return bytes(out)


@pytest.mark.parametrize("random", RUNS)
@pytest.mark.parametrize("name", list(SEEDS))
def test_a_damaged_file_raises_nothing_but_our_errors(name: str, random: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "w.bin").write_bytes(bytes(80))
    (folder / name).write_bytes(SEEDS[name])
    assert len(opened(folder / name).checkpoints) == 1
    form = SafetensorsFormat() if name.endswith(".safetensors") else OnnxFormat()

    @_budget(20_000 if random else 600, random)
    @given(_DAMAGE)
    @example([("delete", 0, b"123456789")])
    def check(damage: list[tuple[str, int, bytes]]) -> None:
        data = _damaged(SEEDS[name], damage)
        path = folder / name
        path.write_bytes(data)
        files = (ArtifactFile(name, path, len(data)), ArtifactFile("w.bin", folder / "w.bin", 80))
        form.recognise(data[:4096], len(data))
        with bounded(8 << 20):
            try:
                checkpoint, _ = form.open(files[0], Artifact("x", "local:x", folder, files))
            except (FormatError, ArtifactError) as error:
                assert str(error).isprintable()  # noqa: PT017
                return
            for tensor, info in checkpoint.tensors.items():
                assert len(checkpoint.raw(tensor)) == info.byte_length <= len(data) + 80
                assert checkpoint.read(tensor).shape == info.shape
            if isinstance(checkpoint, OnnxCheckpoint):
                assert len(checkpoint.skeleton()) <= len(data) + 200 * len(checkpoint.tensors)
            with contextlib.suppress(FormatError):
                checkpoint.graph()

    check()


def test_hostile_sizes_are_refused_where_memory_is_short(tmp_path: Path) -> None:
    """In a process that may not hold more than 256 MiB beyond what it has, files that promise far more end as problems."""
    claims = {
        "a.safetensors": safetensors_bytes({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "b.onnx": graph(tensor([2**40], 1, encode_field(4, b"1234"))),
        "c.safetensors": safetensors_bytes(b"{}", length=100_000_000),
        "d.onnx": graph(encode_varint(5 << 3 | 2) + encode_varint(2**40)),
    }
    for name, data in claims.items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import resource, sys\n"
        "from modelguard.testing.checkpoints import open_target\n"
        "used = int(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmData'))) << 10\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + (256 << 20),) * 2)\n"
        "target = open_target(sys.argv[1])\n"
        "print(*sorted((p.file, p.rule) for p in target.problems), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    rules = [("a.safetensors", "MG0105"), ("b.onnx", "MG0105"), ("c.safetensors", "MG0102"), ("d.onnx", "MG0102")]
    assert done.stdout.splitlines() == [str(item) for item in rules]


def test_a_flood_of_safetensors_entries_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (safetensors_reader, uniform):
        monkeypatch.setattr(module, "MAX_TENSORS", 10)
    header = {str(index): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for index in range(11)}
    assert "more than 10 tensors" in refused(tmp_path / "model.safetensors", safetensors_bytes(header)).message


def test_a_text_of_more_than_16_mib_in_an_onnx_file_is_not_decoded(tmp_path: Path) -> None:
    data = graph() + encode_field(14, encode_field(1, b"note") + encode_field(2, bytes(MAX_TEXT + 1)))
    with bounded(4 << 20):
        problem = refused(tmp_path / "model.onnx", data)
    assert (problem.rule, "16777217 bytes" in problem.message) == ("MG0104", True)


def test_an_index_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors.index.json").open("wb") as handle:
        handle.truncate(5 << 30)
    with bounded(1 << 20):
        (problem,) = opened(tmp_path / "model.safetensors.index.json").problems
    assert (problem.rule, problem.fatal) == ("MG0104", True)
    assert "is an index of 5368709120 bytes, and 67108864 are the limit" in problem.message


def test_external_data_with_gigabytes_that_no_tensor_claims_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(PLACES["initializer"](outside("w.bin", "0", "80")).SerializeToString())
    with (tmp_path / "w.bin").open("wb") as handle:
        handle.truncate(1 << 40)
    read: list[int] = []
    monkeypatch.setattr(opening, "_any", lambda view: read.append(len(view)))
    result = opened(tmp_path / "model.onnx")
    assert [(item.rule, item.file, item.fatal) for item in result.problems] == [("MG0116", "w.bin", False)]
    assert not read


def test_limits_are_limit_errors() -> None:
    assert issubclass(LimitError, FormatError)
    with pytest.raises(LimitError):
        read_header(memoryview(corrupt_safetensors("a million dimensions").data), "x")


def test_thousands_of_files_do_not_run_out_of_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(300):
        write_safetensors(tmp_path / f"{number}.safetensors", {"w": np.full(4, number)})
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        target = open_target(tmp_path)
        total = sum(float(checkpoint.read("w")[0]) for checkpoint in target.checkpoints)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not target.problems
    assert total == sum(range(300))
