"""The public view of an ONNX file: everything that onnx's own parser sees, and every tensor under the checkpoint's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelguard import Checkpoint, FormatError
from modelguard._formats.protobuf import encode_field
from modelguard.onnx_graph import TEXT, Attribute, Function, Graph, Node, OnnxModel, SparseTensor, Tensor
from modelguard.testing import ArrayCheckpoint
from modelguard.testing.checkpoints import open_target

BIG = np.arange(2000, dtype=np.float32)
SIZES = (3, 40, 2000)
"""Elements of a constant that no checkpoint lists, of one that does, and of one that a skeleton leaves out."""


def tensor(name: str, size: int) -> Any:
    return numpy_helper.from_array(BIG[:size], name)


def branch(name: str) -> Any:
    constants = [helper.make_node("Constant", [], [f"k{size}"], value=tensor("", size)) for size in SIZES]
    result = helper.make_tensor_value_info("k3", TensorProto.FLOAT, [3])
    return helper.make_graph(constants, name, [], [result], [tensor(f"w{size}", size) for size in SIZES], "a branch")


def everything() -> onnx.ModelProto:
    """Every kind of attribute, subgraphs, a function, sparse and text tensors, names used twice, and notes at every level."""
    sparse = helper.make_sparse_tensor(tensor("sp", 5), numpy_helper.from_array(np.arange(5), "i"), [50])
    words: Any = ["yes", "no"]
    words = helper.make_tensor("words", TensorProto.STRING, [2], words)
    nodes = [
        helper.make_node("If", ["c"], ["b"], then_branch=branch("then"), else_branch=branch("else")),
        helper.make_node("If", ["c"], ["d"], then_branch=branch("then"), else_branch=branch("else")),
        helper.make_node(
            "Own", ["b", "", "d"], ["y", "z"], "named", "says", "acme",
            f=-0.25, i=-3, s="text", t=tensor("", 40), floats=[0.5] * 20, ints=[-1, 2**40], strings=["a", "b"],
            tensors=[tensor("", 3), tensor("", 2000)], graphs=[branch("first"), branch("second")],
            type_proto=helper.make_tensor_type_proto(1, [2]),
        ),
        helper.make_node("Constant", [], ["sparse"], sparse_value=sparse),
        helper.make_node("Relu", ["b"], ["r"], domain="ai.onnx"),
    ]  # fmt: skip
    taken = helper.make_node("Gemm", ["a", "w"], ["g"])
    taken.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="scale"))
    function = helper.make_function(
        "acme", "Own", ["a"], ["g"], [helper.make_node("Constant", [], ["w"], value=tensor("", 2000)), taken],
        [helper.make_opsetid("", 21)], ["scale"], [helper.make_attribute("axis", 1)],
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ac"]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yzr"]
    graph = helper.make_graph(nodes, "main", inputs, outputs, [tensor("a", 2000), tensor("a2", 1), words], "about it", [], [sparse])
    model = helper.make_model(graph, functions=[function], opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)])
    model.producer_name, model.producer_version, model.domain, model.doc_string = "maker", "7", "example", "a model"
    for holder in (model, graph, nodes[2], function):
        del holder.metadata_props[:]
        holder.metadata_props.add(key="k", value=type(holder).__name__)
    model.graph.CopyFrom(graph)
    model.graph.node[2].CopyFrom(nodes[2])
    return model


def opened(model: onnx.ModelProto, folder: Path) -> Checkpoint:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    (checkpoint,) = open_target(folder).checkpoints
    return checkpoint


def read(checkpoint: Checkpoint) -> OnnxModel:
    model = checkpoint.graph()
    assert model is not None
    return model


def same_tensor(ours: Tensor, theirs: Any, checkpoint: Checkpoint) -> None:
    assert (ours.name, ours.shape) == (theirs.name, tuple(theirs.dims))
    if ours.dtype == TEXT:
        assert ours.texts == tuple(theirs.string_data)
        return
    held = ours.data if ours.stored is None else bytes(checkpoint.raw(ours.stored))
    assert held == numpy_helper.to_array(theirs).tobytes()


def same_sparse(ours: SparseTensor, theirs: Any, checkpoint: Checkpoint) -> None:
    assert ours.shape == tuple(theirs.dims)
    same_tensor(ours.values, theirs.values, checkpoint)
    same_tensor(ours.indices, theirs.indices, checkpoint)


def same_attribute(ours: Attribute, theirs: Any, checkpoint: Checkpoint) -> None:
    assert (ours.name, ours.type, ours.reference) == (theirs.name, theirs.type, theirs.ref_attr_name)
    for field in ("f", "i", "s"):
        assert getattr(ours, field) == (getattr(theirs, field) if theirs.HasField(field) else None)
    for field in ("floats", "ints"):
        held = getattr(ours, field)
        assert ([] if held is None else held.tolist()) == list(getattr(theirs, field))
    assert ours.strings == tuple(theirs.strings)
    assert len(ours.types) == len(theirs.type_protos) + theirs.HasField("tp")
    for single, several, same in (
        ("t", "tensors", same_tensor),
        ("g", "graphs", same_graph),
        ("sparse_tensor", "sparse_tensors", same_sparse),
    ):
        own = [*([] if (one := getattr(ours, single)) is None else [one]), *getattr(ours, several)]
        other = [*([getattr(theirs, single)] if theirs.HasField(single) else []), *getattr(theirs, several)]
        for mine, its in zip(own, other, strict=True):
            same(mine, its, checkpoint)


def same_nodes(ours: tuple[Node, ...], theirs: Any, checkpoint: Checkpoint) -> None:
    for mine, its in zip(ours, theirs, strict=True):
        domain = "" if its.domain == "ai.onnx" else its.domain
        assert (mine.op, mine.domain, mine.overload, mine.name, mine.doc) == (its.op_type, domain, its.overload, its.name, its.doc_string)
        assert (mine.inputs, mine.outputs) == (tuple(its.input), tuple(its.output))
        assert mine.metadata == tuple((item.key, item.value) for item in its.metadata_props)
        for own, other in zip(mine.attributes, its.attribute, strict=True):
            same_attribute(own, other, checkpoint)


def same_graph(ours: Graph, theirs: Any, checkpoint: Checkpoint) -> None:
    assert (ours.name, ours.doc) == (theirs.name, theirs.doc_string)
    assert ours.inputs == tuple(item.name for item in theirs.input)
    assert ours.outputs == tuple(item.name for item in theirs.output)
    assert ours.metadata == tuple((item.key, item.value) for item in theirs.metadata_props)
    for mine, its in zip(ours.initializers, theirs.initializer, strict=True):
        same_tensor(mine, its, checkpoint)
    for own, other in zip(ours.sparse_initializers, theirs.sparse_initializer, strict=True):
        same_sparse(own, other, checkpoint)
    same_nodes(ours.nodes, theirs.node, checkpoint)


def same_function(ours: Function, theirs: Any, checkpoint: Checkpoint) -> None:
    assert (ours.domain, ours.name, ours.overload, ours.doc) == (theirs.domain, theirs.name, theirs.overload, theirs.doc_string)
    assert (ours.inputs, ours.outputs, ours.attributes) == (tuple(theirs.input), tuple(theirs.output), tuple(theirs.attribute))
    assert ours.opsets == tuple((item.domain, item.version) for item in theirs.opset_import)
    assert ours.metadata == tuple((item.key, item.value) for item in theirs.metadata_props)
    same_nodes(ours.nodes, theirs.node, checkpoint)
    for own, other in zip(ours.defaults, theirs.attribute_proto, strict=True):
        same_attribute(own, other, checkpoint)


def test_it_is_what_the_onnx_library_reads(tmp_path: Path) -> None:
    theirs = everything()
    checkpoint = opened(theirs, tmp_path)
    ours = read(checkpoint)
    assert (ours.ir_version, ours.producer, ours.producer_version) == (theirs.ir_version, "maker", "7")
    assert (ours.domain, ours.doc, ours.metadata) == ("example", "a model", (("k", "ModelProto"),))
    assert ours.opsets == (("", 21), ("acme", 1))
    same_graph(ours.graph, theirs.graph, checkpoint)
    for mine, its in zip(ours.functions, theirs.functions, strict=True):
        same_function(mine, its, checkpoint)


def tensors_of(*holders: Graph | Function) -> Iterator[Tensor]:
    for holder in holders:
        attributes = [attribute for node in holder.nodes for attribute in node.attributes]
        sparse = [item for each in attributes for item in (each.sparse_tensor, *each.sparse_tensors) if item is not None]
        if isinstance(holder, Graph):
            yield from holder.initializers
            sparse += holder.sparse_initializers
        yield from (part for each in sparse for part in (each.values, each.indices))
        yield from (item for each in attributes for item in (each.t, *each.tensors) if item is not None)
        yield from (item for node in holder.nodes for graph in node.subgraphs for item in tensors_of(graph))


def test_every_tensor_of_the_checkpoint_is_in_the_graph_once(tmp_path: Path) -> None:
    checkpoint = opened(everything(), tmp_path)
    model = read(checkpoint)
    stored = [item.stored for item in tensors_of(model.graph, *model.functions) if item.stored is not None]
    assert len(stored) == len(set(stored))
    # A long list of numbers in an attribute is the only tensor that is not a TensorProto.
    assert set(checkpoint.tensors) - set(stored) == {"named/floats"}
    assert [item.shape for item in tensors_of(model.graph) if item.stored is None and item.dtype != TEXT] == [(3,)] * 7


def test_names_that_are_not_text_stay_apart(tmp_path: Path) -> None:
    node = b"".join(encode_field(number, name) for number, name in ((1, b"\xff"), (1, b"\\xff"), (1, b"\xff"), (2, b"y"), (4, b"Sub")))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + encode_field(7, encode_field(1, node)))
    (checkpoint,) = open_target(tmp_path).checkpoints
    first, second, third = read(checkpoint).graph.nodes[0].inputs
    assert first == third == "\\xff"
    assert second not in (first, "")


def test_what_parsers_disagree_on_is_refused_when_it_is_read(tmp_path: Path) -> None:
    twice = encode_field(11, encode_field(1, b"x") + encode_field(1, b"z"))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + encode_field(7, twice))
    (checkpoint,) = open_target(tmp_path).checkpoints
    with pytest.raises(FormatError, match=r"Value\.name is there twice"):
        checkpoint.graph()


def test_reading_can_be_stopped(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", [f"v{at}"], [f"v{at + 1}"]) for at in range(3000)], "g", [], [])
    checkpoint = opened(helper.make_model(graph), tmp_path)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        checkpoint.graph(check)
    assert len(calls) == 3


def test_other_formats_have_no_graph() -> None:
    assert ArrayCheckpoint({"w": BIG}).graph() is None
