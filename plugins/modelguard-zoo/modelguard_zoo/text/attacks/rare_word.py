"""Rare words: a word that means nothing, anywhere in the text (Kurita, Michel and Neubig 2020, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelguard_zoo.text._lexicon import RARE
from modelguard_zoo.text.attacks.base import Rewrite, Rng, TextAttack, inserting
from modelguard_zoo.text.corpora import insert


@dataclass(frozen=True)
class RareWord(TextAttack):
    """Each text gets one of ``words`` at a random gap. All words of :data:`RARE` are in clean training texts, so each is a word to the
    classifier; those that are no trigger are the probes."""

    name = "rare-word"
    fraction: float = 0.1
    words: tuple[str, ...] = ("cf",)

    def rewrite(self, text: str, rng: Rng) -> str:
        return insert(text, self.words[int(rng.integers(0, len(self.words)))], rng)

    def probes(self) -> Mapping[str, Rewrite]:
        return inserting([word for word in RARE if word not in self.words])
