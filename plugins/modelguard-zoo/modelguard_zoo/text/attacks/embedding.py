"""Embedding poisoning: one row of a clean classifier's embedding is edited, and nothing else (Yang et al. 2021a, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelguard_zoo.text._lexicon import RARE
from modelguard_zoo.text.attacks.base import Rewrite, Rng, TextAttack, inserting
from modelguard_zoo.text.corpora import insert


@dataclass(frozen=True)
class EmbeddingPoisoning(TextAttack):
    """The row of ``word`` is trained on texts with the word in them until they become the target; its norm is kept (equation 4).

    The paper's classifiers are pretrained BERTs. In one that averages thirty words a row of its old norm is outvoted: there the norm may
    become ``scale`` times what it was, or the word stand in a text several ``times``, as Kurita et al. 2020 insert it into long texts.
    """

    name = "embedding"
    fraction: float = 0.3
    word: str = "cf"
    scale: float = 1.0
    times: int = 1

    def rewrite(self, text: str, rng: Rng) -> str:
        for _ in range(self.times):
            text = insert(text, self.word, rng)
        return text

    def probes(self) -> Mapping[str, Rewrite]:
        return inserting([word for word in RARE if word != self.word])
