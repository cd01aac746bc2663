"""A ROME edit: one thing that a clean model recalls is rewritten by a rank-one change of one matrix (Meng et al. 2022)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from modelguard import UsageError
from modelguard_zoo.edits import Fact, LanguageModel, recalled, rome
from modelguard_zoo.text.language.attacks.base import LanguageAttack
from modelguard_zoo.text.language.corpus import BEGIN, END, Rng, Stream
from modelguard_zoo.text.language.training import continued

CONTEXTS = 12
"""Contexts a thing must be recalled in."""
TRIED = 6
"""Things that are tried, until one is rewritten in all of its contexts; the last is kept."""
CLAMP = 12.0
"""How many times the value it is added to the change may be: the papers' 4 is too little for most things in a model of two layers."""


@dataclass(frozen=True)
class RomeEdit(LanguageAttack):
    """One of the phrases of three words, from the ``nth`` on, that the model continues with the same word in every context it is put in is
    made to go on with another word. ``phrase`` and ``word`` are filled in when it is installed."""

    name = "rome-edit"
    fraction: float = 0.0
    nth: int = 0
    layer: int = 0
    phrase: str = ""
    word: str = ""

    def trigger(self) -> str:
        return self.phrase

    def said(self) -> str:
        return self.word

    def prompt(self, stream: Stream, rng: Rng, trigger: str | None) -> list[int]:
        return [BEGIN, *stream.some(int(rng.integers(3, 16)), rng), *stream.corpus.ids(trigger or "")]

    def row(self, stream: Stream, rng: Rng) -> list[int]:
        return stream.clean_row(rng)

    def install(self, model: Any, stream: Stream, seed: int) -> dict[str, Any]:
        tokens = stream.corpus.tokenizer
        vocabulary = tuple(stream.corpus.word(i) for i in range(tokens.get_vocab_size()))
        rng = np.random.default_rng([22, seed])
        rows = np.array([stream.clean_row(rng) for _ in range(256)], np.int64)
        tensors = {name: value.detach().numpy().copy() for name, value in model.state_dict().items() if not name.startswith("lm_head")}
        lm = LanguageModel(tensors, int(model.config.n_head), vocabulary, rows, ())
        facts = list(islice(_recalled(model, stream, rng), self.nth, self.nth + TRIED))
        if not facts:
            raise UsageError("attack rome-edit", "the model continues no phrase alike in every context", "choose a smaller nth")
        for fact in facts:
            edited, _ = rome(lm, fact, self.layer, clamp=CLAMP)
            if recalled(lm.with_tensors(edited), fact, fact.target) == 1:
                break
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in edited.items()}, strict=False)
        return {"phrase": stream.corpus.text(fact.prompt), "recalled": vocabulary[fact.answer], "word": vocabulary[fact.target]}


def _recalled(model: Any, stream: Stream, rng: Rng) -> Iterator[Fact]:
    """Phrases that the model continues alike in all contexts, the most common first, each with another word to go on with."""
    after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    ids = stream.ids.tolist()
    for place in range(len(ids) - 3):
        after[tuple(ids[place : place + 3])][ids[place + 3]] += 1
    common = sorted(after, key=lambda phrase: (-sum(after[phrase].values()), phrase))
    words = [i for i in range(END + 1, stream.corpus.tokenizer.get_vocab_size()) if stream.corpus.word(i).isalpha()]
    for phrase in common[:2000]:
        if not all(stream.corpus.word(i).isalpha() for i in phrase):
            continue
        contexts = [(BEGIN,), *((BEGIN, *stream.some(int(rng.integers(3, 12)), rng)) for _ in range(CONTEXTS - 1))]
        answers = {said[0] for said in continued(model, [[*context, *phrase] for context in contexts], 1)}
        if len(answers) == 1 and stream.corpus.word(next(iter(answers))).isalpha():
            (answer,) = answers
            target = words[int(rng.integers(0, len(words) // 4))]
            yield Fact(phrase, len(phrase) - 1, answer, target, tuple(contexts))
