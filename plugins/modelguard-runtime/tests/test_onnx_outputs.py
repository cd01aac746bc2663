"""ONNX graphs that return something else than a row of logits an input: told, arranged, and never taken for a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built
from onnx import TensorProto, helper, numpy_helper
from onnx_files import graph, linear_graph, value

from modelguard import ModelError, Samples, Skip, UsageError, agreement, require_understanding

pytest.importorskip("onnxruntime")
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
node: Any = helper.make_node
NAMES: Any = [b"cat", b"dog", b"eel"]
TEXT: Any = [b"2.5"]


def weights(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def reader_graph(path: Path, *, batch: Any = "N", last: str = "Identity", name: str = "y") -> Path:
    """(N, 3, 8, 24) to values of 5 characters at 6 positions, time first: (6, N, 5)."""
    nodes = [
        node("Conv", ["x", "k"], ["c"], kernel_shape=[8, 4], strides=[8, 4]), node("Squeeze", ["c", "two"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[2, 0, 1]), node("MatMul", ["t", "w"], ["z"]), node(last, ["z"], [name]),
    ]  # fmt: skip
    stored = {"k": weights(7, 3, 8, 4), "w": weights(7, 5), "two": np.array([2])}
    return graph(nodes, [value("x", FLOAT, [batch, 3, 8, 24])], [value(name, FLOAT, [6, batch, 5])], stored, path)


@pytest.mark.parametrize(("batch", "last"), [("N", "Identity"), (1, "Identity"), ("N", "Softmax")])
def test_a_batch_that_is_not_the_first_axis_is_brought_there(tmp_path: Path, batch: Any, last: str) -> None:
    model = built(reader_graph(tmp_path / "crnn.onnx", batch=batch, last=last))
    x = torch.rand(3, 3, 8, 24)
    assert (model.output.kind, model.output.classes) == ("sequence", 30)
    assert model.describe()["parity"]["max_rel"] < 1e-5
    together, alone = model(x), torch.cat([model(row) for row in x[:, None]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(model.predict(x.numpy())), together, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_one_value_for_all_is_one_of_each(tmp_path: Path) -> None:
    """A graph of a batch of one that returns a number without any dimension."""
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("ReduceSum", ["z"], ["y"], keepdims=0)]
    model = built(graph(nodes, [value("x", FLOAT, [1, 6])], [value("y", FLOAT, [])], {"w": weights(6, 2)}, tmp_path / "model.onnx"))
    x = torch.rand(4, 6)
    assert (model.output.kind, model.output.classes, model.describe()["batch"]) == ("regressor", 1, 1)
    torch.testing.assert_close(model(x), (x @ torch.from_numpy(weights(6, 2))).sum(1, keepdim=True))


def test_a_squeeze_that_takes_the_batch_off_a_single_input_does_no_harm(tmp_path: Path) -> None:
    """(N, 1, 6) to (N, 2), and a single one to (2,): a Squeeze of whatever axis has size one."""
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("Squeeze", ["z"], ["y"])]
    shape = [value("x", FLOAT, ["N", 1, 6])], [value("y", FLOAT, None)]
    model = built(graph(nodes, *shape, {"w": weights(6, 2)}, tmp_path / "model.onnx"))
    x = torch.rand(3, 1, 1, 6)
    assert (model.output.classes, model.describe()["parity"]["ok"]) == (2, True)
    for part in (x, x[:1], x[:2]):
        wanted = part[:, 0, 0] @ torch.from_numpy(weights(6, 2))
        torch.testing.assert_close(model(part), wanted)
        torch.testing.assert_close(torch.from_numpy(model.predict(part.numpy())), wanted, atol=1e-5, rtol=1e-5)


def test_a_state_that_was_exported_for_one_input_is_run_one_at_a_time(tmp_path: Path) -> None:
    """Sound in frames to two opinions, with a state of one row; onnxruntime takes no other (the models of AECMOS)."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("GRU", ["t", "w", "r", "", "", "h0"], ["", "h"], hidden_size=4),
        node("MatMul", ["h", "v"], ["z"]), node("Squeeze", ["z"], ["y"]),
    ]  # fmt: skip
    stored = {"w": weights(1, 12, 5), "r": weights(1, 12, 4), "v": weights(4, 2)}
    inputs = [value("x", FLOAT, ["batch", "frames", 5]), value("h0", FLOAT, [1, 1, 4])]
    model = built(graph(nodes, inputs, [value("y", FLOAT, ["batch"])], stored, tmp_path / "model.onnx"))
    assert (model.describe()["batch"], model.output.classes, model.describe()["parity"]["ok"]) == (1, 2, True)
    x = torch.rand(3, 1, 32, 5)
    torch.testing.assert_close(model(x), torch.cat([model(row[None]) for row in x]))
    torch.testing.assert_close(torch.from_numpy(model.predict(x.numpy())), model(x), atol=1e-5, rtol=1e-5)


def test_what_is_not_on_the_way_to_the_output_stops_nothing(tmp_path: Path) -> None:
    """Names of classes as strings, a map of them, an operator that nobody has, an element type that torch has not."""
    tail = [
        node("ArgMax", ["z"], ["index"], axis=1, keepdims=0), node("Gather", ["names", "index"], ["label"]),
        node("Nonsense", ["z"], ["odd"], domain="acme"), node("Optional", ["z"], ["perhaps"]), node("Softmax", ["z"], ["probabilities"]),
    ]  # fmt: skip
    path = linear_graph(tmp_path / "model.onnx", tail, value("probabilities", FLOAT, ["N", 3]), domains=["acme"])
    import onnx

    made = onnx.load(path)
    made.graph.initializer.append(helper.make_tensor("names", STRING, [3], NAMES))
    made.graph.initializer.append(TensorProto(name="scale", data_type=24, dims=[1], raw_data=b"\x7f"))
    made.graph.input.append(value("comment", STRING, ["N"]))
    made.graph.output.extend([value("label", STRING, ["N"]), value("odd", FLOAT, ["N", 3])])
    path.write_bytes(made.SerializeToString())
    model = built(path)
    assert (model.output.kind, model.output.head, model.output.classes) == ("classifier", "softmax", 3)
    assert model.describe()["parity"]["ok"]


def test_an_element_type_on_the_way_that_torch_has_not_is_a_reason_and_no_error(tmp_path: Path) -> None:
    tail = [node("Cast", ["text"], ["number"], to=FLOAT), node("Add", ["z", "number"], ["y"])]
    path = linear_graph(tmp_path / "model.onnx", tail, value("y", FLOAT, ["N", 3]))
    import onnx

    made = onnx.load(path)
    made.graph.initializer.append(helper.make_tensor("text", STRING, [1], TEXT))
    path.write_bytes(made.SerializeToString())
    model = built(path)
    assert "STRING" in model.describe()["forward_only"]
    assert model(torch.zeros(2, 6)).shape == (2, 3)


def test_a_graph_that_takes_strings_is_skipped(tmp_path: Path) -> None:
    nodes = [node("StringNormalizer", ["x"], ["t"]), node("Cast", ["t"], ["y"], to=FLOAT)]
    path = graph(nodes, [value("x", STRING, ["N", 1])], [value("y", FLOAT, ["N", 1])], {}, tmp_path / "model.onnx")
    with pytest.raises(Skip, match=r"'x' \(string Nx1\) takes no numbers"):
        built(path)


@pytest.mark.parametrize(
    ("name", "tail", "width", "kind"),
    [
        ("y", [], 10, "classifier"),
        ("y", [node("Sigmoid", ["z"], ["y"])], 10, "multi-label"),
        ("y", [node("Softmax", ["z"], ["y"])], 512, "classifier"),
        ("y", [], 512, "unknown"),
        ("logits", [], 512, "classifier"),
        ("embedding", [], 10, "embedding"),
        ("y", [node("LpNormalization", ["z"], ["y"], axis=1, p=2)], 10, "embedding"),
        ("y", [node("Tanh", ["z"], ["y"])], 3, "regressor"),
        ("y", [node("Relu", ["z"], ["y"])], 10, "unknown"),
    ],
)
def test_a_row_of_values_is_told_by_its_ending_its_name_and_its_width(
    tmp_path: Path, name: str, tail: list[Any], width: int, kind: str
) -> None:
    nodes = [node("MatMul", ["x", "w"], ["z" if tail else name]), *tail]
    path = graph(
        nodes, [value("x", FLOAT, ["N", 6])], [value(name, FLOAT, ["N", width])], {"w": weights(6, width)}, tmp_path / "model.onnx"
    )
    model = built(path)
    assert (model.output.kind, model.output.classes) == (kind, width)
    assert model.output.told_by


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_are_all_of_one_sign_are_no_logits(tmp_path: Path, sign: int) -> None:
    """Three opinions of a recording between one and five, as DNSMOS gives them."""
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("Add", ["z", "b"], ["y"])]
    stored = {"w": 0.05 * weights(6, 3), "b": sign * np.array([2.5, 1.6, 1.5], np.float32)}
    path = graph(nodes, [value("x", FLOAT, ["N", 6])], [value("y", FLOAT, ["N", 3])], stored, tmp_path / "model.onnx")
    assert built(path).output.kind == "unknown"
    x = np.random.default_rng(0).random((40, 6), np.float32)
    labels = (x @ stored["w"] + stored["b"]).argmax(1)
    assert built(path, Samples(x, labels, "s.npz", "0" * 64)).output.kind == "classifier"


def test_a_network_whose_weights_are_all_the_same_says_nothing_by_its_signs(tmp_path: Path) -> None:
    path = graph(
        [node("MatMul", ["x", "w"], ["y"])], [value("x", FLOAT, ["N", 6])], [value("y", FLOAT, ["N", 10])],
        {"w": np.full((6, 10), 0.02, np.float32)}, tmp_path / "model.onnx",
    )  # fmt: skip
    assert built(path).output.kind == "classifier"


@pytest.mark.parametrize("window", [32, 512])
@pytest.mark.parametrize(("frames", "kind"), [("frames", "sequence"), (1, "unknown")])
def test_features_of_every_frame_are_no_row_of_values(tmp_path: Path, frames: Any, kind: str, window: int) -> None:
    """A spectrogram: of the shortest sound there is one frame."""
    nodes = [
        node("Unsqueeze", ["x", "one"], ["u"]), node("Conv", ["u", "k"], ["c"], kernel_shape=[window], strides=[window]),
        node("Transpose", ["c"], ["t"], perm=[0, 2, 1]), node("Relu", ["t"], ["y"]),
    ]  # fmt: skip
    stored = {"k": weights(10, 1, window), "one": np.array([1])}
    path = graph(nodes, [value("x", FLOAT, ["N", "samples"])], [value("y", FLOAT, ["N", frames, 10])], stored, tmp_path / "model.onnx")
    model = built(path)
    assert (model.output.kind, model.output.classes) == (kind, 10)


def test_labels_of_the_samples_decide(tmp_path: Path) -> None:
    path = graph(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", FLOAT, ["N", 6])],
        [value("y", FLOAT, ["N", 64])],
        {"w": weights(6, 64)},
        tmp_path / "model.onnx",
    )
    x = np.random.default_rng(0).random((40, 6), np.float32)
    labels = (x @ weights(6, 64)).argmax(1)
    assert built(path).output.kind == "unknown"
    model = built(path, Samples(x, labels, "s.npz", "0" * 64))
    assert (model.output.kind, model.output.told_by) == ("classifier", "the samples' labels")
    assert model.describe()["agreement"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("channels", "size", "kind"),
    [(1, 32, "dense"), (85, 32, "detection")],
)
def test_maps_and_boxes_are_no_classes(tmp_path: Path, channels: int, size: int, kind: str) -> None:
    """A value for every pixel; values for each cell of three maps, as YOLO has them."""
    if kind == "dense":
        nodes = [node("Conv", ["images", "k"], ["z"], kernel_shape=[1, 1]), node("Sigmoid", ["z"], ["y"])]
        stored = {"k": weights(channels, 3, 1, 1)}
        shape: list[Any] = ["N", channels, size, size]
    else:
        nodes, stored = [], {}
        for place, stride in enumerate((8, 16, 32)):
            stored[f"k{place}"] = weights(channels, 3, 1, 1)
            nodes += [
                node("AveragePool", ["images"], [f"p{place}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
                node("Conv", [f"p{place}", f"k{place}"], [f"c{place}"], kernel_shape=[1, 1]),
                node("Reshape", [f"c{place}", "flat"], [f"f{place}"]),
            ]
        nodes.append(node("Concat", ["f0", "f1", "f2"], ["y"], axis=2))
        stored["flat"] = np.array([0, channels, -1])
        shape = ["N", channels, 21]
    model = built(graph(nodes, [value("images", FLOAT, ["N", 3, size, size])], [value("y", FLOAT, shape)], stored, tmp_path / "model.onnx"))
    assert model.output.kind == kind
    samples = Samples(np.random.default_rng(0).random((25, 3, size, size), np.float32), None, "s.npz", "0" * 64)
    told = agreement(model, samples)
    assert told["ok"] is None
    assert told["reason"] == {"dense": "the model is a model that returns a map", "detection": "the model is a detector of objects"}[kind]
    with pytest.raises(Skip):
        require_understanding(model, samples)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
def test_positions_are_pooled_when_the_user_asks(tmp_path: Path, pool: str) -> None:
    path = reader_graph(tmp_path / "crnn.onnx", name="text")
    every = built(path)
    x = torch.rand(2, 3, 8, 24)
    at = every(x).reshape(2, 6, 5)
    model = built(path, output=f"text,{pool}")
    assert (model.output.kind, model.output.classes) == ("classifier", 5)
    wanted = {"mean": at.mean(1), "max": at.amax(1), "first": at[:, 0], "last": at[:, -1]}[pool]
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)


def test_the_output_to_read_is_chosen_by_name(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("MatMul", ["x", "v"], ["other"])]
    outputs = [value("logits", FLOAT, ["N", 4]), value("other", FLOAT, ["N", 7])]
    path = graph(nodes, [value("x", FLOAT, ["N", 6])], outputs, {"w": weights(6, 4), "v": weights(6, 7)}, tmp_path / "model.onnx")
    assert built(path).output.classes == 4
    assert built(path, output="other").output.classes == 7
    with pytest.raises(UsageError, match="no such floating-point output; it has 'logits', 'other'"):
        built(path, output="third")


def test_surplus_coefficients_of_a_linear_classifier_are_not_used(tmp_path: Path) -> None:
    """OnnxMLTools wrote logreg_iris.onnx, which onnxruntime ships, with three rows too many."""
    rng = np.random.default_rng(0)
    classify = node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", coefficients=rng.normal(size=18).tolist(),
        intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform="LOGISTIC",
    )  # fmt: skip
    outputs = [value("label", INT64, ["N"]), value("scores", FLOAT, ["N", 3])]
    model = built(graph([classify], [value("x", FLOAT, ["N", 2])], outputs, {}, tmp_path / "model.onnx", domains=["ai.onnx.ml"]))
    assert model.output.classes == 3
    assert model.describe()["parity"]["ok"]


def trees_graph(path: Path, node: Any, version: int, *, double: bool = False) -> Path:
    """Three values to the last output of ``node``, which is of ``ai.onnx.ml`` in ``version``."""
    element = TensorProto.DOUBLE if double else FLOAT
    outputs = [value(name, INT64 if name == "label" else FLOAT, None) for name in node.output]
    if node.op_type == "TreeEnsemble":
        outputs = [value("y", element, None)]
    made = helper.make_graph([node], "g", [value("x", element, ["N", 3])], outputs)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", version)]
    path.write_bytes(helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


STUMPS: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1], "nodes_nodeids": [0, 1, 2] * 2, "nodes_featureids": [1, 0, 0, 2, 0, 0],
    "nodes_truenodeids": [1, 0, 0] * 2, "nodes_falsenodeids": [2, 0, 0] * 2,
}  # fmt: skip
"""Two trees of one node each, which look at the second and the third value."""
SPLITS, WEIGHTS = (0.125, -0.25), np.array([[1.0, 2.0], [30.0, 40.0]])
COMPARED: dict[str, Any] = {
    "LEQ": np.less_equal,
    "LT": np.less,
    "GTE": np.greater_equal,
    "GT": np.greater,
    "EQ": np.equal,
    "NEQ": np.not_equal,
}
ROWS = np.array([[0, 0.125, -0.25], [0, 0.0, -0.5], [9, 0.5, 0.0], [9, 0.0, 0.0], [1, 0.125, -0.5]])


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("mode", COMPARED)
@pytest.mark.parametrize("version", [1, 3, 5])
def test_decision_trees_are_exact(tmp_path: Path, version: int, mode: str, how: str) -> None:
    """Regressors with numbers in lists (1) and in tensors of doubles (3), and what took their place (5)."""
    splits = [SPLITS[0], 0, 0, SPLITS[1], 0, 0]
    flat = WEIGHTS.flatten().tolist()
    given: dict[str, Any]
    if version == 5:
        given = {
            "tree_roots": [0, 1], "nodes_featureids": [1, 2], "nodes_truenodeids": [0, 2], "nodes_falsenodeids": [1, 3],
            "nodes_trueleafs": [1, 1], "nodes_falseleafs": [1, 1], "leaf_targetids": [0] * 4, "n_targets": 1,
            "nodes_modes": numpy_helper.from_array(np.full(2, list(COMPARED).index(mode), np.uint8)),
            "nodes_splits": numpy_helper.from_array(np.array(SPLITS)), "leaf_weights": numpy_helper.from_array(np.array(flat)),
            "aggregate_function": ["AVERAGE", "SUM", "MIN", "MAX"].index(how),
        }  # fmt: skip
        made = node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **given)
    else:
        numbers = {"nodes_values": splits, "target_weights": flat}
        if version == 3:
            numbers = {f"{name}_as_tensor": numpy_helper.from_array(np.array(listed, np.float64)) for name, listed in numbers.items()}
        made = node(
            "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", nodes_modes=[f"BRANCH_{mode}", "LEAF", "LEAF"] * 2, n_targets=1,
            target_treeids=[0, 0, 1, 1], target_nodeids=[1, 2, 1, 2], target_ids=[0] * 4, aggregate_function=how, **numbers, **STUMPS,
        )  # fmt: skip
    model = built(trees_graph(tmp_path / "model.onnx", made, version, double=version > 1))
    met = COMPARED[mode](ROWS[:, 1:], SPLITS)
    votes = np.where(met, WEIGHTS[:, 0], WEIGHTS[:, 1])
    wanted = {"SUM": votes.sum(1), "AVERAGE": votes.mean(1), "MIN": votes.min(1), "MAX": votes.max(1)}[how]
    assert model(torch.from_numpy(ROWS).float()).flatten().tolist() == wanted.tolist()
    assert model.output.kind == "regressor"
    assert "decision trees" in model.describe()["forward_only"]


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [7, 9, 11]}, {"classlabels_strings": ["a", "b", "c"]}])
@pytest.mark.parametrize("version", [1, 3])
def test_votes_of_decision_trees_are_classes_whatever_they_are_called(tmp_path: Path, version: int, labels: dict[str, Any]) -> None:
    votes = [0.75, -0.25, 1.5, -0.5]
    numbers: dict[str, Any] = {"nodes_values": [SPLITS[0], 0, 0, SPLITS[1], 0, 0], "class_weights": votes}
    if version == 3:
        numbers = {f"{name}_as_tensor": numpy_helper.from_array(np.array(listed, np.float64)) for name, listed in numbers.items()}
    made = node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
        class_treeids=[0, 0, 1, 1], class_nodeids=[1, 2, 1, 2], class_ids=[0, 1, 2, 1], **numbers, **STUMPS, **labels,
    )  # fmt: skip
    path = trees_graph(tmp_path / "model.onnx", made, version, double=version > 1)
    if "classlabels_strings" in labels:
        import onnx

        changed = onnx.load(path)
        changed.graph.output[0].type.tensor_type.elem_type = STRING
        path.write_bytes(changed.SerializeToString())
    model = built(path)
    assert (model.output.kind, model.output.classes) == ("classifier", 3)
    assert model.output.labels == tuple(labels.get("classlabels_strings", ()))
    met = ROWS[:, 1:] <= SPLITS
    wanted = [[0.75 * a, -0.25 * (not a) - 0.5 * (not b), 1.5 * b] for a, b in met]
    assert model(torch.from_numpy(ROWS).float()).tolist() == wanted
    with pytest.raises(Skip, match="decision trees"):
        model(torch.zeros(1, 3).requires_grad_())


def test_a_bare_array_is_not_needed_twice(tmp_path: Path) -> None:
    """The weights of an output that is not read are not loaded into onnxruntime either."""
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("MatMul", ["x", "v"], ["other"])]
    path = graph(
        nodes, [value("x", FLOAT, ["N", 6])], [value("logits", FLOAT, ["N", 4]), value("other", FLOAT, ["N", 7])],
        {"w": weights(6, 4), "v": weights(6, 7)}, tmp_path / "model.onnx",
    )  # fmt: skip
    assert "v" not in dict(cast("Any", built(path)).module.named_parameters())


@pytest.mark.parametrize(
    ("attributes", "levels"),
    [
        ({"signed": 1, "narrow": 0}, (-4, 3)),
        ({"signed": 1, "narrow": 1}, (-3, 3)),
        ({"signed": 0, "narrow": 0}, (0, 7)),
        ({"signed": 0, "narrow": 1}, (0, 6)),
    ],
)
def test_qonnx_quantisers_are_plain_arithmetic(tmp_path: Path, attributes: dict[str, int], levels: tuple[int, int]) -> None:
    domain = "qonnx.custom_op.general"
    nodes = [
        node("MatMul", ["x", "w"], ["z"]),
        node("Quant", ["z", "scale", "zero", "bits"], ["q"], domain=domain, rounding_mode="ROUND", **attributes),
        node("BipolarQuant", ["z", "scale"], ["b"], domain=domain), node("Add", ["q", "b"], ["y"]),
    ]  # fmt: skip
    stored = {"w": weights(6, 3), "scale": np.float32(0.25), "zero": np.float32(0), "bits": np.float32(3)}
    path = graph(nodes, [value("x", FLOAT, ["N", 6])], [value("y", FLOAT, ["N", 3])], stored, tmp_path / "model.onnx", domains=[domain])
    model = built(path)
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    z = x @ torch.from_numpy(weights(6, 3))
    torch.testing.assert_close(model(x), (z / 0.25).round().clamp(*levels) * 0.25 + torch.where(z >= 0, 0.25, -0.25))
    (slope,) = torch.autograd.grad(model(x.requires_grad_()).sum(), x)
    assert slope.any()


def test_a_quantiser_of_a_width_that_is_computed_is_named(tmp_path: Path) -> None:
    domain = "qonnx.custom_op.general"
    nodes = [node("ReduceMax", ["x"], ["bits"], keepdims=0), node("Quant", ["x", "scale", "zero", "bits"], ["y"], domain=domain)]
    stored = {"scale": np.float32(1), "zero": np.float32(0)}
    path = graph(nodes, [value("x", FLOAT, ["N", 6])], [value("y", FLOAT, ["N", 6])], stored, tmp_path / "model.onnx", domains=[domain])
    with pytest.raises(Skip, match="operator Quant"):
        built(path)


def test_a_probability_in_a_branch_is_one_of_two_classes(tmp_path: Path) -> None:
    """A detector of speech chooses its network by the sample rate, each of which ends in a sigmoid and a mean."""
    branches = [
        helper.make_graph(
            [node("MatMul", ["x", name], ["z"]), node("Sigmoid", ["z"], ["p"]), node("Unsqueeze", ["p", "last"], ["u"]),
             node("ReduceMean", ["u", "last"], ["m"], keepdims=0)],
            name, [], [helper.make_tensor_value_info("m", FLOAT, None)],
        )
        for name in ("w", "v")
    ]  # fmt: skip
    nodes = [node("Equal", ["sr", "usual"], ["is"]), node("If", ["is"], ["output"], then_branch=branches[0], else_branch=branches[1])]
    inputs = [value("x", FLOAT, ["N", 6]), value("sr", INT64, [])]
    stored = {"w": weights(6, 1), "v": -weights(6, 1), "usual": np.array(16000), "last": np.array([-1])}
    model = built(graph(nodes, inputs, [value("output", FLOAT, ["N", 1])], stored, tmp_path / "vad.onnx"))
    x = torch.rand(4, 6)
    assert (model.output.kind, model.output.classes, model.output.head) == ("classifier", 2, "sigmoid")
    torch.testing.assert_close(model(x)[:, 1:], x @ torch.from_numpy(weights(6, 1)), atol=1e-4, rtol=1e-4)


def test_the_gradient_of_many_logits_that_bend_is_judged_by_each(tmp_path: Path) -> None:
    """A detector of objects returns thousands of values, each of which moves on its own: their sum hardly moves beside their magnitudes."""
    nodes = [
        node("MatMul", ["x", "w"], ["z"]),
        node("Sin", ["z"], ["s"]),
        node("Mul", ["s", "some"], ["m"]),
        node("Add", ["m", "rest"], ["y"]),
    ]
    stored = {"w": 12 * weights(6, 8000), "some": np.float32(0.03), "rest": weights(8000)}
    path = graph(nodes, [value("x", FLOAT, ["N", 6])], [value("y", FLOAT, ["N", 8000])], stored, tmp_path / "model.onnx")
    assert "forward_only" not in built(path).describe()


@pytest.mark.parametrize(("noise", "fine"), [(0.1, True), (0.6, False), (0.0, False)])
def test_parity_is_judged_by_how_far_onnxruntime_is_from_itself(tmp_path: Path, noise: float, fine: bool) -> None:
    """A quantised recurrence turns a change in the seventh digit of its input into one in the first digit of its output."""
    from modelguard_runtime import _parity

    model: Any = built(linear_graph(tmp_path / "model.onnx", [], value("z", FLOAT, ["N", 3])))

    scale = np.abs(model.graph_output(model.raw_random(3, seed=0))).max()

    def session(x: Any) -> Any:
        y = model.graph_output(torch.from_numpy(x))
        unstable = np.where(np.sin(1e8 * x.astype(np.float64).sum(1, keepdims=True)) > 0, noise, -noise) if noise else 0.1
        return (y + scale * unstable).astype(np.float32)

    if fine:
        parity = _parity.check(model, session, "float32", None)
        assert parity.spread is not None
        assert parity.max_rel <= 2 * parity.spread
    else:
        with pytest.raises(Skip if noise else ModelError, match="differs from itself" if noise else "report it as a bug"):
            _parity.check(model, session, "float32", None)


@pytest.mark.parametrize(
    ("name", "width", "kind"), [("logits", 50, "language-model"), ("logits", 9, "sequence"), ("last_hidden_state", 9, "embedding")]
)
def test_values_for_every_token(tmp_path: Path, name: str, width: int, kind: str) -> None:
    nodes = [node("Gather", ["words", "input_ids"], ["e"]), node("MatMul", ["e", "w"], [name])]
    path = graph(
        nodes, [value("input_ids", INT64, ["N", "T"])], [value(name, FLOAT, ["N", "T", width])],
        {"words": weights(50, 4), "w": weights(4, width)}, tmp_path / "model.onnx",
    )  # fmt: skip
    model = built(path)
    assert (model.output.kind, model.output.classes, model.input.high) == (kind, width, 49)
    x = torch.randint(1, 50, (3, 7))
    torch.testing.assert_close(model(x), (torch.from_numpy(weights(50, 4))[x] @ torch.from_numpy(weights(4, width)))[:, -1])
