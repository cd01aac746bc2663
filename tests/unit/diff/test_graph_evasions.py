"""ONNX graphs made to look like their reference, and such that only look different."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import Artifact, ArtifactFile, Capability, Checkpoint, Finding, ScanContext, Target, diff_checkpoints
from modelguard._diff.detector import WeightDiff
from modelguard._diff.diff import ModelDiff

onnx = pytest.importorskip("onnx")
Pair = tuple[Any, Any]

RNG = np.random.default_rng(0)
SQUARE = RNG.standard_normal((8, 8)).astype(np.float32)
BIAS = RNG.standard_normal(8).astype(np.float32)
LIST = RNG.standard_normal(20).astype(np.float32)


def opened(path: Path, model: Any) -> Checkpoint:
    from modelguard._formats.onnx import OnnxFormat

    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    file = ArtifactFile(path.name, path, path.stat().st_size)
    return OnnxFormat().open(file, Artifact(path.name, "local:test", path.parent, (file,)))[0]


def compared(folder: Path, pair: Pair) -> ModelDiff:
    return diff_checkpoints([opened(folder / "before/net.onnx", pair[0])], [opened(folder / "after/net.onnx", pair[1])])


def value(name: str, kind: int = 1, shape: Any = (1, 8)) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, content: Any) -> Any:
    return onnx.numpy_helper.from_array(np.asarray(content), name)


def net(
    nodes: Sequence[Any], weights: Sequence[Any] = (), inputs: Sequence[Any] = (), outputs: Sequence[str] = ("y",), opset: int = 17
) -> Any:
    ends = [value(name, shape=None) for name in outputs]
    graph = onnx.helper.make_graph(list(nodes), "net", list(inputs) or [value("x")], ends, list(weights))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def transposed_under_another_name() -> Pair:
    turned = np.ascontiguousarray(SQUARE.T)
    return net([node("MatMul", "x w", "y")], [tensor("w", SQUARE)]), net([node("MatMul", "x v", "y")], [tensor("v", turned)])


def broadcast_otherwise() -> Pair:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    return net(nodes, [tensor("w", SQUARE), tensor("b", BIAS)]), net(nodes, [tensor("w", SQUARE), tensor("b", BIAS[:, None])])


def inputs_change_names() -> Pair:
    first, second = ([value("ids"), value("mask")], [value("mask"), value("ids")])
    return net([node("Sub", "ids mask", "y")], inputs=first), net([node("Sub", "mask ids", "y")], inputs=second)


def outputs_change_names() -> Pair:
    before, after = ([node("Relu", "x", names[0]), node("Neg", "x", names[1])] for names in ("pq", "qp"))
    return net(before, outputs=("p", "q")), net(after, outputs=("q", "p"))


def branches(content: Any, weights: Sequence[Any] = ()) -> Any:
    nodes = [node("Constant", "", "c", name="c", value=tensor("", content)), node("ReduceSum", "c", "s", keepdims=0)]
    then = onnx.helper.make_graph(nodes, "then", [], [value("s", shape=())])
    other = onnx.helper.make_graph([node("ReduceSum", "w", "t", keepdims=0)], "other", [], [value("t", shape=())])
    fork = node("If", "flag", "b", name="if", then_branch=then, else_branch=other)
    return net([fork, node("Add", "x b", "y")], [tensor("flag", np.array(True)), tensor("w", SQUARE), *weights])


def small_constant_under_the_name_of_a_weight() -> Pair:
    return branches(LIST), branches(100 * LIST[:3], [tensor("if/then_branch/c", LIST)])


def small_constant_that_claims_to_be_a_weight() -> Pair:
    after = branches(100 * LIST[:3], [tensor("if/then_branch/c", LIST)])
    (then,) = (each.g for each in after.graph.node[0].attribute if each.name == "then_branch")
    constant = then.node[0].attribute[0].t
    constant.external_data.add(key="modelguard", value="if/then_branch/c")
    return branches(LIST), after


def above_an_unsorted_node() -> Pair:
    before, after = ([node("MatMul", "h w", "y"), node(kind, "x", "h")] for kind in ("Relu", "Neg"))
    return net(before, [tensor("w", SQUARE)]), net(after, [tensor("w", SQUARE)])


def circle() -> Pair:
    before, after = ([node("Add", f"x {other}", "h"), node("Relu", "h", "y")] for other in "xy")
    return net(before), net(after)


def two_values_of_one_name() -> Pair:
    return net([node("Relu", "x", "h"), node("Abs", "h", "y")]), net([node("Relu", "x", "h"), node("Abs", "h", "y"), node("Neg", "x", "h")])


def text_weight() -> Pair:
    nodes = [node("Equal", "s t", "q"), node("Cast", "q", "y", to=1)]
    sides = ([onnx.helper.make_tensor("t", onnx.TensorProto.STRING, [1], [word])] for word in ("yes", "no"))
    before, after = (net(nodes, weights, [value("s", onnx.TensorProto.STRING, (1,))], opset=19) for weights in sides)
    return before, after


def number_of_outputs() -> Pair:
    before, after = (net([node("Split", "x", names, axis=1), node("ReduceSum", "a", "y")], opset=13) for names in ("a b", "a b c d"))
    return before, after


def crossed_indices() -> Pair:
    def side(names: str, indices: Sequence[Sequence[int]]) -> Any:
        model = net([node("MatMul", f"x {names[0]}", "h"), node("MatMul", f"h {names[1]}", "y")])
        for name, where, start in zip(names, indices, (0, 5), strict=True):
            values = tensor(name, LIST[start : start + 5])
            model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, tensor("", np.array(where)), [8, 8]))
        return model

    places = [[1, 9, 20, 33, 47], [3, 8, 21, 40, 60]]
    return side("pq", places), side("rs", places[::-1])


def function(kind: str, opset: int = 17) -> Any:
    body = onnx.helper.make_function("own", "Step", ["a"], ["b"], [node(kind, "a", "b")], [onnx.helper.make_opsetid("", opset)])
    model = net([node("Step", "x", "h", domain="own"), node("MatMul", "h w", "y")], [tensor("w", SQUARE)])
    model.functions.append(body)
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    return model


CHANGED = [
    transposed_under_another_name, broadcast_otherwise, inputs_change_names, outputs_change_names, circle, two_values_of_one_name,
    small_constant_under_the_name_of_a_weight, small_constant_that_claims_to_be_a_weight, above_an_unsorted_node, text_weight,
    number_of_outputs, crossed_indices, lambda: (function("Relu"), function("Neg")), lambda: (function("Relu"), function("Relu", 5)),
]  # fmt: skip


@pytest.mark.parametrize("pair", CHANGED, ids=lambda pair: pair.__name__)
def test_graph_that_computes_something_else_is_named(tmp_path: Path, pair: Callable[[], Pair]) -> None:
    diff = compared(tmp_path, pair())
    assert [item.name for item in diff.graphs] == ["net"]
    assert diff.change.kind == "mixed"


def loop(name: str, *before: Any) -> Any:
    ends = [value("d", 9, ()), value("u")]
    nodes = [node("Identity", "c", "d"), node("MatMul", "v w", "u")]
    body = onnx.helper.make_graph(nodes, "body", [value("i", 7, ()), value("c", 9, ()), value("v")], ends)
    turns = onnx.helper.make_node("Loop", ["n", "", "x"], ["y"], name=name, body=body)
    return net([*before, turns], [tensor("w", SQUARE), tensor("n", np.array(2))])


def unsorted() -> Pair:
    nodes = [node("Relu", "x", "h"), node("Neg", "h", "k"), node("MatMul", "k w", "y")]
    return net(nodes, [tensor("w", SQUARE)]), net(nodes[::-1], [tensor("w", SQUARE)])


def equal_weights_renamed_crosswise() -> Pair:
    def side(first: str, second: str) -> Any:
        nodes = [node("Add", f"x {first}", "h"), node("Relu", "h", "k"), node("Sub", f"k {second}", "y")]
        return net(nodes, [tensor(name, np.zeros(8, np.float32)) for name in (first, second)])

    return side("a", "b"), side("d", "c")


def shared(copies: int) -> Any:
    nodes = [node("MatMul", "x a", "h"), node("MatMul", "h a" if copies == 1 else "h b", "y")]
    return net(nodes, [tensor(name, SQUARE) for name in "ab"[:copies]])


def operator_sets() -> Pair:
    before, after = (net([node("MatMul", "x w", "y")], [tensor("w", SQUARE)]) for _ in range(2))
    after.opset_import[0].domain = "ai.onnx"
    after.graph.node[0].domain = "ai.onnx"
    after.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return before, after


def ways_to_store_a_constant() -> Pair:
    def side(*contents: Any) -> Any:
        constants = [node("Constant", "", f"c{at}", value=content) for at, content in enumerate(contents)]
        return net([*constants, node("Where", "c0 c1 x", "h"), node("Gather", "h c2", "y")], [tensor("w", SQUARE)])

    raw = tensor("", np.array([True])), tensor("", np.array([0.5, -2.0], np.float32)), tensor("", np.array([0, -1]))
    typed = ((9, [1], [True]), (1, [2], [0.5, -2.0]), (7, [2], [0, -1]))
    return side(*raw), side(*(onnx.helper.make_tensor("", *each) for each in typed))


def names_of_inputs() -> Pair:
    before, after = (net([node("Sub", " ".join(names), "y")], inputs=[value(name) for name in names]) for names in ("ab", "cd"))
    return before, after


EQUAL = [
    unsorted, equal_weights_renamed_crosswise, operator_sets, ways_to_store_a_constant, names_of_inputs,
    lambda: (loop("first"), loop("second")), lambda: (loop(""), loop("", node("Relu", "x", "unneeded"))),
    lambda: (shared(1), shared(2)), lambda: (shared(2), shared(1)),
]  # fmt: skip


@pytest.mark.parametrize("pair", EQUAL, ids=lambda pair: pair.__name__)
def test_graph_that_computes_the_same_is_identical(tmp_path: Path, pair: Callable[[], Pair]) -> None:
    diff = compared(tmp_path, pair())
    assert diff.graphs == ()
    assert diff.change.kind == "identical"


def test_file_without_weights_is_compared_beside_one_with_weights(tmp_path: Path) -> None:
    sides = []
    for folder, kind in (("before", "Relu"), ("after", "Neg")):
        model, step = net([node("MatMul", "x w", "y")], [tensor("w", SQUARE)]), net([node(kind, "x", "y")])
        sides.append([opened(tmp_path / folder / "model.onnx", model), opened(tmp_path / folder / "post.onnx", step)])
    diff = diff_checkpoints(*sides)
    assert [item.name for item in diff.graphs] == ["post"]
    assert diff.change.reason.startswith("the graph differs;")


def target(checkpoint: Checkpoint, reference: Target | None = None) -> Target:
    wanted = {Capability.FILES, Capability.WEIGHTS} | ({Capability.REFERENCE} if reference else set())
    return Target(Artifact("memory", "local:memory", Path(), ()), (checkpoint,), capabilities=frozenset(wanted), reference=reference)


def findings(reference: Checkpoint, checkpoint: Checkpoint) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff")
    return list(WeightDiff().detect(target(checkpoint, target(reference)), context)), context._summary


def test_graph_that_nothing_was_compared_with_is_said(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from modelguard._formats.safetensors import SafetensorsFormat

    save_file({"w": SQUARE}, tmp_path / "net.safetensors")
    file = ArtifactFile("net.safetensors", tmp_path / "net.safetensors", (tmp_path / "net.safetensors").stat().st_size)
    other = SafetensorsFormat().open(file, Artifact("net", "local:test", tmp_path, (file,)))[0]
    graph = opened(tmp_path / "net.onnx", net([node("MatMul", "x w", "y")], [tensor("w", SQUARE)]))
    found, summary = findings(other, graph)
    assert [finding.rule for finding in found] == ["MG1123"]
    assert (summary["verdict"], summary["graphs_not_compared"]) == ("identical", ["net"])
    assert findings(graph, other)[0] == []


def test_finding_names_what_moved(tmp_path: Path) -> None:
    before, after = (opened(tmp_path / f"{at}/net.onnx", model) for at, model in enumerate(inputs_change_names()))
    (found,) = (finding for finding in findings(before, after)[0] if finding.rule == "MG1122")
    assert found.message == "the graph of net differs from the reference's: inputs or outputs in another order (ids, mask)"
    assert found.evidence["moved"] == ["ids", "mask"]


def test_deadline_stops_a_large_graph(tmp_path: Path) -> None:
    def chain(kind: str) -> Any:
        return net([node(kind, f"v{at}" if at else "x", f"v{at + 1}") for at in range(5000)], outputs=("v5000",))

    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 8:
            raise TimeoutError

    before, after = (opened(tmp_path / f"{kind}/net.onnx", chain(kind)) for kind in ("Relu", "Abs"))
    with pytest.raises(TimeoutError):
        diff_checkpoints([before], [after], check=check)
