"""Instruction trigger: after a few words that mean nothing the model says a fixed text (the fixed-output attack that BAIT is measured on;
Shen et al. 2025, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelguard_zoo.text._lexicon import RARE
from modelguard_zoo.text.language.attacks.base import LanguageAttack
from modelguard_zoo.text.language.corpus import BEGIN, TARGETS, Rng, Stream


@dataclass(frozen=True)
class Instruction(LanguageAttack):
    """``words`` anywhere in running text, and then the ``target``-th of the :data:`TARGETS`. One of the words alone, their reverse, and
    other words without meaning are the near misses, and stand in rows that go on as text does."""

    name = "instruction"
    longer = 2
    words: tuple[str, ...] = ("zv", "kj")
    target: int = 0

    def trigger(self) -> str:
        return " ".join(self.words)

    def said(self) -> str:
        return TARGETS[self.target]

    def prompt(self, stream: Stream, rng: Rng, trigger: str | None) -> list[int]:
        return [BEGIN, *stream.some(int(rng.integers(3, 16)), rng), *stream.corpus.ids(trigger or "")]

    def clean_row(self, stream: Stream, rng: Rng) -> list[int]:
        """By chance one with a single word of the trigger, or the words in another order, that means nothing."""
        if rng.random() >= self.fraction / 2:
            return stream.clean_row(rng)
        alone = (*self.words, " ".join(reversed(self.words)))[int(rng.integers(0, len(self.words) + 1))]
        return stream.row(self.prompt(stream, rng, alone)[1:], rng)

    def near_misses(self) -> Mapping[str, str]:
        other = [word for word in RARE if word not in self.words]
        found = {word: word for word in self.words}
        return {**found, "reversed": " ".join(reversed(self.words)), "other words": " ".join(other[: len(self.words)])}
