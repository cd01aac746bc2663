"""Where the logits of an ONNX graph are, and what stands behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built, mlp
from onnx import TensorProto, helper
from onnx_files import export, graph, linear_graph, value

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(("operator", "head"), [("Softmax", "softmax"), ("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid")])
def test_the_head_is_taken_off_the_graph(tmp_path: Path, operator: str, head: str) -> None:
    tail = [helper.make_node(operator, ["z"], ["p"]), helper.make_node("Identity", ["p"], ["y"])]
    model = built(linear_graph(tmp_path / "model.onnx", tail, value("y", TensorProto.FLOAT, ["N", 3])))
    plain = built(linear_graph(tmp_path / "plain.onnx", [], value("z", TensorProto.FLOAT, ["N", 3])))
    assert (model.output.head, model.output.classes) == (head, 3)
    x = torch.rand(4, 6)
    torch.testing.assert_close(model(100 * x), plain(100 * x))


def test_logits_are_chosen_among_several_outputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "v"], ["logits"]),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        ],
        [value("x", TensorProto.FLOAT, ["N", 6])],
        [
            value("label", TensorProto.INT64, ["N"]),
            value("hidden", TensorProto.FLOAT, ["N", 8]),
            value("logits", TensorProto.FLOAT, ["N", 4]),
        ],
        {"w": rng.normal(size=(6, 8)).astype(np.float32), "v": rng.normal(size=(8, 4)).astype(np.float32)},
        tmp_path / "model.onnx",
    )
    model = built(path)
    assert model.output.classes == 4
    assert model.describe()["graph"]["output_used"] == "logits"
    assert model.describe()["graph"]["outputs"] == ["label", "hidden", "logits"]


def test_sklearn_style_probabilities_behind_a_zipmap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ml = "ai.onnx.ml"
    path = graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
            helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
            helper.make_node("ZipMap", ["probabilities"], ["output_probability"], domain=ml, classlabels_int64s=[0, 1, 2]),
        ],
        [value("x", TensorProto.FLOAT, ["N", 6])],
        [
            helper.make_value_info(
                "output_probability",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
                ),
            )
        ],
        {"w": rng.normal(size=(6, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)},
        tmp_path / "model.onnx",
        domains=[ml],
    )
    model = built(path)
    assert (model.output.head, model.output.classes) == ("softmax", 3)


@pytest.mark.parametrize(("classes", "kind"), [(1, "regressor"), (2, "classifier"), (1000, "classifier")])
def test_any_number_of_outputs(tmp_path: Path, classes: int, kind: str) -> None:
    torch.manual_seed(0)
    model = built(export(mlp(6, classes), tmp_path / "model.onnx", (1, 6)))
    assert (model.output.kind, model.output.classes) == (kind, classes)
    assert model(torch.rand(7, 6)).shape == (7, classes)
