"""Hostile ONNX graphs: each is refused in one line, before anything of the size it asks for is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from modelguard_runtime.onnx import (
    EXTERNAL_KEY,
    GraphError,
    GraphLimitError,
    GraphLimits,
    UnsupportedError,
    import_graph,
)
from modelguard_runtime.onnx.lower import loops
from onnx import TensorProto, helper, numpy_helper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TERA = 10**12


FOLDED = 1 << 20
"""Elements of constants that the imports here may compute."""

LARGEST = 4 * FOLDED
"""Bytes the largest tensor may have that is made on the way to a refusal."""

CALLS = 3000
"""torch functions that may be called on the way to a refusal."""

TURNS = 200
"""Iterations that loops may make together, here: enough to tell a bound from none."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls of torch functions and keeps the size of the largest memory behind a tensor they return, in bytes. Tensors on the
    meta device have none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return result


@pytest.fixture(autouse=True)
def within_bounds() -> Iterator[None]:
    """Every refusal comes before anything large is made, and after a bounded amount of work."""
    with Watch() as watch:
        yield
    assert watch.largest <= LARGEST
    assert watch.calls <= CALLS


def test_the_watch_sees_memory_and_calls() -> None:
    with Watch() as watch:
        torch.empty(LARGEST + 1, dtype=torch.int8, device="meta")
        torch.zeros(8).expand(LARGEST, 8)
        assert watch.largest == 32
        torch.arange(FOLDED, dtype=torch.int32)
    assert watch.largest == 4 * FOLDED
    assert watch.calls == 4


def value(name: str, shape: list[int | str] | None = None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, array: object, dtype: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(array, dtype=dtype), name)


def model(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto] = [],  # noqa: B006
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[str] = ["y"],  # noqa: B006
    opset: int = 18,
    functions: list[onnx.FunctionProto] = [],  # noqa: B006
    kind: int = FLOAT,
) -> onnx.ModelProto:
    given = [value("x", ["n", 4])] if inputs is None else inputs
    graph = helper.make_graph(nodes, "g", given, [value(o, None, kind) for o in outputs], initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=functions)


def refused(proto: onnx.ModelProto, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        import_graph(proto, limits=GraphLimits(folded=FOLDED))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def node(op: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs or ["y"], **attributes)


# ---- structure


def test_cycle() -> None:
    refused(model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"])]), GraphError, "cycle")


def test_node_that_reads_itself() -> None:
    refused(model([node("Add", ["x", "y"])]), GraphError, "cycle")


def test_dangling_input() -> None:
    refused(model([node("Add", ["x", "nowhere"])]), GraphError, "reads 'nowhere', which nothing makes")


def test_missing_output() -> None:
    refused(model([node("Relu", ["x"], ["a"])]), GraphError, "'y'.*not computed")


def test_output_made_twice() -> None:
    refused(model([node("Relu", ["x"]), node("Tanh", ["x"])]), GraphError, "exists already")


def test_output_that_shadows_an_input() -> None:
    refused(model([node("Relu", ["x"], ["x"])], outputs=["x"]), GraphError, "exists already")


def test_two_inputs_of_one_name() -> None:
    refused(model([node("Relu", ["x"])], inputs=[value("x", [1]), value("x", [2])]), GraphError, "two inputs")


def test_two_initializers_of_one_name() -> None:
    refused(model([node("Add", ["x", "c"])], [constant("c", [1.0], np.float32)] * 2), GraphError, "two initializers")


def test_more_outputs_than_the_operator_has() -> None:
    refused(model([node("Relu", ["x"], ["y", "z"])]), GraphError, "names 2 outputs")


def test_more_inputs_than_the_operator_has() -> None:
    refused(model([node("Relu", ["x", "x", "x"])]), GraphError, "has 3 inputs")


def test_no_opset() -> None:
    proto = model([node("Relu", ["x"])])
    del proto.opset_import[:]
    refused(proto, GraphError, "imports no opset")


def test_an_opset_of_the_future() -> None:
    refused(model([node("Relu", ["x"])], opset=99), UnsupportedError, "opset 99.*newer")


def test_unknown_operator_names_itself() -> None:
    nodes = [node("Relu", ["x"], ["a"]), helper.make_node("Frobnicate", ["a"], ["y"], name="seventh", domain="com.microsoft")]
    refused(model(nodes), UnsupportedError, "Frobnicate.*com.microsoft.*opset 1.*'seventh'")


def test_a_million_nodes() -> None:
    one = node("Relu", ["x"]).SerializeToString()
    field = b"\x0a" + bytes([len(one)]) + one
    proto = model([])
    proto.graph.ParseFromString(proto.graph.SerializeToString() + field * 1_000_000)
    refused(proto, GraphLimitError, "1000000 nodes")


def test_subgraphs_nested_too_deep() -> None:
    nested = helper.make_graph([node("Relu", ["x"], ["o"])], "leaf", [], [value("o")])
    other = helper.make_graph([node("Relu", ["x"], ["o"])], "leaf", [], [value("o")])
    for _ in range(28):
        nested = helper.make_graph([node("If", ["c"], ["o"], then_branch=nested, else_branch=other)], "b", [], [value("o")])
    proto = model([node("If", ["c"], then_branch=nested, else_branch=other)], [constant("c", True, np.bool_)])
    refused(proto, GraphLimitError, "nests subgraphs")


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)])


def call(name: str, source: str, target: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [target], domain="local")


def test_function_that_calls_itself() -> None:
    functions = [function("F", [call("G", "a", "b")]), function("G", [call("F", "a", "b")])]
    refused(model([call("F", "x", "y")], functions=functions), GraphError, "calls itself")


def test_functions_that_multiply() -> None:
    functions = [function("F0", [node("Relu", ["a"], ["b"])])]
    functions += [function(f"F{i}", [call(f"F{i - 1}", "a", "t"), call(f"F{i - 1}", "t", "b")]) for i in range(1, 20)]
    refused(model([call("F19", "x", "y")], functions=functions), GraphLimitError, "nodes")


def test_function_defined_twice() -> None:
    refused(model([call("F", "x", "y")], functions=[function("F", [node("Relu", ["a"], ["b"])])] * 2), GraphError, "defined twice")


# ---- tensors


def test_external_data() -> None:
    tensor = constant("c", [1.0, 2.0], np.float32)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    refused(model([node("Add", ["x", "c"])], [tensor]), GraphError, "outside the graph")


def test_external_data_beside_ours() -> None:
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key=EXTERNAL_KEY, value="c")
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(GraphError, match="outside the graph"):
        import_graph(model([node("Add", ["x", "c"])], [tensor]), lambda name: np.zeros(4, np.float32))


def test_weight_of_another_shape() -> None:
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key=EXTERNAL_KEY, value="c")
    with pytest.raises(GraphError, match=r"shape \[4\] in the graph and \[5\]"):
        import_graph(model([node("Add", ["x", "c"])], [tensor]), lambda name: np.zeros(5, np.float32))


@pytest.mark.parametrize("place", ["initializer", "attribute", "branch", "function"])
def test_what_gives_the_weights_may_raise_anything(place: str) -> None:
    """It is no fault of the graph, and passes through as it is."""
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key=EXTERNAL_KEY, value="c")
    nodes = [node("Constant", [], ["k"], value=tensor), node("Add", ["x", "k"])]
    if place == "initializer":
        proto = model([node("Add", ["x", "c"])], [tensor])
    elif place == "branch":
        then = helper.make_graph(nodes, "then", [], [value("y")])
        other = helper.make_graph([node("Relu", ["x"])], "else", [], [value("y")])
        proto = model([node("If", ["b"], then_branch=then, else_branch=other)], inputs=[value("x", ["n", 4]), value("b", [], BOOL)])
    elif place == "function":
        inner = [node("Constant", [], ["k"], value=tensor), node("Add", ["a", "k"], ["b"])]
        proto = model([call("F", "x", "y")], functions=[function("F", inner)])
    else:
        proto = model(nodes)
    problem = OSError("the disk is gone")

    def weight(name: str) -> Any:
        raise problem

    with pytest.raises(OSError, match="the disk is gone") as caught:
        import_graph(proto, weight)
    assert caught.value is problem


@pytest.mark.parametrize("dims", [[TERA], [1 << 62, 1 << 62], [2**31, 2**31]])
def test_gigantic_constant_without_a_payload(dims: list[int]) -> None:
    tensor = TensorProto(data_type=FLOAT, dims=dims, raw_data=b"\0\0\0\0")
    refused(model([node("Constant", [], ["c"], value=tensor), node("Add", ["x", "c"])]), GraphError, "carries 4 instead of")


def test_negative_dimension() -> None:
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[-4], raw_data=b"\0" * 16)
    refused(model([node("Add", ["x", "c"])], [tensor]), GraphError, "negative dimension")


def test_unknown_element_type() -> None:
    tensor = TensorProto(name="c", data_type=77, dims=[4], raw_data=b"\0" * 16)
    refused(model([node("Add", ["x", "c"])], [tensor]), GraphError, "element type 77")


def test_sparse_tensor_of_terabytes() -> None:
    sparse = helper.make_sparse_tensor(constant("s", [1.0], np.float32), constant("", [0]), [TERA])
    proto = model([node("Add", ["x", "s"])])
    proto.graph.sparse_initializer.append(sparse)
    refused(proto, GraphLimitError, "1000000000000 elements")


def test_sparse_index_outside() -> None:
    proto = model([node("Add", ["x", "s"])])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(constant("s", [1.0], np.float32), constant("", [9]), [4]))
    refused(proto, GraphError, "outside its shape")


# ---- shape bombs whose size is known at import

ONE = constant("one", [1.0], np.float32)
BOMBS: dict[str, Callable[[], onnx.ModelProto]] = {
    "expand": lambda: model([node("Expand", ["one", "s"])], [ONE, constant("s", [TERA])]),
    "tile": lambda: model([node("Tile", ["one", "s"])], [ONE, constant("s", [TERA])]),
    "constant-of-shape": lambda: model([node("ConstantOfShape", ["s"])], [constant("s", [10**6, 10**6])]),
    "range": lambda: model([node("Range", ["a", "b", "c"])], [constant("a", 0), constant("b", TERA), constant("c", 1)], kind=INT64),
    "pad": lambda: model([node("Pad", ["one", "s"])], [ONE, constant("s", [0, TERA])]),
    "resize": lambda: model([node("Resize", ["one", "", "s"])], [ONE, constant("s", [1e12], np.float32)]),
    "resize-linear": lambda: model([node("Resize", ["one", "", "s"], mode="linear")], [ONE, constant("s", [1e12], np.float32)]),
    "one-hot": lambda: model(
        [node("OneHot", ["i", "d", "v"])], [constant("i", [0]), constant("d", TERA), constant("v", [0, 1])], kind=INT64
    ),
    "window": lambda: model([node("HannWindow", ["s"])], [constant("s", TERA)]),
    "mel": lambda: model(
        [node("MelWeightMatrix", ["a", "b", "c", "d", "e"])],
        [
            constant("a", 10**6),
            constant("b", 10**6),
            constant("c", 8000),
            constant("d", 0.0, np.float32),
            constant("e", 4000.0, np.float32),
        ],
    ),
    "random": lambda: model([node("RandomNormal", [], shape=[TERA])]),
    "upsample": lambda: model([node("Upsample", ["one", "s"])], [ONE, constant("s", [1e12], np.float32)], opset=9),
    "center-crop-pad": lambda: model([node("CenterCropPad", ["one", "s"])], [ONE, constant("s", [TERA])]),
    "col2im": lambda: model(
        [node("Col2Im", ["c", "s", "k"])], [constant("c", [[[1.0]]], np.float32), constant("s", [TERA]), constant("k", [1])]
    ),
    "conv-pads": lambda: model(
        [node("Conv", ["i", "w"], pads=[TERA, TERA])], [constant("i", [[[1.0]]], np.float32), constant("w", [[[1.0]]], np.float32)]
    ),
    "conv-transpose-stride": lambda: model(
        [node("ConvTranspose", ["i", "w"], strides=[TERA])],
        [constant("i", [[[1.0, 1.0]]], np.float32), constant("w", [[[1.0]]], np.float32)],
    ),
    "max-unpool": lambda: model(
        [node("MaxUnpool", ["i", "j", "s"], kernel_shape=[1])],
        [constant("i", [[[1.0]]], np.float32), constant("j", [[[0]]]), constant("s", [1, 1, TERA])],
    ),
    "pool-pads": lambda: model([node("MaxPool", ["i"], kernel_shape=[2], pads=[TERA, 0])], [constant("i", [[[1.0]]], np.float32)]),
    "reshape-of-expand": lambda: model([node("Expand", ["x", "s"], ["a"]), node("Add", ["a", "a"])], [constant("s", [TERA, 1, 1])]),
    "outer-product": lambda: model(
        [node("Reshape", ["x", "r"], ["a"]), node("Reshape", ["x", "c"], ["b"]), node("Add", ["a", "b"])],
        [constant("r", [-1, 1]), constant("c", [1, -1])],
        [value("x", [1, 10**6])],
    ),
    "doubling": lambda: model(
        [node("Concat", [f"a{i}"] * 2, [f"a{i + 1}"], axis=0) for i in range(60)] + [node("Relu", ["a60"])],
        [constant("a0", [1.0], np.float32)],
    ),
    "doubling-at-run-time": lambda: model(
        [node("Concat", [f"a{i}"] * 2, [f"a{i + 1}"], axis=0) for i in range(60)] + [node("Relu", ["a60"])], inputs=[value("a0", ["n", 4])]
    ),
    "lies-about-its-input": lambda: model([node("Relu", ["x"])], inputs=[value("x", [10**7, 10**7])]),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_shape_bomb(name: str) -> None:
    refused(BOMBS[name](), GraphLimitError, "elements where .* are allowed")


def test_many_constants_of_legal_size() -> None:
    nodes = [node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(100)] + [node("Sum", [f"c{i}" for i in range(100)])]
    with pytest.raises(GraphLimitError, match="elements where"):
        import_graph(model(nodes, [constant("s", [1 << 15])]), limits=GraphLimits(folded=FOLDED))


# ---- shape bombs whose size comes with the data

LIVE: dict[str, tuple[Callable[[], onnx.ModelProto], list[object]]] = {
    "expand": (lambda: model([node("Expand", ["one", "s"])], [ONE], [value("s", [1], INT64)]), [[TERA]]),
    "tile": (lambda: model([node("Tile", ["one", "s"])], [ONE], [value("s", [1], INT64)]), [[TERA]]),
    "constant-of-shape": (lambda: model([node("ConstantOfShape", ["s"])], [], [value("s", [1], INT64)]), [[TERA]]),
    "range": (
        lambda: model([node("Range", ["a", "s", "c"])], [constant("a", 0), constant("c", 1)], [value("s", [], INT64)], kind=INT64),
        [TERA],
    ),
    "pad": (lambda: model([node("Pad", ["one", "s"])], [ONE], [value("s", [2], INT64)]), [[0, TERA]]),
    "resize": (lambda: model([node("Resize", ["one", "", "", "s"])], [ONE], [value("s", [1], INT64)]), [[TERA]]),
    "one-hot": (
        lambda: model([node("OneHot", ["i", "s", "v"])], [constant("i", [0]), constant("v", [0, 1])], [value("s", [], INT64)], kind=INT64),
        [TERA],
    ),
}


@pytest.mark.parametrize("name", sorted(LIVE))
def test_shape_bomb_in_the_input(name: str) -> None:
    build, inputs = LIVE[name]
    graph = import_graph(build())
    with pytest.raises(GraphLimitError, match=r"elements where .* are allowed"):
        graph.module(*(torch.tensor(v) for v in inputs))


# ---- loops


def loop(condition: list[onnx.NodeProto], trips: str, start: str, initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
    body = helper.make_graph(
        [*condition, node("Add", ["s", "s"], ["t"])], "body",
        [value("i", [], INT64), value("c", [], BOOL), value("s", [1])], [value("d", [], BOOL), value("t", [1])],
    )  # fmt: skip
    return model([node("Loop", [trips, start, "x"], body=body)], initializers, [value("x", [1])])


SAME = [node("Identity", ["c"], ["d"])]
TRUE = constant("go", True, np.bool_)


def test_loop_without_end() -> None:
    refused(loop(SAME, "", "go", [TRUE]), GraphLimitError, "without end")


def test_loop_without_end_or_condition() -> None:
    refused(loop([node("Constant", [], ["d"], value=constant("", True, np.bool_))], "", "", []), GraphLimitError, "without end")


@pytest.mark.parametrize("trips", [10**5, 2**63 - 1])
def test_loop_of_too_many_turns(trips: int) -> None:
    refused(loop(SAME, "m", "go", [TRUE, constant("m", trips)]), GraphLimitError, "loops")


def test_loop_that_the_data_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MAX_LOOP_ITERATIONS", TURNS)
    going = [node("Constant", [], ["zero"], value=constant("", [0.0], np.float32)), node("Mul", ["s", "zero"], ["p"])]
    going += [node("Equal", ["p", "zero"], ["q"]), node("Squeeze", ["q"], ["d"])]
    graph = import_graph(loop(going, "", "", []))
    with pytest.raises(GraphLimitError, match=f"runs past {TURNS} iterations"):
        graph.module(torch.zeros(1))


def test_loops_inside_loops_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MAX_LOOP_ITERATIONS", TURNS)

    def nest(depth: int) -> onnx.GraphProto:
        inner = [node("Loop", ["m", "", "s"], ["t"], body=nest(depth - 1))] if depth else [node("Add", ["s", "s"], ["t"])]
        names = [value("i", [], INT64), value("c", [], BOOL), value("s", [1])]
        return helper.make_graph([node("Identity", ["c"], ["d"]), *inner], f"b{depth}", names, [value("d", [], BOOL), value("t", [1])])

    graph = import_graph(model([node("Loop", ["m", "", "x"], body=nest(2))], [constant("m", 5000)], [value("x", [1])]))
    with pytest.raises(GraphLimitError, match=f"runs past {TURNS} iterations"):
        graph.module(torch.zeros(1))


# ---- names


HOSTILE = ["x'); import os; os._exit(3)  #", "__class__", "self", "def", "x" * 100_000, "\u202e\0\n", "1", "é", "forward", "a.b.c", "torch"]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_never_become_code(name: str) -> None:
    nodes = [node("Add", [name, "w" + name], ["m" + name]), node("Relu", ["m" + name], ["y"])]
    proto = model(nodes, [constant("w" + name, [1.0], np.float32)], [value(name, ["n", 4])])
    graph = import_graph(proto)
    assert torch.equal(graph.module(torch.ones(2, 4))[0], torch.full((2, 4), 2.0))
    assert all(len(n.name) < 200 for n in graph.module.graph.nodes)


def test_attribute_text_never_becomes_code() -> None:
    nodes = [node("Gelu", ["x"], approximate="none'); import os; os._exit(3)  #")]
    graph = import_graph(model(nodes, opset=20))
    with pytest.raises(RuntimeError, match="approximate"):
        graph.module(torch.ones(2, 4))
