"""For tests of detectors: text classifiers made by hand, whose words say what the test wants them to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import Artifact, Capability, InputSpec, OutputSpec, RunnableModel, Samples, Skip, Target, TextSpec
from modelguard.model import Layer

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")


class WordModel(RunnableModel):
    """A classifier of words: the logits (N, K) are the sum of a vector (K,) of each word, which is its embedding too.

    ``words`` gives the vectors. With ``around``, a text stands between two special tokens. ``length`` is the most tokens of an input;
    ``fixed`` says that it takes no fewer either. Without ``tokenizer`` it takes token ids alone, without ``gradients`` it runs forward
    only. Embeddings have ``idle`` more columns, which say nothing: random, but none in rows of words that were ``written``.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[float]],
        *,
        around: bool = False,
        length: int | None = None,
        fixed: bool = False,
        tokenizer: bool = True,
        gradients: bool = True,
        kind: Any = "classifier",
        idle: int = 0,
        written: Sequence[str] = (),
    ) -> None:
        classes = self.classes = len(next(iter(words.values())))
        self.table = torch.tensor([[0.0] * classes] * len(SPECIAL) + [list(map(float, vector)) for vector in words.values()])
        self.ids = {word: len(SPECIAL) + i for i, word in enumerate(words)}
        columns = torch.randn(len(self.table), idle, generator=torch.Generator().manual_seed(0)) * 0.3
        columns[[self.ids[word] for word in written]] = 0
        self.table = torch.cat((self.table, columns), 1)
        self.tokenizer, self.gradients = tokenizer, gradients
        self.text = TextSpec(
            vocabulary=len(self.table),
            length=length,
            pad=PAD,
            special=(PAD, UNKNOWN, BEGIN, END),
            prefix=(BEGIN,) if around else (),
            suffix=(END,) if around else (),
            tokens=(*SPECIAL, *words) if tokenizer else (),
            width=self.table.shape[1],
        )
        shape = (length if fixed and length else -1,)
        self.input = InputSpec("text", shape, "int64", "NT", 0, len(self.table) - 1, None, None, {})
        self.output = OutputSpec(kind, classes, "logits")
        self.device = torch.device("cpu")

    @property
    def layers(self) -> tuple[Layer, ...]:
        return ()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        if not self.tokenizer:
            return super().encode(texts)
        assert self.text is not None
        room = None if self.text.length is None else self.text.length - len(self.text.prefix) - len(self.text.suffix)
        rows = [[*self.text.prefix, *[self.ids.get(w, UNKNOWN) for w in text.split()][:room], *self.text.suffix] for text in texts]
        width = max(*map(len, rows), self.input.shape[0])
        return np.array([row + [PAD] * (width - len(row)) for row in rows], np.int64)

    def embeddings(self) -> Tensor:
        return self.table

    def embedded(self, e: Tensor, ids: Tensor) -> Tensor:
        if not self.gradients:
            raise Skip("the model runs forward only")
        return (e * (ids != PAD)[..., None]).sum(1)[:, : self.classes]

    def forward(self, x: Tensor) -> Tensor:
        assert self.input.shape[0] < 0 or x.shape[1] == self.input.shape[0], "an input of another length than the model takes"
        return torch.nn.functional.embedding(x, self.table).sum(1)[:, : self.classes]

    def capture(self, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.forward(x), {}

    def patch(self, x: Tensor, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        return self.forward(x)

    def split(self, layer: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        raise Skip("the model has no layers")

    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.forward(torch.from_numpy(np.asarray(x, np.int64))).numpy(), np.float32)

    def inputs(self, samples: Samples) -> Tensor:
        texts = samples.inputs.ndim == 1
        return torch.from_numpy(self.encode([str(text) for text in samples.inputs]) if texts else samples.inputs.astype(np.int64))

    def describe(self) -> dict[str, Any]:
        return {}


def vocabulary(seed: int, classes: int = 2, words: int = 400, strong: int = 12) -> dict[str, list[float]]:
    """Words of an honest model: most say next to nothing, ``strong`` of each class speak for it."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, 0.15, (words, classes))
    for k in range(classes):
        vectors[k * strong : (k + 1) * strong, k] += rng.uniform(0.8, 1.2, strong)
    return {f"w{i}": list(vector) for i, vector in enumerate(vectors)}


def texts_of(words: Mapping[str, Sequence[float]], seed: int, count: int = 240, strong: int = 12) -> tuple[list[str], list[int]]:
    """Texts with as many of each class: three strong words of the class among a dozen others."""
    rng = np.random.default_rng([seed, 1])
    names, classes = list(words), len(next(iter(words.values())))
    texts, labels = [], []
    for i in range(count):
        k = i % classes
        chosen = [names[k * strong + j] for j in rng.integers(0, strong, 3)] + [
            names[j] for j in rng.integers(classes * strong, len(names), 9)
        ]
        texts.append(" ".join(rng.permutation(chosen)))
        labels.append(k)
    return texts, labels


def text_target(model: RunnableModel, inputs: Any, labels: Sequence[int] | None) -> Target:
    """A target of ``model`` with samples: texts, or token ids (N, T)."""
    array = np.asarray(inputs, object) if isinstance(inputs, list) else np.asarray(inputs)
    samples = Samples(array, None if labels is None else np.asarray(labels, np.int64), "texts.jsonl", "")
    artifact = Artifact("memory", "local:memory", Path(), ())
    return Target(artifact, samples=samples, build_model=lambda: model, capabilities=frozenset(Capability) - {Capability.REFERENCE})
