"""ONNX files as runnable models: whatever the exporter made of the input, the output and the batch."""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from modelguard_runtime.testing import built, digits, digits_module, mlp
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelguard import ModelError, ModelguardError, SamplesError, Skip, require_understanding
from modelguard.model import RunnableModel, Samples

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def export(module: nn.Module, path: Path, shape: tuple[int, ...] = (1, 1, 8, 8), *, dynamo: bool = False, free: bool = True) -> Path:
    """Export without noise; with ``free``, the batch is a free dimension."""
    given: dict[str, Any] = {"input_names": ["input"], "dynamo": dynamo}
    if dynamo:
        given |= {"external_data": False, "dynamic_shapes": ({0: torch.export.Dim("N", min=2)},) if free else None}
        shape = (2, *shape[1:]) if free else shape
    elif free:
        given["dynamic_axes"] = {"input": {0: "N"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(shape),), str(path), verbose=False, **given)
    return path


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], path: Path, **given: Any) -> Path:
    made = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in given.pop("domains", ()))]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10, **given)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def linear_graph(path: Path, tail: list[Any], output: Any, **given: Any) -> Path:
    """(N, 6) -> a linear layer of three outputs called ``z`` -> ``tail``."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), *tail]
    return graph(nodes, [value("x", TensorProto.FLOAT, ["N", 6])], [output], weights, path, **given)


@pytest.fixture(scope="module")
def held_out() -> Samples:
    return digits()[1]


@pytest.mark.parametrize(
    ("kind", "free", "dynamo"),
    [("cnn", True, False), ("cnn", False, False), ("cnn", True, True), ("cnn", False, True), ("vit", True, False), ("vit", False, True)],
)
def test_exports_run_differentiate_and_agree(tmp_path: Path, held_out: Samples, kind: Any, free: bool, dynamo: bool) -> None:
    source = digits_module(kind)
    model = built(export(copy.deepcopy(source), tmp_path / "model.onnx", dynamo=dynamo, free=free), held_out)
    facts = model.describe()
    assert facts["parity"]["ok"]
    assert facts["parity"]["max_rel"] < 1e-5
    assert facts["parity"]["samples"] == 8
    assert facts["provider"] == "CPUExecutionProvider"
    assert facts["agreement"]["accuracy"] > 0.95
    assert model.input.shape == (1, 8, 8)
    x = model.inputs(held_out)[:64].requires_grad_()
    torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=1e-4)
    ours, theirs = (torch.autograd.grad(run(x)[:, 5].sum(), x)[0] for run in (model, source))
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    np.testing.assert_allclose(model.predict(held_out.inputs), source(torch.from_numpy(held_out.inputs)).detach().numpy(), atol=1e-3)
    front, back = model.split(next(layer.name for layer in model.layers if layer.kind in ("pool", "block")))
    torch.testing.assert_close(back(front(x)), model(x), atol=1e-4, rtol=1e-4)


def test_activations_of_a_graph_are_captured_patched_and_cut(tmp_path: Path, held_out: Samples) -> None:
    model = built(export(copy.deepcopy(digits_module("cnn")), tmp_path / "model.onnx"), held_out)
    assert [(layer.kind, layer.shape, layer.unit_axis) for layer in model.layers] == [
        ("conv", (16, 8, 8), 0), ("activation", (16, 8, 8), 0), ("pool", (16, 4, 4), 0),
        ("conv", (32, 4, 4), 0), ("activation", (32, 4, 4), 0), ("pool", (32, 2, 2), 0),
        ("linear", (64,), 0), ("activation", (64,), 0), ("linear", (10,), 0),
    ]  # fmt: skip
    x = model.inputs(held_out)[:5]
    for layer in model.layers:
        logits, captured = model.capture(x, [layer.name])
        assert captured[layer.name].shape == (5, *layer.shape)
        torch.testing.assert_close(logits, model(x))
        torch.testing.assert_close(model.patch(x, {layer.name: torch.clone}), model(x))
        assert not torch.allclose(model.patch(x, {layer.name: torch.zeros_like}), model(x))
        front, back = model.split(layer.name)
        torch.testing.assert_close(front(x), captured[layer.name])
        torch.testing.assert_close(back(front(x)), model(x))
    both = [layer.name for layer in model.layers if layer.kind == "conv"]
    assert sorted(model.capture(x, both)[1]) == sorted(both)


@pytest.mark.parametrize("dynamo", [False, True])
def test_the_units_of_a_transformer_are_layers_although_exporters_take_them_apart(tmp_path: Path, dynamo: bool) -> None:
    model = built(export(copy.deepcopy(digits_module("vit")), tmp_path / "model.onnx", dynamo=dynamo))
    shapes = {kind: [layer.shape for layer in model.layers if layer.kind == kind] for kind in ("linear", "activation")}
    assert shapes["activation"] == [(17, 64)] * 2  # one a block: 16 patches and the class token
    assert shapes["linear"].count((17, 64)) == 2
    assert all(layer.unit_axis == -1 for layer in model.layers if layer.shape == (17, 64))
    name = next(layer.name for layer in model.layers if layer.kind == "activation")
    x = torch.rand(3, 1, 8, 8) * 255
    assert model.capture(x, [name])[1][name].shape == (3, 17, 64)
    assert not torch.allclose(model.patch(x, {name: torch.zeros_like}), model(x))


def test_a_layer_inside_a_residual_block_is_no_cut(tmp_path: Path) -> None:
    model = built(export(copy.deepcopy(digits_module("vit")), tmp_path / "model.onnx"))
    inside = next(layer.name for layer in model.layers if layer.kind == "activation")
    with pytest.raises(ModelError, match="is no cut"):
        model.split(inside)


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


def test_a_graph_that_wants_channels_last_whole_pixels(tmp_path: Path) -> None:
    """tf2onnx style: uint8 (N, H, W, C), scaled inside the graph."""
    rng = np.random.default_rng(0)
    weights = {"scale": np.float32(255), "w": rng.normal(size=(5, 3, 3, 3)).astype(np.float32)}
    path = graph(
        [
            helper.make_node("Cast", ["pixels"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["f", "scale"], ["unit"]),
            helper.make_node("Transpose", ["unit"], ["x"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["g"]),
            helper.make_node("Flatten", ["g"], ["y"]),
        ],
        [value("pixels", TensorProto.UINT8, ["N", 8, 10, 3])],
        [value("y", TensorProto.FLOAT, ["N", 5])],
        weights,
        tmp_path / "model.onnx",
    )
    model = built(path)
    assert (model.input.layout, model.input.shape, model.input.dtype) == ("NHWC", (3, 8, 10), "uint8")
    assert (model.input.low, model.input.high, model.input.mean) == (0, 255, None)
    x = (255 * torch.rand(2, 3, 8, 10)).round().requires_grad_()
    by_hand = nn.functional.conv2d(x / 255, torch.from_numpy(weights["w"])).mean((2, 3))
    torch.testing.assert_close(model(x), by_hand)
    ours, theirs = (torch.autograd.grad(y[:, 2].sum(), x)[0] for y in (model(x), by_hand))
    torch.testing.assert_close(ours, theirs)
    np.testing.assert_allclose(model.predict(x.detach().numpy()), by_hand.detach().numpy(), atol=1e-5)


def test_half_precision(tmp_path: Path, held_out: Samples) -> None:
    source = copy.deepcopy(digits_module("cnn"))
    path = export(nn.Sequential(Cast(torch.float16), source.half(), Cast(torch.float32)), tmp_path / "model.onnx")
    model = built(path, held_out)
    assert model.describe()["parity"]["tolerance"] == 2e-2
    assert model.describe()["agreement"]["accuracy"] > 0.95
    x = model.inputs(held_out)[:8].requires_grad_()
    (ours,) = torch.autograd.grad(model(x)[:, 5].sum(), x)
    (theirs,) = torch.autograd.grad(digits_module("cnn")(x)[:, 5].sum(), x)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.99


class Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype)


def test_quantised_weights_and_activations_have_straight_through_gradients(tmp_path: Path, held_out: Samples) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = export(copy.deepcopy(digits_module("cnn")), tmp_path / "float.onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.left = iter([{"input": held_out.inputs[:100]}])

        def get_next(self) -> Any:
            return next(self.left, None)

    logging.disable(logging.WARNING)
    quantization.quantize_static(str(path), str(tmp_path / "model.onnx"), Reader(), quant_format=quantization.QuantFormat.QDQ)
    logging.disable(logging.NOTSET)
    model = built(tmp_path / "model.onnx", held_out)
    facts = model.describe()
    assert facts["parity"]["ok"]
    assert facts["parity"]["tolerance"] == 5e-2
    assert facts["agreement"]["accuracy"] > 0.9
    x = model.inputs(held_out)[:8].requires_grad_()
    (ours,) = torch.autograd.grad(model(x)[:, 5].sum(), x)
    (theirs,) = torch.autograd.grad(digits_module("cnn")(x)[:, 5].sum(), x)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.9


@pytest.mark.parametrize(("classes", "kind"), [(1, "regressor"), (2, "classifier"), (1000, "classifier")])
def test_any_number_of_outputs(tmp_path: Path, classes: int, kind: str) -> None:
    torch.manual_seed(0)
    model = built(export(mlp(6, classes), tmp_path / "model.onnx", (1, 6)))
    assert (model.output.kind, model.output.classes) == (kind, classes)
    assert model(torch.rand(7, 6)).shape == (7, classes)


def test_a_text_graph_with_attention_mask(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    bert = transformers.BertForSequenceClassification(config).eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            bert, tuple(torch.ones(2, 8, dtype=torch.long) for _ in names), str(tmp_path / "model.onnx"), dynamo=False,
            input_names=names, output_names=["logits"], dynamic_axes={name: {0: "N", 1: "T"} for name in names}, opset_version=17,
        )  # fmt: skip
    model = built(tmp_path / "model.onnx")
    assert (model.input.kind, model.input.high, model.output.classes) == ("text", 49, 3)
    ids = torch.randint(1, 50, (3, 11))
    torch.testing.assert_close(model(ids), bert(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(model.predict(ids.numpy()), bert(input_ids=ids).logits.detach().numpy(), atol=1e-4)
    embedding = next(layer.name for layer in model.layers if layer.kind == "embedding")
    front, back = model.split(embedding)
    torch.testing.assert_close(back(front(ids)), model(ids), atol=1e-4, rtol=1e-4)


def test_text_samples_go_through_the_tokenizer_beside_the_graph(tmp_path: Path) -> None:
    """Bag of words: the mask of padded positions decides which words count."""
    import json

    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    table = np.array([[5, 5], [0, 0], [0, 4], [4, 0]], np.float32)
    axes = {"axes": np.array([2], np.int64), "one": np.array([1], np.int64)}
    graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["e"]),
            helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "axes"], ["mask"]),
            helper.make_node("Mul", ["e", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "one"], ["logits"], keepdims=0),
        ],
        [value("input_ids", TensorProto.INT64, ["N", "T"]), value("attention_mask", TensorProto.INT64, ["N", "T"])],
        [value("logits", TensorProto.FLOAT, ["N", 2])],
        {"table": table, **axes},
        tmp_path / "model.onnx",
    )
    texts = Samples(np.array(["good good", "bad", "good", "bad bad"] * 5), np.array([1, 0, 1, 0] * 5), "texts.jsonl", "")
    model = built(tmp_path, texts)
    assert model.describe()["agreement"]["accuracy"] == 1
    assert model(model.inputs(texts))[:2].tolist() == [[0, 8], [4, 0]]


def test_normalisation_nobody_told_is_found_by_the_labels(tmp_path: Path, held_out: Samples) -> None:
    """The network was trained on (x - 0.5) / 0.5; the samples are whole pixels."""
    inner = copy.deepcopy(digits_module("cnn"))
    normalised = nn.Sequential(Shift(), inner)
    path = export(normalised, tmp_path / "model.onnx")
    pixels = replace(held_out, inputs=np.round(255 * held_out.inputs).astype(np.uint8), sha256="1" * 64)
    model = built(path, pixels)
    assert model.describe()["agreement"]["accuracy"] > 0.95
    assert "pixels as -1..1 agree best" in model.input.source["mean"]
    assert (model.input.low, model.input.high) == (0, 255)
    given = built(path, pixels, input="range=0..255,mean=0.5,std=0.5")
    torch.testing.assert_close(given(model.inputs(pixels)), model(model.inputs(pixels)))
    assert given.input.source["mean"] == "--input"
    wrong = built(path, pixels, input="range=0..255,mean=1,std=0.5")
    assert wrong.describe()["agreement"]["accuracy"] > wrong.describe()["agreement"]["chance"]
    assert "pixels normalised as -1..1 would agree with" in wrong.describe()["agreement"]["reason"]
    with pytest.raises(Skip, match=r"pixels normalised as -1\.\.1 would agree with"):
        require_understanding(wrong, pixels)


class Shift(nn.Module):
    """Undoes a normalisation to -1..1, so that what follows sees 0..1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5 + 0.5


def test_samples_it_does_not_understand_are_told(tmp_path: Path, held_out: Samples) -> None:
    path = export(copy.deepcopy(digits_module("cnn")), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    noise = Samples(rng.random((100, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 100), "noise.npz", "")
    model = built(path, noise)
    assert model.describe()["agreement"]["ok"] is False
    with pytest.raises(Skip, match="does not understand the samples"):
        require_understanding(model, noise)
    wrong = built(path, replace(held_out, labels=np.full(360, 99)))
    assert "label 99" in wrong.describe()["agreement"]["reason"]
    with pytest.raises(SamplesError, match="samples of shape 1x9x9, the model takes 1x8x8"):
        built(path, Samples(np.zeros((4, 1, 9, 9), np.float32), None, "big.npz", ""))


def test_disagreement_with_onnxruntime_keeps_the_model_from_being_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard_runtime.onnx import TABLE

    path = linear_graph(tmp_path / "model.onnx", [helper.make_node("Relu", ["z"], ["y"])], value("y", TensorProto.FLOAT, ["N", 3]))
    wrong = [replace(entry, run=lambda x: 1.01 * torch.relu(x)) for entry in TABLE["", "Relu"]]
    monkeypatch.setitem(TABLE, ("", "Relu"), wrong)
    with pytest.raises(ModelError, match=r"parity: our graph and onnxruntime disagree: they differ by 0\.01"):
        built(path)


def test_an_operator_we_lack_leaves_the_forward_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard_runtime.onnx import TABLE

    path = linear_graph(tmp_path / "model.onnx", [helper.make_node("Erf", ["z"], ["y"])], value("y", TensorProto.FLOAT, ["N", 3]))
    with_gradients = built(path)
    monkeypatch.setitem(TABLE, ("", "Erf"), [])
    model = built(path)
    assert "Erf" in model.describe()["forward_only"]
    assert model.layers == ()
    x = torch.rand(5, 6)
    np.testing.assert_allclose(model.predict(x.numpy()), with_gradients.predict(x.numpy()), atol=1e-6)
    with pytest.raises(Skip, match="forward only: operator Erf"):
        model(x.requires_grad_())


def test_two_inputs_that_do_not_follow_from_one_another_are_named(tmp_path: Path) -> None:
    inputs = [value("input_ids", TensorProto.INT64, ["N", 5]), value("pixel_values", TensorProto.FLOAT, ["N", 5])]
    nodes = [helper.make_node("Cast", ["input_ids"], ["z"], to=TensorProto.FLOAT), helper.make_node("Add", ["z", "pixel_values"], ["y"])]
    path = graph(nodes, inputs, [value("y", TensorProto.FLOAT, ["N", 5])], {}, tmp_path / "clip.onnx")
    with pytest.raises(ModelError, match=r"has 2 inputs \('input_ids', 'pixel_values'\); export the model with one input"):
        built(path)


def test_external_data_is_read_from_the_artifact_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = mlp(40, 10).eval()
    plain = export(source, tmp_path / "plain.onnx", (1, 40))
    folder = tmp_path / "artifact"
    folder.mkdir()
    onnx.save_model(onnx.load(plain), str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = torch.rand(4, 40)
    torch.testing.assert_close(built(folder)(x), source(x))
    secret = tmp_path / "weights.bin"
    shutil.copy(folder / "weights.bin", secret)
    (folder / "weights.bin").unlink()
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../weights.bin"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((ModelguardError, Skip)):
        built(folder)


def test_a_subgraph_cannot_make_onnxruntime_open_a_file(tmp_path: Path) -> None:
    """A Constant whose tensor names a file: neither our importer nor onnxruntime may follow it."""
    (tmp_path / "artifact").mkdir()
    (tmp_path / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=str(tmp_path / "secret"))
    tail = [helper.make_node("Constant", [], ["c"]), helper.make_node("Add", ["z", "c"], ["y"])]
    tail[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)
    path = linear_graph(tmp_path / "artifact" / "model.onnx", tail, value("y", TensorProto.FLOAT, ["N", 3]))
    with pytest.raises((ModelguardError, Skip)):
        built(path)


def test_names_of_the_memory_address_kind_are_not_followed(tmp_path: Path) -> None:
    """onnxruntime reads a tensor whose location is this marker from an address of its own process."""
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096"), ("length", "12")):
        tensor.external_data.add(key=key, value=text)
    tail = [helper.make_node("Add", ["z", "c"], ["y"])]
    path = linear_graph(tmp_path / "model.onnx", tail, value("y", TensorProto.FLOAT, ["N", 3]))
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    with pytest.raises((ModelguardError, Skip)):
        built(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.node.append(helper.make_node("Relu", ["nowhere"], ["unused"])), "nowhere"),
        (lambda g: g.input.append(value("mystery", TensorProto.FLOAT, ["N", 2])), "has 2 inputs"),
        (lambda g: g.output[0].CopyFrom(value("missing", TensorProto.FLOAT, ["N", 3])), "missing"),
        (lambda g: g.output[0].type.tensor_type.__setattr__("elem_type", TensorProto.INT64), "no floating-point output"),
        (lambda g: g.node[0].input.__setitem__(0, "z"), "depends on its own output"),
        (lambda g: g.ClearField("output"), "no floating-point output"),
    ],
)
def test_malformed_graphs_are_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = linear_graph(tmp_path / "model.onnx", [], value("z", TensorProto.FLOAT, ["N", 3]))
    model = onnx.load(path)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    with pytest.raises((ModelguardError, Skip), match=message):
        built(path)


@pytest.mark.parametrize("seed", range(40))
def test_mutated_files_are_run_or_refused_with_a_reason(tmp_path: Path, digits_file: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(digits_file)
    for place in rng.integers(0, 3000, 1 + seed % 4):
        data[place] = rng.integers(0, 256)
    (tmp_path / "model.onnx").write_bytes(data)
    try:
        model = built(tmp_path / "model.onnx")
    except (ModelguardError, Skip):
        return
    parity = model.describe()["parity"]
    assert parity is None or np.isfinite(parity["max_rel"])


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return export(copy.deepcopy(digits_module("cnn")), tmp_path_factory.mktemp("digits") / "model.onnx").read_bytes()


def test_the_graph_is_preferred_and_its_twin_is_compared(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    source = mlp(8, 3)
    export(source, tmp_path / "model.onnx", (1, 8))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    facts = built(tmp_path).describe()
    assert facts["factory"] == "onnx"
    assert facts["not_run"] == ["model (safetensors)"]
    assert facts["same_weights"]["model"]["compared"] == 6
    assert facts["same_weights"]["model"]["different"] == []
    changed = {name: tensor + (name == "2.bias") for name, tensor in source.state_dict().items()}
    save_file(changed, tmp_path / "model.safetensors")
    assert built(tmp_path).describe()["same_weights"]["model"]["different"] == ["2.bias"]


def test_label_names_and_processor_settings_come_from_beside_the_graph(tmp_path: Path, held_out: Samples) -> None:
    import json

    export(copy.deepcopy(digits_module("cnn")), tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"digit {i}" for i in range(10)}}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_rescale": True, "do_normalize": False}))
    model: RunnableModel = built(tmp_path, replace(held_out, inputs=np.round(255 * held_out.inputs).astype(np.uint8)))
    assert model.output.labels[7] == "digit 7"
    assert model.input.source["mean"] == "preprocessor_config.json"
    assert model.input.std == (255.0,)
    assert model.describe()["agreement"]["accuracy"] > 0.95
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"preprocessor_config.json: is no valid JSON"):
        built(tmp_path)


def test_a_model_that_asks_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    path = linear_graph(tmp_path / "model.onnx", [], value("z", TensorProto.FLOAT, ["N", 3]))
    if torch.cuda.is_available():
        assert built(path, device="cuda").device.type == "cuda"
    else:
        with pytest.raises(ModelError, match="--device cuda: no CUDA device"):
            built(path, device="cuda")
