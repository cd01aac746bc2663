"""Two graphs of the same operators in different versions of ONNX's operator set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelguard import ModelDiff, ScanContext, Target, diff_checkpoints
from modelguard._diff.detector import WeightDiff
from modelguard._formats import onnx_operators
from modelguard.testing.checkpoints import open_target

WEIGHTS = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
MLP: list[Any] = [
    ("MatMul", ["x", "w"], {}),
    ("Relu", [0], {}),
    ("Add", [1, "w"], {}),
    ("Transpose", [2], {"perm": [1, 0]}),
    ("Identity", [3], {}),
]
SOFTMAX: list[Any] = [("MatMul", ["x", "w"], {}), ("Softmax", [0], {})]


def write(folder: Path, version: int, operators: list[Any], domain: str = "") -> Target:
    nodes = []
    for at, (op, inputs, attributes) in enumerate(operators):
        named = [f"v{item}" if isinstance(item, int) else item for item in inputs]
        nodes.append(helper.make_node(op, named, [f"v{at}"], domain=domain, **attributes))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 8]) for name in ("x", f"v{len(nodes) - 1}")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [numpy_helper.from_array(WEIGHTS, "w")])
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version)]), str(folder / "m.onnx"))
    return open_target(folder)


def difference(folder: Path, before: int, after: int, operators: list[Any], domain: str = "") -> ModelDiff:
    sides = [write(folder / str(at), version, operators, domain).checkpoints for at, version in enumerate((before, after))]
    return diff_checkpoints(*sides)


@pytest.mark.parametrize(("before", "after"), [(17, 18), (13, 21), (21, 13), (7, 23)])
def test_the_same_operators_in_a_version_that_only_admits_more_types(tmp_path: Path, before: int, after: int) -> None:
    assert difference(tmp_path, before, after, MLP).change.kind == "identical"


def test_a_version_in_which_an_operator_means_something_else(tmp_path: Path) -> None:
    found = difference(tmp_path, 11, 13, SOFTMAX)
    assert found.change.reason == "the graph differs; all tensors are identical"
    (graph,) = found.graphs
    assert (graph.versions, graph.redefined) == ((11, 13), ("Softmax",))


def test_the_finding_says_which(tmp_path: Path) -> None:
    before, after = write(tmp_path / "a", 11, SOFTMAX), write(tmp_path / "b", 13, SOFTMAX)
    target = Target(after.artifact, after.checkpoints, reference=before)
    messages = [item.message for item in WeightDiff().detect(target, ScanContext(detector="weight-diff")) if item.rule == "MG1122"]
    assert messages == ["the graph of m differs from the reference's: operator set 11 -> 13, in which Softmax means something else"]


def test_a_version_that_is_not_known_yet_is_another_one(tmp_path: Path) -> None:
    last = onnx_operators.LAST
    assert difference(tmp_path, last, last + 1, MLP).graphs


def test_versions_of_other_domains_count_as_they_are(tmp_path: Path) -> None:
    assert difference(tmp_path, 1, 2, [("MatMul", ["x", "w"], {})], "com.example").graphs


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < onnx_operators.LAST, reason="the installed onnx knows fewer operator sets")
def test_the_tables_are_those_of_the_schemas() -> None:
    known: dict[str, list[tuple[int, object]]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= onnx_operators.LAST:
            attributes = sorted((item.name, str(item.type), item.required, str(item.default_value)) for item in schema.attributes.values())
            ends = [[(item.name, str(item.option)) for item in side] for side in (schema.inputs, schema.outputs)]
            counts = schema.min_input, schema.max_input, schema.min_output, schema.max_output
            known.setdefault(schema.name, []).append((schema.since_version, (attributes, ends, counts)))
    found: dict[str, tuple[int, ...]] = {}
    for name, versions in known.items():
        ordered = sorted(versions, key=lambda item: item[0])
        found[name] = tuple(since for at, (since, what) in enumerate(ordered) if at == 0 or what != ordered[at - 1][1])
    assert {name: since for name, since in found.items() if len(since) > 1} == dict(onnx_operators.MEANINGS)
    assert {name for name, since in found.items() if len(since) == 1} == onnx_operators.UNCHANGED
