"""Random ONNX graphs, changed at random: what is called identical gives the same numbers in onnxruntime."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import Artifact, ArtifactFile, Checkpoint, diff_checkpoints

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

OTHER = {"Relu": "Abs", "Abs": "Relu", "Add": "Mul", "Mul": "Sub", "Sub": "Add", "Neg": "Tanh", "Tanh": "Neg"}


def opened(path: Path, model: Any) -> Checkpoint:
    from modelguard._formats.onnx import OnnxFormat

    onnx.save(model, path)
    file = ArtifactFile(path.name, path, path.stat().st_size)
    return OnnxFormat().open(file, Artifact(path.name, "local:test", path.parent, (file,)))[0]


def drawn(dice: random.Random) -> Any:
    """A graph of two inputs and two outputs: arithmetic, weights (some all zero), constants of both sizes, branches."""
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    rng = np.random.default_rng(dice.getrandbits(32))
    values, nodes, weights = ["x", "z"], [], [tensor(np.array(dice.random() < 0.5), "flag")]

    def weight(*shape: int) -> str:
        weights.append(tensor((dice.randint(0, 1) * rng.standard_normal(shape)).astype(np.float32), f"w{len(weights)}"))
        return str(weights[-1].name)

    def branch(name: str, operator: str) -> Any:
        inner = tensor(rng.standard_normal((4, 4)).astype(np.float32), f"{name}w")
        steps = [helper.make_node("MatMul", [dice.choice(values), inner.name], [f"{name}m"])]
        steps.append(helper.make_node(operator, [f"{name}m"], [f"{name}o"]))
        return helper.make_graph(steps, name, [], [helper.make_tensor_value_info(f"{name}o", 1, None)], [inner])

    for at in range(dice.randint(3, 9)):
        one, name, kind = dice.choice(values), f"h{at}", dice.choice(["one", "two", "matrix", "vector", "constant", "if"])
        if kind == "one":
            nodes.append(helper.make_node(dice.choice(["Relu", "Neg", "Abs", "Tanh"]), [one], [name]))
        elif kind == "two":
            nodes.append(helper.make_node(dice.choice(["Add", "Sub", "Mul"]), [one, dice.choice(values)], [name], name=f"n{at}"))
        elif kind == "matrix":
            nodes.append(helper.make_node("MatMul", [one, weight(4, 4)], [name], name=f"n{at}"))
        elif kind == "vector":
            nodes.append(helper.make_node("Add", [one, weight(4)], [name]))
        elif kind == "constant":
            content = rng.standard_normal((dice.choice([1, 6]), 4)).astype(np.float32)
            nodes.append(helper.make_node("Constant", [], [f"c{at}"], name=f"n{at}", value=tensor(content)))
            nodes.append(helper.make_node("ReduceSum", [f"c{at}"], [f"s{at}"], keepdims=0))
            nodes.append(helper.make_node("Mul", [one, f"s{at}"], [name]))
        else:
            parts = branch(f"t{at}", "Relu"), branch(f"e{at}", "Neg")
            nodes.append(helper.make_node("If", ["flag"], [name], name=f"n{at}", then_branch=parts[0], else_branch=parts[1]))
        values.append(name)
    ends = [helper.make_tensor_value_info(name, 1, None) for name in values[-2:]]
    starts = [helper.make_tensor_value_info(name, 1, [2, 4]) for name in "xz"]
    graph = helper.make_graph(nodes, "net", starts, ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def renamed(model: Any, names: Callable[[str], str]) -> None:
    for graph in graphs(model.graph):
        for node in graph.node:
            node.input[:] = [names(name) for name in node.input]
            node.output[:] = [names(name) for name in node.output]


def changed(model: Any, dice: random.Random) -> Any:
    """A copy with one thing changed, which may or may not change what it computes."""
    model = copy.deepcopy(model)
    graph = dice.choice(list(graphs(model.graph)))
    kept = {"x", "z", "flag", *(each.name for each in model.graph.output)}
    weights = [each for each in graph.initializer if each.name != "flag"]
    match dice.choice(["values", "order", "constant", "inputs", "shape", "copy", "dead", "operator", "outputs", "edge", "weights"]):
        case "values":
            inner = {each.name for part in graphs(model.graph) for each in (*part.initializer, *part.output)}
            renamed(model, lambda name: name if name in kept | inner else f"v.{name}")
        case "order":
            nodes = list(graph.node)
            dice.shuffle(nodes)
            del graph.node[:]
            graph.node.extend(nodes)
        case "constant":
            for tensor in (each.t for node in graph.node for each in node.attribute if each.HasField("t")):
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(1)))
        case "inputs" if graph.node:
            node = dice.choice(graph.node)
            node.input[:] = list(node.input)[::-1]
        case "shape" if weights:
            tensor = dice.choice(weights)
            values, name = onnx.numpy_helper.to_array(tensor), dice.choice(["", "r."]) + tensor.name
            turned = values.T if values.ndim == 2 and dice.random() < 0.5 else values.reshape(*values.shape, 1)
            old = tensor.name
            renamed(model, lambda each: name if each == old else each)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(turned), name))
        case "copy" if weights:
            tensor = dice.choice(weights)
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = f"copy.{tensor.name}"
            node = next(each for each in graph.node if tensor.name in each.input)
            node.input[:] = [f"copy.{name}" if name == tensor.name else name for name in node.input]
        case "dead":
            graph.node.append(onnx.helper.make_node("Neg", ["x"], ["dead"]))
        case "operator" if graph.node:
            node = dice.choice(graph.node)
            node.op_type = OTHER.get(node.op_type, node.op_type)
        case "outputs":
            first, second = (each.name for each in model.graph.output)
            renamed(model, lambda name: {first: second, second: first}.get(name, name))
        case "edge" if graph.node:
            node = dice.choice(graph.node)
            node.input[:1] = [dice.choice("xz")] if node.input else []
        case "weights":
            names = [each.name for each in model.graph.initializer if each.name != "flag"]
            other = dict(zip(names, (f"{at}.w" for at in dice.sample(range(len(names)), len(names))), strict=True))
            renamed(model, lambda name: other.get(name, name))
            for each in model.graph.initializer:
                each.name = other.get(each.name, each.name)
    return model


def results(model: Any, inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """What onnxruntime computes, by name of the output; None where it refuses the model."""
    runtime.set_default_logger_severity(4)
    try:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return None
    names = [each.name for each in model.graph.output]
    return [dict(zip(names, session.run(names, each), strict=True)) for each in inputs]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_called_identical_computes_the_same(tmp_path: Path, seed: int) -> None:
    dice, rng = random.Random(seed), np.random.default_rng(seed)
    inputs = [{name: rng.standard_normal((2, 4)).astype(np.float32) for name in "xz"} for _ in range(2)]
    identical = different = 0
    for _ in range(60):
        before = drawn(dice)
        after = before
        for _ in range(dice.choice([1, 1, 2])):
            after = changed(after, dice)
        expected, found = results(before, inputs), results(after, inputs)
        if expected is None or found is None:
            continue
        pairs = [(old[name], new[name]) for old, new in zip(expected, found, strict=True) for name in old]
        same = all(old.shape == new.shape and np.allclose(old, new, rtol=1e-5, atol=1e-5, equal_nan=True) for old, new in pairs)
        diff = diff_checkpoints([opened(tmp_path / "a.onnx", before)], [opened(tmp_path / "b.onnx", after)])
        assert same or diff.change.kind != "identical"
        identical, different = identical + (diff.change.kind == "identical"), different + (not same)
    assert identical > 5
    assert different > 2
