"""What an ONNX graph says of itself: vocabulary, next-token values, class names, and operators nobody can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built
from onnx import TensorProto, helper, numpy_helper

from modelguard import Skip

pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(21, 4)).astype(np.float32)
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], *domains: str) -> Path:
    made = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()])
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 3) for domain in domains)]
    path.write_bytes(helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


TOKENS = [value("input_ids", INT64, ["N", "T"])]
LOOK_UPS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "at once": ([helper.make_node("Gather", ["table", "input_ids"], ["e"])], {"table": TABLE}),
    "after a cast and a reshape": (
        [
            helper.make_node("Cast", ["input_ids"], ["i"], to=TensorProto.INT32),
            helper.make_node("Reshape", ["i", "as_is"], ["j"]),
            helper.make_node("Identity", ["table"], ["shared"]),
            helper.make_node("Gather", ["shared", "j"], ["e"]),
        ],
        {"table": TABLE, "as_is": np.array([0, -1])},
    ),
    "in a quantised table": (
        [
            helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["floats"]),
            helper.make_node("Gather", ["floats", "input_ids"], ["e"]),
        ],
        {"table": np.round(20 * TABLE).astype(np.int8), "scale": np.float32(0.05), "zero": np.int8(0)},
    ),
}


@pytest.mark.parametrize("how", sorted(LOOK_UPS))
def test_the_vocabulary_is_found_and_next_token_values_are_told_from_classes(tmp_path: Path, how: str) -> None:
    nodes, weights = LOOK_UPS[how]
    language = [*nodes, helper.make_node("MatMul", ["e", "out"], ["y"])]
    outputs = [value("y", FLOAT, ["N", "T", 21])]
    model = built(write(tmp_path / "lm.onnx", language, TOKENS, outputs, weights | {"out": TABLE.T.copy()}))
    assert (model.input.kind, model.input.low, model.input.high) == ("text", 0, 20)
    assert (model.output.kind, model.output.classes) == ("language-model", 21)
    ids = torch.randint(0, 21, (3, 7))
    assert model(ids).shape == (3, 21)
    bag = [*nodes, helper.make_node("ReduceMean", ["e", "one"], ["y"], keepdims=0)]
    classifier = built(write(tmp_path / "bag.onnx", bag, TOKENS, [value("y", FLOAT, ["N", 4])], weights | {"one": np.array([1])}))
    assert (classifier.output.kind, classifier.output.classes) == ("classifier", 4)


def test_values_of_every_token_that_are_no_vocabulary_are_no_classes_of_the_text(tmp_path: Path) -> None:
    nodes, weights = LOOK_UPS["at once"]
    model = built(write(tmp_path / "ner.onnx", nodes, TOKENS, [value("e", FLOAT, ["N", "T", 4])], weights))
    assert model.output.kind == "sequence"


CLASSES = ["cat", "dog", "owl"]
LINEAR = helper.make_node(
    "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", coefficients=TABLE[:3].ravel().tolist(),
    intercepts=[0.1, 0.2, 0.3],
    classlabels_strings=CLASSES, multi_class=1, post_transform="SOFTMAX",
)  # fmt: skip
VECTOR = [value("x", FLOAT, ["N", 4])]


def maps(name: str) -> Any:
    """A sequence of dictionaries from class names to scores, as ZipMap makes it."""
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    return helper.make_value_info(name, helper.make_sequence_type_proto(kind))


@pytest.mark.parametrize("zipped", [True, False])
def test_class_names_of_a_scikit_learn_export(tmp_path: Path, zipped: bool) -> None:
    zipmap = helper.make_node("ZipMap", ["scores"], ["dictionaries"], domain="ai.onnx.ml", classlabels_strings=CLASSES)
    outputs = [value("label", STRING, ["N"]), maps("dictionaries") if zipped else value("scores", FLOAT, ["N", 3])]
    model = built(write(tmp_path / "model.onnx", [LINEAR, zipmap] if zipped else [LINEAR], VECTOR, outputs, {}, "ai.onnx.ml"))
    assert (model.output.classes, model.output.labels, model.output.head) == (3, tuple(CLASSES), "softmax")
    assert model.describe()["parity"]["ok"]
    x = torch.rand(5, 4).requires_grad_()
    expected = torch.from_numpy(TABLE[:3]) @ x.T
    torch.testing.assert_close(model(x).softmax(1), (expected.T + torch.tensor([0.1, 0.2, 0.3])).softmax(1))
    assert torch.autograd.grad(model(x)[:, 1].sum(), x)[0].abs().sum() > 0


def test_a_graph_that_returns_only_names_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", [LINEAR], VECTOR, [value("label", STRING, ["N"])], {}, "ai.onnx.ml")
    with pytest.raises(Skip, match="the graph has no floating-point output: export the model so that it returns its logits"):
        built(path)


def test_trees_run_forward_only_and_the_coverage_says_why(tmp_path: Path) -> None:
    tree = helper.make_node(
        "TreeEnsembleRegressor", ["h"], ["y"], domain="ai.onnx.ml", n_targets=2, nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0], nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0], nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 1], target_weights=[2.0, 3.0],
    )  # fmt: skip
    nodes = [helper.make_node("Identity", ["x"], ["h"]), tree]
    model = built(write(tmp_path / "model.onnx", nodes, VECTOR, [value("y", FLOAT, ["N", 2])], {}, "ai.onnx.ml"))
    facts = model.describe()
    assert facts["forward_only"].startswith("it is made of decision trees (TreeEnsembleRegressor)")
    assert facts["operators"] == {"Identity": 1, "ai.onnx.ml:TreeEnsembleRegressor": 1}
    assert facts["unsupported"] == ["ai.onnx.ml:TreeEnsembleRegressor"]
    x = np.array([[0, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    np.testing.assert_allclose(model.predict(x), [[2, 0], [0, 3]])
    with pytest.raises(Skip, match="forward only"):
        model(torch.rand(2, 4).requires_grad_())


def test_an_operator_nobody_has_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="seventh", domain="com.acme")
    path = write(tmp_path / "model.onnx", [node], VECTOR, [value("y", FLOAT, ["N", 4])], {}, "com.acme")
    with pytest.raises(Skip) as caught:
        built(path)
    said = str(caught.value)
    assert said.startswith("operator Frobnicate (domain com.acme, opset 3) is not supported; first used by node 'seventh'; onnxruntime")
    assert "\n" not in said
