"""Hostile ONNX graphs through the command line: the worker answers in one line, within its limits, and lives."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import Ran

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TERA = 10**12
ZERO, UNIT = np.float32(0), np.float32(1)


def value(name: str, shape: list[Any] | None = None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs or ["y"], **attributes)


def graph(nodes: list[Any], **weights: Any) -> Any:
    """x (n, 4) -> y (n, 4)."""
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    made = helper.make_graph(nodes, "g", [value("x", ["n", 4])], [value("y", ["n", 4])], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def million_nodes() -> Any:
    one = node("Relu", ["x"]).SerializeToString()
    model = graph([])
    model.graph.ParseFromString(model.graph.SerializeToString() + (b"\x0a" + bytes([len(one)]) + one) * 1_000_000)
    return model


def gigantic_constant() -> Any:
    tensor = TensorProto(data_type=FLOAT, dims=[TERA], raw_data=b"\0\0\0\0")
    return graph([node("Constant", [], ["c"], value=tensor), node("Add", ["x", "c"])])


def from_data(*nodes: Any, **weights: Any) -> Any:
    """``s`` is a number of terabytes that is computed from the input: no import can know it."""
    size = [node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Cast", ["sum"], ["zero"], to=INT64)]
    size += [node("Mul", ["zero", "none"], ["nothing"]), node("Add", ["nothing", "tera"], ["one_size"])]
    size += [node("Reshape", ["one_size", "flat"], ["s"])]
    fixed = {"none": np.int64(0), "tera": np.int64(TERA), "flat": np.array([1]), "one": np.ones(1, np.float32)}
    back = [node("ReduceMax", ["big"], ["top"], keepdims=0), node("Add", ["x", "top"])]
    return graph([*size, *nodes, *back], **fixed, **weights)


def endless(turns: str, data: bool) -> Any:
    going = [node("Identity", ["c"], ["d"])]
    if data:
        going = [node("ReduceSum", ["s"], ["r"], keepdims=0), node("Mul", ["r", "o"], ["p"]), node("Equal", ["p", "o"], ["d"])]
    inner = [numpy_helper.from_array(np.array(0, np.float32), "o")] if data else []
    body = helper.make_graph(
        [*going, node("Abs", ["s"], ["t"])], "body",
        [value("i", [], INT64), value("c", [], BOOL), value("s", ["n", 4])], [value("d", [], BOOL), value("t", ["n", 4])], inner,
    )  # fmt: skip
    return graph([node("Loop", [turns, "go", "x"], body=body)], go=np.array(True), m=np.int64(2**62))


def external(location: str) -> Any:
    model = graph([node("Add", ["x", "c"])])
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    return model


ELEMENTS = "elements where .*are allowed"
HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "cycle": (lambda: graph([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"])]), "the graph has a cycle"),
    "dangling input": (lambda: graph([node("Add", ["x", "nowhere"])]), "reads 'nowhere', which nothing makes"),
    "a million nodes": (million_nodes, "nodes"),
    "a gigantic constant": (gigantic_constant, "carries 4 instead of|byte"),
    "expand": (lambda: graph([node("Expand", ["x", "s"])], s=np.array([TERA, 1, 4])), ELEMENTS),
    "tile": (lambda: graph([node("Tile", ["x", "s"])], s=np.array([1, TERA])), ELEMENTS),
    "range": (
        lambda: graph([node("Range", ["a", "b", "c"], ["r"]), node("Add", ["x", "r"])], a=ZERO, b=np.float32(TERA), c=UNIT),
        ELEMENTS,
    ),
    "constant of shape": (
        lambda: graph([node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"])], s=np.array([10**6, 10**6])), ELEMENTS,
    ),
    "expand by data": (lambda: from_data(node("Expand", ["one", "s"], ["big"])), ELEMENTS),
    "tile by data": (lambda: from_data(node("Tile", ["one", "s"], ["big"])), ELEMENTS),
    "constant of shape by data": (lambda: from_data(node("ConstantOfShape", ["s"], ["big"])), ELEMENTS),
    "range by data": (
        lambda: from_data(
            node("Cast", ["one_size"], ["end"], to=FLOAT), node("Range", ["a", "end", "a1"], ["big"]), a=np.float32(0), a1=np.float32(1)
        ),
        ELEMENTS,
    ),
    "loop without end": (lambda: endless("", False), "without end"),
    "loop of 2^62 turns": (lambda: endless("m", False), "loops"),
    "loop that the data never ends": (lambda: endless("", True), "runs past"),
    "external data outside": (lambda: external("../../etc/passwd"), "passwd|outside"),
    "external data that is not there": (lambda: external("weights.bin"), "weights.bin|outside"),
}  # fmt: skip
FAST = ("expand by data", "loop that the data never ends", "external data outside")


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in HOSTILE])
def test_it_is_refused_in_one_line(mg: Callable[..., Ran], tmp_path: Path, name: str) -> None:
    build, words = HOSTILE[name]
    (tmp_path / "model.onnx").write_bytes(build().SerializeToString())
    ran = mg("model", tmp_path / "model.onnx", "-q", "--threads", "1", "--memory", "2G", "--timeout", "60")
    assert (ran.code, len(ran.out.splitlines()), ran.err) == (3, 1, "")
    assert ran.out.startswith("model.onnx: cannot be run: ")
    assert len(ran.out) < 700
    assert re.search(words, ran.out), ran.out
    assert "worker" not in ran.out, "it is refused, not survived"
    assert str(tmp_path) not in ran.out
