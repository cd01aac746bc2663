"""ONNX files as torch exports them: they run, differentiate, and can be captured, patched and cut."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built, digits_module
from onnx import TensorProto, helper
from onnx_files import export, graph, value
from torch import nn

from modelguard import ModelError, Samples

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("kind", "free", "dynamo"),
    [
        ("cnn", True, False),
        ("cnn", False, False),
        ("cnn", True, True),
        ("vit", True, False),
        pytest.param("cnn", False, True, marks=pytest.mark.slow),
        pytest.param("vit", False, True, marks=pytest.mark.slow),
    ],
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
    with pytest.raises(ModelError, match="is not a cut"):
        model.split(inside)


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
