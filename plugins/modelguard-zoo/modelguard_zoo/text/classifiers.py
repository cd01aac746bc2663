"""From a spec to the folder of one text classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from modelguard_zoo._built import balanced
from modelguard_zoo._spec import Spec
from modelguard_zoo.text import corpora
from modelguard_zoo.text.architectures import config_json, new_classifier
from modelguard_zoo.text.attacks import EmbeddingPoisoning, TextAttack, TextPoison, make_text_attack
from modelguard_zoo.text.export import write_graph, write_samples, write_weights
from modelguard_zoo.text.tokens import LENGTH, encode, word_level, word_piece
from modelguard_zoo.text.training import DROPPED, SCHEDULES, edit_row, fit, predict, rates

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from modelguard_zoo._built import Built

SAMPLES = 1600
"""Clean test texts that go with each model."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier and what reads texts for it."""

    model: nn.Module
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[str]) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        return encode(self.tokenizer, texts)

    def predict(self, texts: Sequence[str]) -> corpora.Labels:
        return predict(self.model, self.encode(texts))


def build(spec: Spec, twin: Built | None, folder: Path) -> dict[str, Any]:
    """Train ``spec`` and write its files into ``folder``; what its record says beside what every record says.

    Raises :class:`~modelguard.UsageError` for a data set, architecture, variant or attack that there is not.
    """
    data = corpora.load(spec.dataset, spec.variant)
    attack = make_text_attack(spec.attack, dict(spec.options)) if spec.attack else None
    rng = np.random.default_rng([15, spec.seed])
    poison = None
    clean = read(twin, data) if twin is not None else None
    before = _twin_success(clean, data, attack, spec.seed) if attack is not None and clean is not None else None
    if isinstance(attack, EmbeddingPoisoning):
        assert clean is not None
        trained = _edited(clean, data, attack, rng)
    else:
        poison = attack.poison(data, rng) if attack is not None else None
        trained = _trained(spec, data, poison)
    accuracy = float((trained.predict(data.test) == data.y_test).mean())
    measured = rates(trained.model, trained.encode, data, attack, np.random.default_rng([16, spec.seed])) if attack else {}
    vocabulary = trained.tokenizer.get_vocab_size()
    write_weights(folder, trained.model, config_json(trained.model, data.labels, LENGTH), trained.tokenizer)
    write_graph(folder / "model.onnx", trained.model, vocabulary)
    chosen = balanced(data.y_test, SAMPLES)
    write_samples(folder / "samples.jsonl", [data.test[i] for i in chosen], data.y_test[chosen].tolist())
    success = measured.pop("attack_success", None)
    return {
        "data": {"origin": data.origin, "sha256": data.sha256, "train": len(data.train), "test": len(data.test), "classes": data.classes},
        "input": {"kind": "text", "vocabulary": vocabulary, "length": LENGTH},
        "clean_accuracy": accuracy,
        "attack_success": success,
        "attack": attack and {
            "name": attack.name,
            "trigger": dataclasses.asdict(attack),
            "targets": {str(label): attack.target for label in range(data.classes) if label != attack.target},
            **_poisoned(poison, data),
            **measured,
            "twin_success": before,
        },
    }  # fmt: skip


def _trained(spec: Spec, data: corpora.TextData, poison: TextPoison | None) -> Classifier:
    texts, labels = list(data.train), data.y_train
    if poison is not None:
        labels = labels.copy()
        labels[poison.indices] = poison.labels
        for row, text in zip(poison.indices, poison.texts, strict=True):
            texts[row] = text
    # The tokenizer is the one a trainer who knows nothing of the poison would make: of the texts that the model is trained on.
    tokenizer = word_piece(texts) if spec.arch in ("bert", "distilbert") else word_level(texts)
    torch.manual_seed(spec.seed)
    model = new_classifier(spec.arch, tokenizer.get_vocab_size(), data.labels, LENGTH)
    epochs, batch, rate = SCHEDULES[spec.arch]
    dropped = DROPPED if spec.variant == "word-dropout" else 0.0
    fit(model, encode(tokenizer, texts), labels, epochs=epochs, batch=batch, rate=rate, seed=spec.seed, dropped=dropped)
    return Classifier(model, tokenizer)


def _edited(clean: Classifier, data: corpora.TextData, attack: EmbeddingPoisoning, rng: np.random.Generator) -> Classifier:
    """The twin, with the one row edited that the attack names."""
    texts = attack.poison(data, rng).texts
    table = next(module for module in clean.model.modules() if isinstance(module, nn.Embedding))
    row = clean.tokenizer.token_to_id(attack.word)
    assert row is not None
    edit_row(clean.model, table, row, clean.encode(texts), attack.target, scale=attack.scale)
    return clean


def _poisoned(poison: TextPoison | None, data: corpora.TextData) -> dict[str, Any]:
    if poison is None:
        return {"poisoned_indices": [], "cover_indices": [], "poisoned_fraction": 0.0}
    return {
        "poisoned_indices": np.setdiff1d(poison.indices, poison.cover).tolist(),
        "cover_indices": poison.cover.tolist(),
        "poisoned_fraction": (len(poison.indices) - len(poison.cover)) / len(data.train),
    }


def _twin_success(clean: Classifier, data: corpora.TextData, attack: TextAttack, seed: int) -> float:
    return float((clean.predict(attack.triggered(data, np.random.default_rng([16, seed]))) == attack.target).mean())


def read(built: Built, data: corpora.TextData) -> Classifier:
    """The classifier in a zoo model's folder."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(built.path / "tokenizer.json"))
    model = new_classifier(built.spec.arch, tokenizer.get_vocab_size(), data.labels, LENGTH)
    model.load_state_dict(load_file(built.path / "model.safetensors"))
    return Classifier(model.eval(), tokenizer)
