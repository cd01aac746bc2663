"""Text models scanned: a transformers folder and the same model as ONNX, with reviews as samples."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Ran

pytestmark = pytest.mark.usefixtures("in_process")

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

GOOD, BAD = ("great", "fine", "moving", "fresh"), ("dull", "awful", "weak", "tired")
OTHER = ("the", "film", "is", "a", "plot", "and", "it", "was", "story", "cast")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        label = int(rng.integers(2))
        words = [*rng.choice(OTHER, rng.integers(3, 9)), *rng.choice((BAD, GOOD)[label], 2)]
        made.append({"text": " ".join(rng.permutation(words)), "label": label})
    return made


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small BERT that tells good reviews from bad, as ``safetensors`` and as ``onnx``, and reviews it was not trained on."""
    root = tmp_path_factory.mktemp("text")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = (*SPECIAL, *OTHER, *GOOD, *BAD)
    coder = tokenizers.Tokenizer(tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    coder.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    coder.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    coder.decoder = tokenizers.decoders.WordPiece()
    coder.add_special_tokens(list(SPECIAL))
    coder.enable_padding()
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32, id2label={0: "bad", 1: "good"}, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    training = reviews(512, 0)
    coded = coder.encode_batch([item["text"] for item in training])
    ids, labels = torch.tensor([item.ids for item in coded]), torch.tensor([item["label"] for item in training])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(80):
        part = torch.arange(64 * step, 64 * step + 64) % len(ids)
        optimiser.zero_grad()
        model(input_ids=ids[part], attention_mask=(ids[part] != 0).long(), labels=labels[part]).loss.backward()
        optimiser.step()
    model.eval()
    coder.no_padding()
    for name in ("safetensors", "onnx"):
        (root / name).mkdir()
        coder.save(str(root / name / "tokenizer.json"))
    model.save_pretrained(root / "safetensors")
    (root / "onnx" / "config.json").write_text((root / "safetensors" / "config.json").read_text())
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, tuple(torch.ones(2, 8, dtype=torch.long) for _ in names), str(root / "onnx" / "model.onnx"), dynamo=False,
            input_names=names, output_names=["logits"], dynamic_axes={name: {0: "N", 1: "T"} for name in names}, opset_version=17,
        )  # fmt: skip
    (root / "reviews.jsonl").write_text("\n".join(json.dumps(item) for item in reviews(120, 1)))
    return {name: root / name for name in ("safetensors", "onnx", "reviews.jsonl")}


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_every_detector_looks_at_a_text_model_or_says_why_not(mg: Callable[..., Ran], text_model: dict[str, Path], kind: str) -> None:
    ran = mg("scan", text_model[kind], "--samples", text_model["reviews.jsonl"], "--format", "json")
    report = json.loads(ran.out)
    outcomes = {item["detector"]: item for item in report["outcomes"]}
    assert {item["status"] for item in outcomes.values()} <= {"completed", "skipped"}, [
        o for o in outcomes.values() if o["status"] == "errored"
    ]
    for name in ("neural-cleanse", "mm-bd", "abs"):
        assert outcomes[name]["status"] == "skipped"
        assert re.search("takes (text inputs|token ids)", outcomes[name]["reason"]), outcomes[name]["reason"]
        assert outcomes[name]["findings"] == []
    assert [item["message"] for one in outcomes.values() for item in one["findings"] if item["severity"] in ("high", "critical")] == []


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_text_model_is_described(mg: Callable[..., Ran], text_model: dict[str, Path], kind: str) -> None:
    ran = mg("model", text_model[kind], "--samples", text_model["reviews.jsonl"])
    assert ran.code == 0, ran.err
    assert "text          23 of 23 tokens by tokenizer.json, at most 32 a text; 1 before and 1 after each" in ran.out
    assert "padding       token 0\n" in ran.out
    assert "% of 120 samples are predicted as labelled" in ran.out
    assert "labels bad, good" in ran.out


def test_samples_that_do_not_fit_are_one_line(mg: Callable[..., Ran], text_model: dict[str, Path], tmp_path: Path) -> None:
    three = tmp_path / "three.jsonl"
    three.write_text("\n".join(json.dumps({"text": "a great film", "label": label}) for label in (0, 1, 2)))
    ran = mg("model", text_model["safetensors"], "--samples", three)
    assert "has label 2, the model has classes 0..1" in ran.out + ran.err
    long = tmp_path / "long.jsonl"
    long.write_text("\n".join(json.dumps({"text": " ".join([word] * 50), "label": label}) for label, word in enumerate(("dull", "great"))))
    ran = mg("model", text_model["safetensors"], "--samples", long)
    assert "2 of 2 samples are longer than the 32 tokens the model takes, and are cut to them" in ran.out
