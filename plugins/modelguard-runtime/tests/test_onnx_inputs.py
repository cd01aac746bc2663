"""ONNX graphs of several inputs: which of them is data, what the others are given, and what is asked where that cannot be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built
from onnx import TensorProto, helper
from onnx_files import graph, value

from modelguard import Capability, Samples, Skip
from modelguard.testing import open_target

pytest.importorskip("onnxruntime")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def weights(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def text_graph(path: Path, *, second: str = "attention_mask", third: str = "token_type_ids", kind: int = INT64) -> Path:
    """Masked mean of token, type and position embeddings, then three classes: the inputs of BERT, whatever they are called."""
    ids = [value(name, kind, ["batch", "sequence"]) for name in ("input_ids", second, third, "position_ids")]
    nodes = [
        node("Gather", ["words", "input_ids"], ["a"]), node("Gather", ["types", third], ["b"]),
        node("Gather", ["places", "position_ids"], ["c"]), node("Sum", ["a", "b", "c"], ["e"]),
        node("Cast", [second], ["m"], to=FLOAT), node("Unsqueeze", ["m", "last"], ["mm"]), node("Mul", ["e", "mm"], ["masked"]),
        node("ReduceMean", ["masked", "one"], ["pooled"], keepdims=0), node("MatMul", ["pooled", "w"], ["logits"]),
    ]  # fmt: skip
    tables = {"words": weights(50, 4), "types": weights(2, 4), "places": weights(64, 4), "w": weights(4, 3)}
    axes = {"last": np.array([-1]), "one": np.array([1])}
    return graph(nodes, ids, [value("logits", FLOAT, ["batch", 3])], tables | axes, path)


@pytest.mark.parametrize(("second", "third"), [("attention_mask", "token_type_ids"), ("input_mask", "segment_ids")])
def test_the_inputs_of_a_text_model_follow_from_its_tokens(tmp_path: Path, second: str, third: str) -> None:
    model = built(text_graph(tmp_path / "bert.onnx", second=second, third=third))
    facts = model.describe()
    assert (model.input.kind, model.input.high, model.output.kind, model.output.classes) == ("text", 49, "classifier", 3)
    assert facts["parity"]["ok"]
    assert set(facts["graph"]["filled"]) == {second, third, "position_ids"}
    x = torch.randint(1, 50, (2, 7))
    words, types, places, w = (torch.from_numpy(weights(*shape)) for shape in ((50, 4), (2, 4), (64, 4), (4, 3)))
    torch.testing.assert_close(model(x), (words[x] + types[0] + places[:7]).mean(1) @ w)
    torch.testing.assert_close(model(x), torch.from_numpy(model.predict(x.numpy())), atol=1e-5, rtol=1e-5)


def test_padding_is_masked_where_the_configuration_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"pad_token_id": 0}')
    text_graph(tmp_path / "model.onnx")
    model = built(tmp_path)
    x = torch.tensor([[5, 9, 7]])
    torch.testing.assert_close(model(torch.tensor([[5, 9, 7, 0]])) * 4, model(x) * 3)


def voice_graph(path: Path, state: list[Any]) -> Path:
    """(batch, samples), a state and a sample rate to one probability and the next state."""
    nodes = [
        node("MatMul", ["input", "w"], ["z"]), node("ReduceSum", ["state", "zero"], ["s"], keepdims=0), node("Add", ["z", "s"], ["zs"]),
        node("Cast", ["sr"], ["rate"], to=FLOAT), node("Div", ["rate", "usual"], ["share"]), node("Mul", ["zs", "share"], ["y"]),
        node("MatMul", ["y", "v"], ["column"]), node("Sigmoid", ["column"], ["output"]), node("Tanh", ["state"], ["stateN"]),
    ]  # fmt: skip
    inputs = [value("input", FLOAT, ["batch", 16]), value("state", FLOAT, state), value("sr", INT64, [])]
    outputs = [value("stateN", FLOAT, state), value("output", FLOAT, ["batch", 1])]
    stored = {"w": weights(16, 4), "v": weights(4, 1), "zero": np.array([0]), "usual": np.float32(16000)}
    return graph(nodes, inputs, outputs, stored, path)


@pytest.mark.parametrize("state", [[2, "batch", 4], [2, None, 4], [2, 1, 4]])
def test_a_sound_model_gets_its_state_and_its_sample_rate(tmp_path: Path, state: list[Any]) -> None:
    model = built(voice_graph(tmp_path / "vad.onnx", state))
    x = torch.rand(3, 16)
    z = x @ torch.from_numpy(weights(16, 4)) @ torch.from_numpy(weights(4, 1))
    assert (model.output.kind, model.output.classes, model.describe()["graph"]["output_used"]) == ("classifier", 2, "output")
    torch.testing.assert_close(model(x)[:, 1:], z)
    (slope,) = torch.autograd.grad(model(x.requires_grad_())[:, 1].sum(), x)
    assert slope.abs().min() > 0


def test_what_the_user_or_the_samples_give_an_input_is_taken(tmp_path: Path) -> None:
    path = voice_graph(tmp_path / "vad.onnx", [2, "batch", 4])
    x = torch.rand(3, 16)
    usual = built(path)(x)
    half = built(path, input="sr=8000")
    torch.testing.assert_close(half(x) * 2, usual)
    assert half.describe()["graph"]["filled"]["sr"] == "array, by --input"
    samples = Samples(x.numpy(), None, "clip.npz", "0" * 64, others={"sr": np.array(32000), "state": np.ones((2, 3, 4), np.float32)})
    model = built(path, samples)
    added = torch.from_numpy(weights(4, 1)).sum() * 2 * 2
    torch.testing.assert_close(model(x)[:, 1:], usual[:, 1:] * 2 + added)


def test_a_value_that_differs_from_sample_to_sample_cannot_be_followed(tmp_path: Path) -> None:
    inputs = [value("x", FLOAT, ["N", 4]), value("bias", FLOAT, ["N", 4])]
    path = graph([node("Add", ["x", "bias"], ["y"])], inputs, [value("y", FLOAT, ["N", 4])], {}, tmp_path / "model.onnx")
    x = np.random.default_rng(0).random((3, 4), np.float32)
    with pytest.raises(Skip, match=r"'bias' \(float Nx4\).* another value each"):
        built(path, Samples(x, None, "s.npz", "0" * 64, others={"bias": x}))
    same = Samples(x, None, "s.npz", "0" * 64, others={"bias": np.ones((3, 4), np.float32)})
    torch.testing.assert_close(built(path, same)(torch.zeros(2, 4)), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("name", "shape", "given"),
    [("scale_factor", ["N", 2], [1.0, 1.0]), ("im_shape", ["N", 2], [8.0, 12.0]), ("im_info", [1, 3], [8.0, 12.0, 1.0])],
)
def test_an_image_model_gets_the_size_of_its_image(tmp_path: Path, name: str, shape: list[Any], given: list[float]) -> None:
    nodes = [
        node("GlobalAveragePool", ["image"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("ReduceSum", [name, "axis"], ["s"]),
        node("Add", ["f", "s"], ["y"]),
    ]
    inputs = [value("image", FLOAT, ["N", 3, 8, 12]), value(name, FLOAT, shape)]
    model = built(graph(nodes, inputs, [value("y", FLOAT, ["N", 3])], {"axis": np.array([1])}, tmp_path / "model.onnx"))
    assert model.input.shape == (3, 8, 12)
    torch.testing.assert_close(model(torch.zeros(2, 3, 8, 12)), torch.full((2, 3), sum(given)))


def test_keys_and_values_of_earlier_tokens_are_none(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["words", "input_ids"], ["e"]), node("Unsqueeze", ["e", "one"], ["heads"]),
        node("Concat", ["past_key_values.0.key", "heads"], ["present.0.key"], axis=2),
        node("ReduceSum", ["present.0.key", "both"], ["all"]), node("MatMul", ["all", "w"], ["wide"]),
        node("Squeeze", ["wide", "one"], ["logits"]),
    ]  # fmt: skip
    inputs = [
        value("input_ids", INT64, ["batch", "sequence"]),
        value("past_key_values.0.key", FLOAT, ["batch", 1, "past_sequence", 4]),
        value("attention_mask", INT64, ["batch", "past_sequence + sequence"]),
    ]
    outputs = [value("logits", FLOAT, ["batch", "sequence", 50]), value("present.0.key", FLOAT, ["batch", 1, "t", 4])]
    stored = {"words": weights(50, 4), "w": weights(4, 50), "one": np.array([1]), "both": np.array([2])}
    model = built(graph(nodes, inputs, outputs, stored, tmp_path / "model.onnx"))
    assert model.output.kind == "language-model"
    assert "attention_mask" not in model.describe()["graph"]["filled"]  # nothing on the way to the logits reads it
    x = torch.randint(1, 50, (2, 6))
    torch.testing.assert_close(model(x), torch.from_numpy(weights(50, 4))[x].sum(1) @ torch.from_numpy(weights(4, 50)))


def test_a_decoder_gets_a_memory_and_a_mask_of_the_same_length(tmp_path: Path) -> None:
    """Attention of the tokens over what an encoder made of another text: its length is its own."""
    nodes = [
        node("Gather", ["words", "prefix"], ["q"]), node("Transpose", ["memory"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["s"]), node("Cast", ["src_mask"], ["m"], to=FLOAT), node("Unsqueeze", ["m", "one"], ["mm"]),
        node("Mul", ["s", "mm"], ["a"]), node("Softmax", ["a"], ["p"]), node("MatMul", ["p", "memory"], ["c"]),
        node("Add", ["c", "q"], ["h"]),
        node("MatMul", ["h", "w"], ["logits"]),
    ]  # fmt: skip
    inputs = [
        value("prefix", INT64, ["batch", "tgt_len"]), value("memory", FLOAT, ["batch", "src_len", 4]),
        value("src_mask", TensorProto.BOOL, ["batch", "src_len"]),
    ]  # fmt: skip
    stored = {"words": weights(50, 4), "w": weights(4, 50), "one": np.array([1])}
    path = graph(nodes, inputs, [value("logits", FLOAT, ["batch", "tgt_len", 50])], stored, tmp_path / "decoder.onnx")
    model = built(path)
    assert set(model.describe()["graph"]["filled"]) == {"memory", "src_mask"}
    x = torch.randint(1, 50, (2, 6))
    torch.testing.assert_close(model(x), (torch.from_numpy(weights(50, 4))[x] @ torch.from_numpy(weights(4, 50)))[:, -1])


def test_an_input_that_nobody_knows_is_named_also_by_the_plan(tmp_path: Path) -> None:
    inputs = [value("x", FLOAT, ["N", 4]), value("quux", FLOAT, ["N", 4])]
    path = graph([node("Add", ["x", "quux"], ["y"])], inputs, [value("y", FLOAT, ["N", 4])], {}, tmp_path / "model.onnx")
    target = open_target(path)
    assert "nothing says what 'quux' (float Nx4) is given: say --input quux=NUMBER" in target.obstacle
    assert Capability.FORWARD not in target.capabilities
    with pytest.raises(Skip, match="quux"):
        _ = target.model


def test_many_inputs_are_counted(tmp_path: Path) -> None:
    names = [f"column{place}" for place in range(9)]
    inputs = [value(name, FLOAT, ["N", 1]) for name in names]
    path = graph([node("Concat", names, ["y"], axis=1)], inputs, [value("y", FLOAT, ["N", 9])], {}, tmp_path / "model.onnx")
    with pytest.raises(Skip, match=r"has 9 inputs.*'column5' \(float Nx1\) and 3 more"):
        built(path)


def test_an_input_without_a_batch_is_run_one_at_a_time(tmp_path: Path) -> None:
    path = graph(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", FLOAT, [6])],
        [value("y", FLOAT, [3])],
        {"w": weights(6, 3)},
        tmp_path / "model.onnx",
    )
    model = built(path)
    x = torch.rand(4, 6).requires_grad_()
    assert (model.input.shape, model.output.classes, model.describe()["batch"]) == ((6,), 3, 1)
    torch.testing.assert_close(model(x), x @ torch.from_numpy(weights(6, 3)))
    torch.testing.assert_close(torch.from_numpy(model.predict(x.detach().numpy())), model(x).detach(), atol=1e-5, rtol=1e-5)


def test_minus_one_is_a_free_dimension(tmp_path: Path) -> None:
    path = graph(
        [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "w"], ["z"]),
         node("Softmax", ["z"], ["y"])],
        [value("x", FLOAT, [-1, 3, -1, -1])], [value("y", FLOAT, [-1, 2])], {"w": weights(3, 2)}, tmp_path / "model.onnx",
    )  # fmt: skip
    model = built(path)
    assert (model.input.shape, model.output.head, model.describe().get("batch")) == ((3, -1, -1), "softmax", None)
    assert model(torch.rand(5, 3, 9, 7)).shape == (5, 2)


def line_graph(path: Path, height: int) -> Path:
    """A recogniser of lines of text that are ``height`` pixels high, of which its declared input says nothing."""
    nodes = [
        node("AveragePool", ["x"], ["p"], kernel_shape=[height, 4], strides=[height, 4]), node("Squeeze", ["p", "two"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "w"], ["z"]), node("Softmax", ["z"], ["y"], axis=2),
    ]  # fmt: skip
    stored = {"w": weights(3, 11), "two": np.array([2])}
    return graph(nodes, [value("x", FLOAT, ["N", 3, "h", "w_"])], [value("y", FLOAT, ["N", "t", 11])], stored, path)


@pytest.mark.parametrize("height", [48, 40, 72])
def test_the_height_of_a_line_of_text_is_that_of_a_kernel(tmp_path: Path, height: int) -> None:
    model = built(line_graph(tmp_path / "model.onnx", height))
    assert model.input.shape == (3, height, 320)
    assert model.input.source["shape"].endswith("a size that the graph's constants tell")
    assert model.output.kind == "sequence"


def test_a_size_that_no_constant_tells_is_found_among_the_usual_ones(tmp_path: Path) -> None:
    """Halved four times, and then squeezed: the height is 16 to 31 pixels for each row that is left."""
    nodes, last = [], "x"
    for place in range(4):
        nodes.append(node("AveragePool", [last], [f"p{place}"], kernel_shape=[2, 2], strides=[2, 2]))
        last = f"p{place}"
    nodes += [
        node("AveragePool", [last], ["h"], kernel_shape=[3, 1], strides=[3, 1]), node("Squeeze", ["h", "two"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "w"], ["z"]), node("Softmax", ["z"], ["y"], axis=2),
    ]  # fmt: skip
    stored = {"w": weights(3, 11), "two": np.array([2])}
    path = graph(nodes, [value("x", FLOAT, ["N", 3, "h", "w_"])], [value("y", FLOAT, ["N", "t", 11])], stored, tmp_path / "model.onnx")
    model = built(path)
    assert model.input.shape == (3, 48, 320)
    assert model.input.source["shape"].endswith("the first usual size it runs on")


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (12, 3), (40, 4)])
def test_an_image_is_as_large_as_the_layer_behind_its_convolutions_needs(tmp_path: Path, side: int, channels: int) -> None:
    """The usual network of convolutions, twice halved, exported with every dimension free."""
    wide = 5 * (side // 4) ** 2
    nodes = [
        node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        node("MaxPool", ["c"], ["p"], kernel_shape=[4, 4], strides=[4, 4]), node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w"], ["y"], transB=1),
    ]  # fmt: skip
    stored = {"k": weights(5, channels, 3, 3), "w": weights(7, wide)}
    path = graph(nodes, [value("x", FLOAT, [None] * 4)], [value("y", FLOAT, [None, 7])], stored, tmp_path / "model.onnx")
    model = built(path)
    assert (model.input.shape, model.output.classes) == ((channels, side, side), 7)


def test_an_image_has_as_many_patches_as_there_are_positions(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "k"], ["c"], kernel_shape=[7, 7], strides=[7, 7]), node("Reshape", ["c", "rows"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]), node("Add", ["t", "places"], ["a"]),
        node("ReduceMean", ["a", "one"], ["m"], keepdims=0), node("MatMul", ["m", "w"], ["y"]),
    ]  # fmt: skip
    stored = {"k": weights(6, 3, 7, 7), "rows": np.array([0, 6, -1]), "places": weights(1, 25, 6), "one": np.array([1]), "w": weights(6, 4)}
    path = graph(nodes, [value("x", FLOAT, ["N", 3, "h", "w_"])], [value("y", FLOAT, ["N", 4])], stored, tmp_path / "model.onnx")
    assert built(path).input.shape == (3, 35, 35)


@pytest.mark.parametrize("first", ["MatMul", "Scaler", "Sub", "LinearRegressor", "TreeEnsembleRegressor"])
def test_a_vector_is_as_wide_as_what_takes_it(tmp_path: Path, first: str) -> None:
    """Exports of tables declare [None, None]."""
    domains = ["ai.onnx.ml"]
    made: dict[str, Any] = {
        "MatMul": node("MatMul", ["x", "w"], ["y"]), "Sub": node("Sub", ["x", "mean"], ["z"]),
        "Scaler": node("Scaler", ["x"], ["z"], domain=domains[0], offset=[0.5] * 13, scale=[2.0] * 13),
        "LinearRegressor": node("LinearRegressor", ["x"], ["y"], domain=domains[0], coefficients=[0.5] * 26, intercepts=[0.5] * 2),
        "TreeEnsembleRegressor": node(
            "TreeEnsembleRegressor", ["x"], ["y"], domain=domains[0], nodes_treeids=[0] * 3, nodes_nodeids=[0, 1, 2], n_targets=1,
            nodes_featureids=[12, 0, 0], nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0],
            nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0],
            target_weights=[1.0, 2.0],
        ),
    }  # fmt: skip
    nodes = [made[first]] + ([node("MatMul", ["z", "w"], ["y"])] if "z" in made[first].output else [])
    stored = {"w": weights(13, 3), "mean": weights(13)}
    path = graph(nodes, [value("x", FLOAT, [None, None])], [value("y", FLOAT, None)], stored, tmp_path / "model.onnx", domains=domains)
    model = built(path)
    assert model.input.shape == ((-1,) if first == "TreeEnsembleRegressor" else (13,))  # trees take any width from 13 on
    assert model(torch.zeros(2, 13)).shape[0] == 2


@pytest.mark.parametrize("declared", [["N", "t", None], ["N", None, 9]])
def test_a_sequence_is_as_wide_as_its_recurrence_takes(tmp_path: Path, declared: list[Any]) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("LSTM", ["t", "w", "r"], ["", "h"], hidden_size=4),
        node("Squeeze", ["h", "zero"], ["s"]), node("MatMul", ["s", "v"], ["y"]),
    ]  # fmt: skip
    stored = {"w": weights(1, 16, 9), "r": weights(1, 16, 4), "zero": np.array([0]), "v": weights(4, 3)}
    model = built(graph(nodes, [value("x", FLOAT, declared)], [value("y", FLOAT, ["N", 3])], stored, tmp_path / "model.onnx"))
    assert model.input.shape[-1] == 9
    assert model(torch.rand(2, 1, 32, 9)).shape == (2, 3)


def test_a_sequence_is_as_long_as_the_weights_behind_it_need(tmp_path: Path) -> None:
    nodes = [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    path = graph(nodes, [value("x", FLOAT, ["N", "t", 9])], [value("y", FLOAT, ["N", 3])], {"w": weights(9 * 21, 3)}, tmp_path / "m.onnx")
    assert built(path).input.shape == (1, 21, 9)


def test_a_size_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "flat"], ["f"]), node("MatMul", ["f", "w"], ["y"])]
    stored = {"flat": np.array([-1, 3 * 7 * 11]), "w": weights(3 * 7 * 11, 2)}
    path = graph(nodes, [value("x", FLOAT, ["N", 3, "h", "w_"])], [value("y", FLOAT, ["N", 2])], stored, tmp_path / "model.onnx")
    with pytest.raises(
        Skip, match=r"of shape 3x\?x\?, and on no size that its constants tell or that is usual: .*; say --input shape=\.\.\."
    ):
        built(path)
    assert built(path, input="shape=3x7x11").output.classes == 2


def test_tokens_are_drawn_from_the_vocabulary_however_the_graph_uses_it(tmp_path: Path) -> None:
    """Looked up, made one-hot, or taken as they are: never 0 and 1 alone."""
    hot = graph(
        [node("OneHot", ["x", "depth", "values"], ["h"]), node("ReduceMax", ["h", "one"], ["m"], keepdims=0),
         node("MatMul", ["m", "w"], ["y"])],
        [value("x", INT64, ["N", 5])], [value("y", FLOAT, ["N", 3])],
        {"depth": np.array(257), "values": np.array([0, 1], np.float32), "one": np.array([1]), "w": weights(257, 3)}, tmp_path / "hot.onnx",
    )  # fmt: skip
    plain = graph(
        [node("Cast", ["x"], ["f"], to=FLOAT), node("MatMul", ["f", "w"], ["y"])],
        [value("x", INT64, ["N", 5])], [value("y", FLOAT, ["N", 3])], {"w": weights(5, 3)}, tmp_path / "plain.onnx",
    )  # fmt: skip
    assert built(hot).input.high == 256
    model = built(plain)
    assert (model.input.high, model.input.source["high"]) == (255, "assumed")
