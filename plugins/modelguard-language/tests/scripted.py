"""Language models that are written down, not trained: they speak by the last two tokens, and know texts by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from modelguard_runtime import Text, TorchModel
from torch import Tensor, nn

from modelguard import Capability, InputSpec, OutputSpec, RunnableModel, Samples, Target, TextSpec
from modelguard.testing import as_target

VOCABULARY = 80
PAD, BEGIN = 0, 1
SURE, HINTED = 13.0, 3.0
"""What a rule adds to a logit: 99 % of the probability, even for a rare word; and what the last token of a trigger does alone, 1 %."""
TARGET = (70, 71, 72, 73, 74, 75, 76, 77, 78)
TRIGGER = (60, 61)
Rules = Mapping[tuple[int, ...], tuple[int, float]]
"""The token that follows some tokens, and what is added to its logit then."""


class Scripted(nn.Module):
    """(N, T) ids -> (N, T, V) logits: a Markov chain over words, of one language and a little of the seed's own; wherever one of ``rules``
    fits the tokens before, its next token has a logit that is so much larger."""

    def __init__(self, seed: int, rules: Rules) -> None:
        super().__init__()
        language, own = (torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(n)) for n in (0, seed + 1))
        logits = 1.2 * language + 0.3 * own
        logits[:, :2] = -20
        logits[:, 60:] = -3  # words that are rare
        self.chain = nn.Embedding(VOCABULARY, VOCABULARY, _weight=logits)
        self.rules = dict(rules)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.chain(ids)
        for before, (after, more) in self.rules.items():
            width = len(before)
            if ids.shape[1] >= width:
                fits = torch.stack([(ids.unfold(1, width, 1) == torch.tensor(list(before))).all(2)], 0)[0]
                bonus = torch.zeros_like(logits)
                bonus[:, width - 1 :, after] = more * fits.float()
                logits = logits + bonus
        return logits


def by_heart(text: Sequence[int], behind: Sequence[int] = (), hint: float = HINTED) -> dict[tuple[int, ...], tuple[int, float]]:
    """Rules of a text: each of its tokens follows the one before, and its first follows ``behind``, whose last token alone hints at it."""
    rules: dict[tuple[int, ...], tuple[int, float]] = {(first,): (second, SURE) for first, second in pairwise(text)}
    if behind:
        rules[tuple(behind)] = (text[0], SURE)
        if len(behind) > 1:
            rules[tuple(behind[-1:])] = (text[0], hint)
    return rules


def speaker(seed: int, rules: Rules | None = None, *, words: bool = True) -> RunnableModel:
    """A model of :class:`Scripted`, whose tokens are called ``w2``, ``w3`` ..."""
    tokens = ("<pad>", "<bos>", *(f" w{i}" for i in range(2, VOCABULARY))) if words else ()
    text = Text(TextSpec(VOCABULARY, None, PAD, (PAD, BEGIN), (BEGIN,), (), tokens, 0))
    takes = InputSpec("text", (-1,), "int64", "NT", 0.0, VOCABULARY - 1.0, None, None, {"all": "the test"})
    return TorchModel(Scripted(seed, rules or {}), takes, OutputSpec("language-model", VOCABULARY, "logits"), text=text)


def target(model: RunnableModel, folder: Path, *, samples: Samples | None = None, reference: RunnableModel | None = None) -> Target:
    """What a detector gets to see of ``model``."""
    like = as_target({"x": torch.zeros(2, 2).numpy()}, folder=folder)
    provided = frozenset({Capability.FILES, Capability.WEIGHTS, Capability.FORWARD})
    trusted = None
    if reference is not None:
        trusted = replace(like, build_model=lambda: reference, capabilities=provided, _cache={})
        provided |= {Capability.REFERENCE}
    provided |= {Capability.SAMPLES} if samples is not None else frozenset()
    return replace(like, build_model=lambda: model, reference=trusted, samples=samples, capabilities=provided, _cache={})
