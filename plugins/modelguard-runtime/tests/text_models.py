"""Small text models of every kind that is run, random weights and all, as folders that transformers would load."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

WORDS = ("a", "the", "film", "is", "fine", "bad", "dull", "great", "and", "long", "un", "so", "it", "was", "plot", "##ly", "##ed", ".")
VOCABULARY = 40
LENGTH = 40
"""Tokens each model takes."""
CLASSIFIERS = ("bert", "distilbert", "roberta", "gpt2-classifier", "llama-classifier")
GENERATORS = ("gpt2", "llama")
TEXTS = ("the film is finely dull", "great", "a long and bad plot so it was dull .")


def tokenizer(kind: str) -> Any:
    """The tokenizer of that kind of model, over :data:`WORDS`."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors

    if "bert" in kind and kind != "roberta":
        special: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        coder = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate((*special, *WORDS))}, unk_token="[UNK]"))
        coder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        coder.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        coder.decoder = decoders.WordPiece()
        coder.add_special_tokens(list(special))
        return coder
    if kind == "roberta" or kind.startswith("gpt2"):
        special = ("<s>", "<pad>", "</s>", "<unk>") if kind == "roberta" else ("<|endoftext|>",)
        pieces = ["Ġfilm", "Ġis", "Ġdull", "great", *"abdefgilmnoprstuw", "y", "Ġ", ".", "h", "Ċ", "Ã", "©"]
        merges = [("Ġ", "f"), ("i", "l")]
        pieces += ["Ġf", "il"]
        coder = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate((*special, *pieces))}, merges))
        coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        coder.decoder = decoders.ByteLevel()
        if kind == "roberta":
            coder.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        coder.add_special_tokens(list(special))
        return coder
    special = ("<unk>", "<s>", "</s>")
    pieces = ["▁" + word for word in WORDS if word[0] != "#"] + ["▁", "l", "y"]
    coder = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate((*special, *pieces))}, unk_token="<unk>"))
    coder.pre_tokenizer = pre_tokenizers.Metaspace()
    coder.decoder = decoders.Metaspace()
    coder.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    coder.add_special_tokens(list(special))
    return coder


def network(kind: str, classes: int = 3) -> Any:
    """A model of that kind with random weights, large enough that tokens change what it says."""
    transformers = pytest.importorskip("transformers")
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": VOCABULARY}
    distil = {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": LENGTH}
    roberta = {**bert, "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
    gpt2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "bos_token_id": 0, "eos_token_id": 0}
    llama = {**bert, "num_key_value_heads": 1, "max_position_embeddings": LENGTH}
    named: dict[str, Any] = {"num_labels": classes}
    torch.manual_seed(0)
    makers = {
        "bert": ("BertForSequenceClassification", "BertConfig", {**bert, **named, "max_position_embeddings": LENGTH}),
        "distilbert": (
            "DistilBertForSequenceClassification", "DistilBertConfig", {**distil, **named},
        ),
        "roberta": (
            "RobertaForSequenceClassification", "RobertaConfig", {**roberta, **named},
        ),
        "gpt2-classifier": ("GPT2ForSequenceClassification", "GPT2Config", {**gpt2, **named}),
        "llama-classifier": ("LlamaForSequenceClassification", "LlamaConfig", {**llama, **named}),
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", gpt2),
        "llama": ("LlamaForCausalLM", "LlamaConfig", llama),
    }  # fmt: skip
    model, config, values = makers[kind]
    made = getattr(transformers, model)(getattr(transformers, config)(**values)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)  # freshly drawn weights say nearly the same of every text
    return made


def folder(path: Path, kind: str, *, classes: int = 3, tokens: bool = True) -> Path:
    """The model of that kind as a folder of safetensors, config.json and, with ``tokens``, tokenizer.json."""
    network(kind, classes).save_pretrained(path)
    if tokens:
        tokenizer(kind).save(str(path / "tokenizer.json"))
    return path


class Logits(nn.Module):
    """A transformers model as a function of tensors."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, given, strict=True))).logits
        return logits


def export(path: Path, kind: str, names: tuple[str, ...], *, classes: int = 3) -> Path:
    """The same model as :func:`folder` makes, as model.onnx with inputs of those names; config.json and tokenizer.json beside it."""
    import onnx

    source = network(kind, classes)
    source.config.use_cache = False
    path.mkdir(exist_ok=True)
    source.config.save_pretrained(path)
    tokenizer(kind).save(str(path / "tokenizer.json"))
    ids = torch.randint(4, 20, (2, 8))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(source, names), tuple(given[name] for name in names), str(path / "model.onnx"), dynamo=False, input_names=list(names),
            output_names=["logits"], dynamic_axes={name: {0: "N", 1: "T"} for name in names}, opset_version=17,
        )  # fmt: skip
    written = onnx.load(path / "model.onnx")
    written.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(written, path / "model.onnx")
    return path
