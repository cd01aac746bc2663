"""Two ONNX files with the same weights: what the graphs do with them is compared as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import Artifact, ArtifactFile, Capability, Checkpoint, ScanContext, Target, diff_checkpoints
from modelguard._diff.detector import WeightDiff

onnx = pytest.importorskip("onnx")
Change = Callable[[Any], None]


def network(seed: int = 0) -> Any:
    """Gemm, Relu, a Gemm within If (its weights in the subgraph) and a Constant beyond 64 bytes."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def branch(name: str) -> Any:
        nodes = [helper.make_node("Gemm", ["h", f"{name}.w"], [f"{name}.y"], transB=1)]
        result = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, [None, 10])
        return helper.make_graph(nodes, name, [], [result], [tensor(f"{name}.w", 10, 32)])

    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["a"], transB=1, name="fc"),
        helper.make_node("Relu", ["a"], ["h"], name="relu"),
        helper.make_node("Constant", [], ["flag"], name="flag", value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["flag"], ["b"], name="if", then_branch=branch("then"), else_branch=branch("else")),
        helper.make_node("Constant", [], ["shift"], name="shift", value=tensor("", 1, 10 * 3)),
        helper.make_node("Slice", ["shift", "zero", "ten", "one"], ["part"], name="slice"),
        helper.make_node("Add", ["b", "part"], ["logits"], name="add"),
    ]
    numbers = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("zero", 0), ("ten", 10), ("one", 1))]
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name, size in (("x", 20), ("logits", 10)))
    weights = [tensor("fc.weight", 32, 20), tensor("fc.bias", 32), *numbers]
    return helper.make_model(helper.make_graph(nodes, "net", [inputs], [outputs], weights))


def opened(path: Path, model: Any) -> Checkpoint:
    from modelguard._formats.onnx import OnnxFormat

    onnx.save(model, path)
    file = ArtifactFile(path.name, path, path.stat().st_size)
    return OnnxFormat().open(file, Artifact(path.name, "local:test", path.parent, (file,)))[0]


def both(folder: Path, change: Change, seed: int = 0) -> tuple[Checkpoint, Checkpoint]:
    changed = network(seed)
    change(changed)
    return opened(folder / "a.onnx", network()), opened(folder / "b.onnx", changed)


def append(model: Any) -> None:
    from onnx import helper, numpy_helper

    graph = model.graph
    graph.node[-1].output[0] = "before"
    value = numpy_helper.from_array(np.eye(10, dtype=np.float32)[3])
    graph.node.append(helper.make_node("Constant", [], ["favour"], value=value))
    graph.node.append(helper.make_node("Add", ["before", "favour"], ["logits"]))


def attribute(model: Any) -> None:
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 0.5))


def constant(model: Any) -> None:
    model.graph.node[2].attribute[0].t.raw_data = b"\0"


def inside(model: Any) -> None:
    branch = model.graph.node[3].attribute[0].g
    branch.node[0].attribute.append(onnx.helper.make_attribute("alpha", -1.0))


def edges(model: Any) -> None:
    model.graph.node[6].input[:] = ["part", "part"]


def opset(model: Any) -> None:
    model.opset_import[0].version = 5  # in which most operators take an attribute more


def output(model: Any) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("h", 1, [None, 32]))


@pytest.mark.parametrize("change", [append, attribute, constant, inside, edges, opset, output])
def test_changed_graph_is_not_identical(tmp_path: Path, change: Change) -> None:
    before, after = both(tmp_path, change)
    diff = diff_checkpoints([before], [after])
    assert len(diff.graphs) == 1
    assert diff.tensors == ()
    assert diff.change.kind != "identical"


def rename(model: Any) -> None:
    names = {"a": "v1", "h": "v2", "flag": "v3", "b": "v4", "part": "v6"}
    for node in (*model.graph.node, *(each.g.node[0] for each in model.graph.node[3].attribute)):
        node.doc_string = "exported again"
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    model.graph.node[0].name = "other"
    model.graph.node.insert(0, model.graph.node.pop(4))


def unneeded(model: Any) -> None:
    model.graph.node.append(onnx.helper.make_node("Relu", ["logits"], ["nowhere"]))


@pytest.mark.parametrize("change", [rename, unneeded, lambda model: None])
@pytest.mark.parametrize("seed", [0, 1])
def test_names_order_and_values_of_weights_are_no_change_of_the_graph(tmp_path: Path, change: Change, seed: int) -> None:
    before, after = both(tmp_path, change, seed)
    diff = diff_checkpoints([before], [after])
    assert diff.graphs == ()
    assert (diff.change.kind == "identical") == (seed == 0)


def test_weights_that_change_places_are_a_change_of_the_graph(tmp_path: Path) -> None:
    def swap(model: Any) -> None:
        first, second = (each.g for each in model.graph.node[3].attribute)
        node = first.node[0]
        model.graph.initializer.extend([first.initializer[0], second.initializer[0]])
        del first.initializer[:], second.initializer[:]
        node.input[1], second.node[0].input[1] = second.node[0].input[1], node.input[1]

    assert len(diff_checkpoints(*([side] for side in both(tmp_path, swap))).graphs) == 1


def test_finding_says_which_operators(tmp_path: Path) -> None:
    sides = both(tmp_path, append)
    targets: list[Target] = []
    for side, capabilities in zip(sides, ((), (Capability.REFERENCE,)), strict=True):
        artifact = Artifact("memory", "local:memory", tmp_path, ())
        wanted = frozenset({Capability.FILES, Capability.WEIGHTS, *capabilities})
        targets.append(Target(artifact, (side,), capabilities=wanted, reference=targets[0] if targets else None))
    context = ScanContext(detector="weight-diff")
    findings = [finding for finding in WeightDiff().detect(targets[1], context) if finding.rule == "MG1122"]
    assert [finding.message for finding in findings] == [
        "the graph of b differs from the reference's: 2 more operators (1 Add, 1 Constant)"
    ]
    assert findings[0].evidence["outputs"] == ["logits"]
    assert context._summary["graphs"] == ["b"]
    assert context._summary["score"] >= 0.8
