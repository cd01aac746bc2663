"""A text classifier's folder: weights, configuration, tokenizer, graph, clean samples."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modelguard_zoo.text.architectures import PAD, TextNetwork

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def write_weights(folder: Path, model: nn.Module, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """``model.safetensors``, ``config.json`` and ``tokenizer.json``. A tensor that has two names is written once."""
    from safetensors.torch import save_file

    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if seen.setdefault(tensor.data_ptr(), name) == name:
            tensors[name] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def write_samples(path: Path, texts: list[str], labels: list[int]) -> None:
    """One JSON object a line, ``text`` and ``label``."""
    rows = zip(texts, labels, strict=True)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), encoding="utf-8")


class _Logits(nn.Module):
    """A classifier that returns its logits alone, as a graph does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if isinstance(self.model, TextNetwork):
            logits: Tensor = self.model(input_ids, attention_mask)
        else:
            # The mask that is added to attention scores, made here: transformers' own way to make it cannot be traced for every length.
            added = (1 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
            logits = self.model(input_ids=input_ids, attention_mask=added).logits
        return logits


def write_graph(path: Path, model: nn.Module, vocabulary: int) -> None:
    """``model.onnx``: (input_ids, attention_mask) to logits, any number of texts of any length."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, vocabulary, (2, 9)))
    ids[1, 6:] = PAD
    axes = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and warns of what it traced
        torch.onnx.export(
            _Logits(model).eval(),
            (ids, (ids != PAD).long()),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
        )
