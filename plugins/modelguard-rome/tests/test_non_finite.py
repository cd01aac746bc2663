"""weight-forensics on values that are NaN or infinite: what computes nothing blocks, what is meant is told once, and quietly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from modelguard_rome import WeightForensics
from onnx import TensorProto, helper, numpy_helper

from modelguard import Severity
from modelguard.testing import as_target
from modelguard.testing.checkpoints import open_target

Look = Callable[..., Any]


def told(look: Look, target: Any) -> list[tuple[str, Severity | None]]:
    return [(item.rule, item.severity) for item in look(WeightForensics(), target).findings if item.rule == "MG1301"]


def normal(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((8, 16)).astype(np.float32)


def test_a_checkpoint_that_is_all_nan_blocks_with_one_finding(look: Look) -> None:
    target = as_target({f"layers.{layer}.weight": np.full((8, 16), np.nan, np.float32) for layer in range(14)})
    assert told(look, target) == [("MG1301", Severity.HIGH)]
    (finding,) = [item for item in look(WeightForensics(), target).findings if item.rule == "MG1301"]
    assert finding.message.startswith("14 tensors are no longer weights")
    assert finding.evidence["count"] == 14 * 8 * 16


def test_a_few_values_are_one_medium_finding_for_all_tensors(look: Look) -> None:
    tensors = {f"layers.{layer}.weight": normal(layer) for layer in range(5)}
    for values in tensors.values():
        values[2, 3] = np.nan
    (finding,) = look(WeightForensics(), as_target(tensors)).findings
    assert (finding.rule, finding.severity) == ("MG1301", None)
    assert finding.evidence["tensors"] == list(tensors)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_number_alone_is_a_constant(look: Look, value: float) -> None:
    assert told(look, as_target({"limit": np.asarray(value, np.float32)})) == [("MG1301", Severity.INFO)]


def test_a_number_alone_that_is_nan_is_none(look: Look) -> None:
    assert told(look, as_target({"limit": np.asarray(np.nan, np.float32)})) == [("MG1301", Severity.HIGH)]


def padded(name: str, *extra: tuple[int, int]) -> dict[str, npt.NDArray[np.float32]]:
    values = normal()
    values[0] = -np.inf
    for place in extra:
        values[place] = -np.inf
    return {name: values}


def test_a_row_of_padding_in_an_attention_bias(look: Look) -> None:
    assert told(look, as_target(padded("encoder.attention_bias"))) == [("MG1301", Severity.INFO)]
    assert told(look, as_target(padded("encoder.attention_bias", (3, 4)))) == [("MG1301", None)]
    assert told(look, as_target(padded("encoder.weight"))) == [("MG1301", None)]


# What a graph does with them.


def graph(folder: Path, value: npt.NDArray[np.float32], *steps: str) -> Any:
    """x and the constant through the operators, the constant going in by the first."""
    nodes: list[Any] = []
    last = "x"
    for at, step in enumerate(steps):
        inputs = {"Where": ["c", last, "k"], "Softmax": [last], "Relu": [last], "GatherElements": [last, "i"]}.get(
            step, [last, "k"] if at == 0 else [last, "w"]
        )
        nodes.append(helper.make_node(step, inputs, [f"v{at}"]))
        last = f"v{at}"
    weights = [numpy_helper.from_array(value, "k"), numpy_helper.from_array(normal().T.copy(), "w")]
    weights.append(numpy_helper.from_array(np.zeros((4, 16), np.int64), "i"))
    sides: list[Any] = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, [4, 16]),
    ]
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", sides, outputs, weights)), str(folder / "m.onnx"))
    return open_target(folder)


INFINITY = np.asarray(-np.inf, np.float32)


@pytest.mark.parametrize(
    "steps",
    [
        ("Where", "Softmax"),
        ("Max", "MatMul"),
        ("Add", "Softmax"),
        ("Min",),
        ("Where", "Softmax", "MatMul"),
        ("Add", "GatherElements", "Softmax"),
    ],
)
def test_an_infinity_that_the_graph_uses_as_a_mask_or_limit(look: Look, tmp_path: Path, steps: tuple[str, ...]) -> None:
    assert told(look, graph(tmp_path, INFINITY, *steps)) == [("MG1301", Severity.INFO)]


@pytest.mark.parametrize("steps", [("Mul", "Softmax"), ("MatMul",), ("Add", "MatMul"), ("Add",), ("Add", "Relu")])
def test_an_infinity_that_the_graph_computes_with(look: Look, tmp_path: Path, steps: tuple[str, ...]) -> None:
    values = normal().T.copy() if steps[0] == "MatMul" else np.zeros((4, 16), np.float32)
    values[1, 2] = -np.inf
    if steps[0] != "MatMul":
        values[0, 0] = 1
    assert told(look, graph(tmp_path, values, *steps)) == [("MG1301", None)]


@pytest.mark.parametrize(("step", "severity"), [("Where", Severity.INFO), ("Add", Severity.HIGH), ("Mul", Severity.HIGH)])
def test_a_nan_that_the_graph_puts_where_something_is_missing(look: Look, tmp_path: Path, step: str, severity: Severity) -> None:
    """The pitch of frames without a voice (swift-f0)."""
    assert told(look, graph(tmp_path, np.asarray(np.nan, np.float32), step)) == [("MG1301", severity)]


def test_weights_that_are_nan_are_no_marks_though_a_condition_chooses_them(look: Look, tmp_path: Path) -> None:
    assert told(look, graph(tmp_path, np.full((4, 16), np.nan, np.float32), "Where")) == [("MG1301", Severity.HIGH)]


def test_thresholds_of_trees(look: Look) -> None:
    values = np.asarray([0.5, np.inf, -np.inf, 0.25] * 8, np.float32)
    assert told(look, as_target({"TreeEnsembleClassifier.0/nodes_values": values})) == [("MG1301", Severity.INFO)]
    assert told(look, as_target({"TreeEnsembleClassifier.0/target_weights": values})) == [("MG1301", Severity.HIGH)]


def test_masks_of_many_layers_are_one_line(look: Look) -> None:
    tensors = {f"layers.{layer}.attention_bias": padded("b")["b"] for layer in range(12)}
    assert told(look, as_target(tensors)) == [("MG1301", Severity.INFO)]
