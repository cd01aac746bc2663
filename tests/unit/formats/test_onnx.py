"""The ONNX reader on legal files: every place a tensor can be, every way its values can be stored, and the skeleton."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelguard import Target
from modelguard._formats.onnx import OnnxFormat
from modelguard._formats.onnx_checkpoint import OnnxCheckpoint
from modelguard._formats.onnx_schema import SCHEMA
from modelguard._formats.onnx_tensors import DATA_TYPES
from modelguard._formats.protobuf import encode_field, encode_varint
from modelguard.testing.checkpoints import open_target, write_onnx_cnn, write_onnx_mlp

CODES = sorted(DATA_TYPES)


def model(nodes: list[Any] | None = None, initializers: list[Any] | None = None, **parts: Any) -> onnx.ModelProto:
    functions = parts.pop("functions", [])
    graph = helper.make_graph(nodes or [], "g", [], [], initializers or [], **parts)
    return helper.make_model(graph, functions=functions)


def opened(proto: onnx.ModelProto, folder: Path, **options: Any) -> OnnxCheckpoint:
    onnx.save(proto, str(folder / "m.onnx"), **options)
    target = open_target(folder)
    assert not [item for item in target.problems if item.rule != "MG0117"], target.problems
    return of(target)


def of(target: Target) -> OnnxCheckpoint:
    (checkpoint,) = target.checkpoints
    assert isinstance(checkpoint, OnnxCheckpoint)
    return checkpoint


def constant(name: str, values: npt.NDArray[Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, "ignored"))


def sample(code: int, count: int) -> npt.NDArray[Any]:
    dtype = helper.tensor_dtype_to_np_dtype(code)
    values: npt.NDArray[Any] = np.random.default_rng(code).normal(size=count) * 2
    if dtype.kind == "c":
        values = values + 1j * values[::-1]
    elif dtype == np.bool_:
        values = values > 0
    elif "uint" in dtype.name:
        values = np.abs(values)
    return values.astype(dtype)


def elements(array: npt.NDArray[Any], dtype: str) -> bytes:
    """The array's bytes; elements below a byte without the bits that ml_dtypes ignores."""
    mask = {"U4": 15, "I4": 15, "F4": 15, "U2": 3, "I2": 3, "F6_E2M3": 63, "F6_E3M2": 63}.get(dtype)
    return array.tobytes() if mask is None else (array.reshape(-1).view(np.uint8) & mask).tobytes()


def test_every_data_type_of_onnx_is_known() -> None:
    known = {value.number for value in TensorProto.DESCRIPTOR.enum_types_by_name["DataType"].values}
    assert set(CODES) | {TensorProto.UNDEFINED, TensorProto.STRING} == known


def test_the_schema_is_that_of_the_onnx_library() -> None:
    names = {
        "Model": "ModelProto", "Graph": "GraphProto", "Node": "NodeProto", "Attribute": "AttributeProto", "Tensor": "TensorProto",
        "Sparse": "SparseTensorProto", "Function": "FunctionProto", "Training": "TrainingInfoProto", "Pair": "StringStringEntryProto",
        "Opset": "OperatorSetIdProto", "Value": "ValueInfoProto",
    }  # fmt: skip
    wires = {1: 1, 2: 5, 3: 0, 4: 0, 5: 0, 9: 2, 11: 2, 12: 2, 14: 0}  # FieldDescriptor.type -> wire type
    for ours, theirs in names.items():
        listed = {field.number: (field.name, wires[field.type], field.is_repeated) for field in getattr(onnx, theirs).DESCRIPTOR.fields}
        assert listed == {number: (kind.name, kind.wire, kind.many) for number, kind in SCHEMA[ours].items()}, ours


@pytest.mark.parametrize("count", [0, 1, 5, 8])
@pytest.mark.parametrize("code", CODES)
def test_typed_and_raw_fields_give_what_the_onnx_library_gives(code: int, count: int, tmp_path: Path) -> None:
    array = sample(code, count)
    raw = numpy_helper.from_array(array, "raw")
    typed = helper.make_tensor("typed", code, [count], array if array.dtype.kind == "c" else array.tolist())
    checkpoint = opened(model(initializers=[raw, typed]), tmp_path)
    dtype = DATA_TYPES[code]
    for name, tensor in (("raw", raw), ("typed", typed)):
        assert (checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape) == (dtype, (count,))
        assert bytes(checkpoint.raw(name)) == raw.raw_data
        assert len(checkpoint.raw(name)) == checkpoint.tensors[name].byte_length
        assert elements(checkpoint.read(name), dtype) == elements(numpy_helper.to_array(tensor), dtype)
        assert not checkpoint.read(name).flags.writeable


def test_typed_values_may_be_packed_unpacked_or_both(tmp_path: Path) -> None:
    name = encode_field(8, b"w")
    head = encode_varint(1 << 3) + encode_varint(4) + encode_varint(2 << 3) + encode_varint(TensorProto.INT64) + name
    minus_one = encode_varint(2**64 - 1)
    values = (
        encode_varint(7 << 3)
        + encode_varint(5)
        + encode_field(7, minus_one + encode_varint(300))
        + encode_varint(7 << 3)
        + encode_varint(7)
    )
    graph = encode_field(5, head + values)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + encode_field(7, graph))
    assert onnx.load(str(tmp_path / "m.onnx")).graph.initializer[0].int64_data == [5, -1, 300, 7]
    np.testing.assert_array_equal(of(open_target(tmp_path)).read("w"), [5, -1, 300, 7])


@pytest.mark.parametrize(("number", "wire", "form", "code"), [(4, 5, "<f", 1), (10, 1, "<d", 11)], ids=["float_data", "double_data"])
def test_typed_floats_may_come_in_several_pieces(number: int, wire: int, form: str, code: int, tmp_path: Path) -> None:
    single = encode_varint(number << 3 | wire) + struct.pack(form, 1.5)
    packed = encode_field(number, struct.pack(form, 2.5) + struct.pack(form, -0.0))
    head = encode_varint(1 << 3) + encode_varint(6) + encode_varint(2 << 3) + encode_varint(code) + encode_field(8, b"w")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + encode_field(7, encode_field(5, head + single + packed + single + packed)))
    array = of(open_target(tmp_path)).read("w")
    expected = numpy_helper.to_array(onnx.load(str(tmp_path / "m.onnx")).graph.initializer[0])
    assert array.tobytes() == expected.tobytes()
    assert array.tolist() == [1.5, 2.5, -0.0, 1.5, 2.5, -0.0]


def test_packed_varints_longer_than_a_block(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-(2**62), 2**62, size=300_000)
    tensor = helper.make_tensor("w", TensorProto.INT64, [len(values)], values.tolist())
    np.testing.assert_array_equal(opened(model(initializers=[tensor]), tmp_path).read("w"), values)


def test_raw_data_and_packed_floats_are_views_of_the_file(tmp_path: Path) -> None:
    raw = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "raw")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    checkpoint = opened(model(initializers=[raw, typed]), tmp_path)
    data = (tmp_path / "m.onnx").read_bytes()
    for name in ("raw", "typed"):
        info = checkpoint.tensors[name]
        assert info.byte_offset is not None
        assert data[info.byte_offset : info.byte_offset + info.byte_length] == bytes(checkpoint.raw(name))
        assert np.shares_memory(checkpoint.read(name), checkpoint.read(name))


def nested(depth: int) -> onnx.GraphProto:
    nodes = [constant("k", np.arange(32.0))]
    if depth:
        nodes.append(helper.make_node("If", ["c"], ["y"], name="inner", then_branch=nested(depth - 1), else_branch=nested(0)))
    return helper.make_graph(nodes, "s", [], [], [numpy_helper.from_array(np.full(3, depth), "w")])


def test_tensors_of_subgraphs_are_found_at_any_depth(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("If", ["c"], ["y"], name="cond", then_branch=nested(2), else_branch=nested(0)),
        helper.make_node("Loop", ["m", "c"], ["z"], body=nested(0)),
        helper.make_node("Scan", ["x"], ["u"], name="cond", body=nested(0), num_scan_inputs=1),
    ]
    names = set(opened(model(nodes), tmp_path).tensors)
    assert names == {
        "cond/then_branch/w", "cond/then_branch/k",
        "cond/then_branch/inner/then_branch/w", "cond/then_branch/inner/then_branch/k",
        "cond/then_branch/inner/else_branch/w", "cond/then_branch/inner/else_branch/k",
        "cond/then_branch/inner/then_branch/inner/then_branch/w", "cond/then_branch/inner/then_branch/inner/then_branch/k",
        "cond/then_branch/inner/then_branch/inner/else_branch/w", "cond/then_branch/inner/then_branch/inner/else_branch/k",
        "cond/else_branch/w", "cond/else_branch/k",
        "Loop.1/body/w", "Loop.1/body/k",
        "cond.2/body/w", "cond.2/body/k",
    }  # fmt: skip


def test_attributes_that_hold_lists_of_graphs_and_tensors(tmp_path: Path) -> None:
    node = helper.make_node("Custom", [], ["y"], name="n", domain="com.acme")
    node.attribute.append(helper.make_attribute("graphs", [nested(0), nested(0)]))
    node.attribute.append(
        helper.make_attribute("tables", [numpy_helper.from_array(np.arange(99.0)), numpy_helper.from_array(np.arange(2.0))])
    )
    assert set(opened(model([node]), tmp_path).tensors) == {"n/graphs.0/w", "n/graphs.0/k", "n/graphs.1/w", "n/graphs.1/k", "n/tables.0"}


def test_functions_and_training_graphs(tmp_path: Path) -> None:
    function = helper.make_function("com.acme", "Block", [], ["y"], [constant("fk", np.arange(20.0))], [helper.make_opsetid("", 21)])
    function.node.append(helper.make_node("If", ["c"], ["z"], name="if", then_branch=nested(0), else_branch=nested(0)))
    proto = model(functions=[function])
    training = proto.training_info.add()
    training.algorithm.initializer.append(numpy_helper.from_array(np.ones(2), "lr"))
    assert set(opened(proto, tmp_path).tensors) == {
        "com.acme.Block/fk", "com.acme.Block/if/then_branch/w", "com.acme.Block/if/then_branch/k",
        "com.acme.Block/if/else_branch/w", "com.acme.Block/if/else_branch/k", "training.0/algorithm/lr",
    }  # fmt: skip


def test_constants_above_64_bytes_in_every_attribute_that_can_hold_them(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(2), "v"), numpy_helper.from_array(np.arange(2), "i"), [9])
    nodes = [
        constant("large", np.arange(9.0)),
        constant("small", np.arange(8.0)),
        helper.make_node("Constant", [], ["floats"], value_floats=[0.5] * 17),
        helper.make_node("Constant", [], ["ints"], value_ints=[-1, *range(8)]),
        helper.make_node("Constant", [], ["few"], value_ints=list(range(8))),
        helper.make_node("Constant", [], ["sparse"], sparse_value=sparse),
        helper.make_node("LinearClassifier", ["x"], ["y"], name="svm", domain="ai.onnx.ml", coefficients=[0.25] * 30, intercepts=[0.0]),
    ]
    checkpoint = opened(model(nodes), tmp_path)
    assert set(checkpoint.tensors) == {"large", "floats", "ints", "sparse", "sparse/indices", "svm/coefficients"}
    np.testing.assert_array_equal(checkpoint.read("floats"), np.full(17, 0.5, np.float32))
    np.testing.assert_array_equal(checkpoint.read("ints"), [-1, *range(8)])
    np.testing.assert_array_equal(checkpoint.read("svm/coefficients"), np.full(30, 0.25, np.float32))


def test_sparse_initializers(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(3), "sp"), numpy_helper.from_array(np.arange(3), "any"), [10])
    checkpoint = opened(model(sparse_initializer=[sparse]), tmp_path)
    assert set(checkpoint.tensors) == {"sp", "sp/indices"}
    np.testing.assert_array_equal(checkpoint.read("sp/indices"), [0, 1, 2])


def test_external_data_is_read_in_place(tmp_path: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {"a": np.arange(500, dtype=np.float32).reshape(20, 25), "b": np.arange(700, dtype=np.float64)}
    proto = model(initializers=[numpy_helper.from_array(array, name) for name, array in arrays.items()])
    checkpoint = opened(proto, tmp_path, save_as_external_data=True, location="m.onnx_data", size_threshold=0)
    assert checkpoint.files == ("m.onnx", "m.onnx_data")
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint.read(name), array)
        assert checkpoint.tensors[name].file == "m.onnx_data"
        assert np.shares_memory(checkpoint.read(name), checkpoint.read(name))
    assert not open_target(tmp_path).unread


def test_metadata(tmp_path: Path) -> None:
    proto = model()
    helper.set_model_props(proto, {"mean": "0.5", "note": "x"})
    assert opened(proto, tmp_path).metadata == {"mean": "0.5", "note": "x"}


def test_text_tensors_are_counted_and_not_read(tmp_path: Path) -> None:
    labels = helper.make_tensor("labels", TensorProto.STRING, [2], [b"cat", b"dog"])  # type: ignore[list-item]
    checkpoint = opened(model(initializers=[labels, numpy_helper.from_array(np.ones(1), "w")]), tmp_path)
    assert set(checkpoint.tensors) == {"w"}
    assert [(item.rule, item.fatal) for item in open_target(tmp_path).problems] == [("MG0117", False)]


def test_two_tensors_of_one_name_are_both_there_and_reported(tmp_path: Path) -> None:
    proto = model([constant("w", np.full(20, 3.0))], [numpy_helper.from_array(np.full(2, value), "w") for value in (1.0, 2.0)])
    onnx.save(proto, str(tmp_path / "m.onnx"))
    target = open_target(tmp_path)
    assert [float(of(target).read(name)[0]) for name in ("w", "w#2", "w#3")] == [1.0, 2.0, 3.0]
    assert [(item.rule, item.tensor) for item in target.problems] == [("MG0107", "w")]


def test_an_unnamed_initializer_has_a_name(tmp_path: Path) -> None:
    assert set(opened(model(initializers=[numpy_helper.from_array(np.ones(2))]), tmp_path).tensors) == {"initializer.0"}


# The skeleton: what the runtime parses instead of the model.


def refill(proto: Any, checkpoint: OnnxCheckpoint) -> None:
    """Put the values a skeleton left out back, wherever the tensor is."""
    for field, value in proto.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else [value]:
            if isinstance(item, TensorProto) and item.external_data and item.external_data[0].key == "modelguard":
                item.raw_data = bytes(checkpoint.raw(item.external_data[0].value))
                item.ClearField("external_data")
                item.ClearField("data_location")
            else:
                refill(item, checkpoint)


def large_everywhere() -> onnx.ModelProto:
    big = np.arange(2000, dtype=np.float32)
    sub = helper.make_graph(
        [constant("k", big)], "s", [], [], [numpy_helper.from_array(big, "w"), numpy_helper.from_array(np.ones(3), "tiny")]
    )
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(big, "sp"), numpy_helper.from_array(np.arange(2000), "i"), [5000])
    function = helper.make_function("d", "F", [], ["y"], [constant("fk", big)], [helper.make_opsetid("", 21)])
    nodes = [helper.make_node("If", ["c"], ["y"], name="n", then_branch=sub, else_branch=sub), constant("k", big)]
    return model(nodes, [numpy_helper.from_array(big, "w")], sparse_initializer=[sparse], functions=[function])


def test_the_skeleton_with_its_weights_put_back_is_the_model(tmp_path: Path) -> None:
    proto = large_everywhere()
    checkpoint = opened(proto, tmp_path)
    skeleton = checkpoint.skeleton()
    assert len(skeleton) < 2000 < len(proto.SerializeToString())
    parsed = onnx.ModelProto.FromString(skeleton)
    assert parsed.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert [(item.key, item.value) for item in parsed.graph.initializer[0].external_data] == [("modelguard", "w")]
    refill(parsed, checkpoint)
    assert parsed == proto


def test_the_skeleton_leaves_no_external_reference(tmp_path: Path) -> None:
    proto = model(initializers=[numpy_helper.from_array(np.arange(size, dtype=np.float32), f"w{size}") for size in (2, 2000)])
    checkpoint = opened(proto, tmp_path, save_as_external_data=True, location="x.bin", size_threshold=0)
    parsed = onnx.ModelProto.FromString(checkpoint.skeleton())
    assert [[entry.key for entry in item.external_data] for item in parsed.graph.initializer] == [["modelguard"]] * 2
    refill(parsed, checkpoint)
    np.testing.assert_array_equal(numpy_helper.to_array(parsed.graph.initializer[1]), np.arange(2000, dtype=np.float32))


def test_the_skeleton_of_a_small_model_is_the_model(tmp_path: Path) -> None:
    checkpoint = of(open_target(write_onnx_mlp(tmp_path / "m.onnx")))
    assert checkpoint.skeleton() == (tmp_path / "m.onnx").read_bytes()


def test_opening_and_the_skeleton_copy_no_weights(tmp_path: Path) -> None:
    onnx.save(model(initializers=[numpy_helper.from_array(np.zeros(64 << 20, np.uint8), "w")]), str(tmp_path / "m.onnx"))
    open_target(tmp_path)  # imports
    tracemalloc.start()
    checkpoint = of(open_target(tmp_path))
    skeleton, array = checkpoint.skeleton(), checkpoint.read("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.size == 64 << 20
    assert len(skeleton) < 1000
    assert peak < 16 << 20  # two blocks that are hashed


# Recognition.


def test_it_recognises_models_however_they_begin(tmp_path: Path) -> None:
    data = write_onnx_cnn(tmp_path / "m.onnx").read_bytes()
    proto = onnx.ModelProto.FromString(data)
    graph_first = encode_field(7, proto.graph.SerializeToString()) + b"\x08\x08"
    proto.doc_string = "x" * 10_000
    for candidate in (data, graph_first, proto.SerializeToString()):
        assert OnnxFormat().recognise(candidate[:4096], len(candidate))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x08", b"hello world, this is text\n" * 10, b"{}", b"\x0a\x10tokenizer pieces", b"\x80\x04\x95", b"PK\x03\x04" + bytes(60),
     b"\x08\x01\x12\xff\xff\x03" + b"a" * 70_000, b"\x08\x07\x3a\xff\xff\xff\x7f"],
    ids=["empty", "a byte", "text", "json", "sentencepiece", "pickle", "zip", "saved_model", "graph past the end"],
)  # fmt: skip
def test_it_does_not_recognise_other_files(data: bytes) -> None:
    assert not OnnxFormat().recognise(data[:4096], len(data))
