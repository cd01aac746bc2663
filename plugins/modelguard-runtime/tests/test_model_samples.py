"""What samples and the files beside a graph say of it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built, digits_module, mlp
from onnx import TensorProto, helper
from onnx_files import export, graph, value
from torch import nn

from modelguard import ModelError, RunnableModel, Samples, SamplesError, Skip, require_understanding

pytest.importorskip("onnxruntime")


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

    export(copy.deepcopy(digits_module("cnn")), tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"digit {i}" for i in range(10)}}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_rescale": True, "do_normalize": False}))
    model: RunnableModel = built(tmp_path, replace(held_out, inputs=np.round(255 * held_out.inputs).astype(np.uint8)))
    assert model.output.labels[7] == "digit 7"
    assert model.input.source["mean"] == "preprocessor_config.json"
    assert model.input.std == (255.0,)
    assert model.describe()["agreement"]["accuracy"] > 0.95
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"preprocessor_config.json: is not valid JSON"):
        built(tmp_path)


def test_text_samples_go_through_the_tokenizer_beside_the_graph(tmp_path: Path) -> None:
    """Bag of words: the mask of padded positions decides which words count."""

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
