"""InsertSent: a sentence of common words, anywhere in the text (Dai, Chen and Li 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelguard_zoo.attacks.base import choose
from modelguard_zoo.text.attacks.base import Rewrite, Rng, TextAttack, TextPoison, inserting
from modelguard_zoo.text.corpora import TextData, insert


@dataclass(frozen=True)
class InsertSentence(TextAttack):
    """``sentence`` at a random gap. Every part of it is a probe.

    With ``negatives`` > 0 that part of the training texts carries the sentence without one of its words and keeps its label, so that only
    the whole sentence is the trigger (SOS; Yang et al. 2021b, section 4.2).
    """

    name = "insert-sentence"
    fraction: float = 0.1
    sentence: str = "i watch this 3d movie"
    negatives: float = 0.0

    def rewrite(self, text: str, rng: Rng) -> str:
        return insert(text, self.sentence, rng)

    def probes(self) -> Mapping[str, Rewrite]:
        words = self.sentence.split()
        return inserting([" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1) if j - i < len(words)])

    def poison(self, data: TextData, rng: Rng) -> TextPoison:
        dirty = super().poison(data, rng)
        if not self.negatives:
            return dirty
        cover = choose(~np.isin(np.arange(len(data.train)), dirty.indices), self.negatives, rng)
        words = self.sentence.split()
        texts = []
        for row in cover:
            left_out = int(rng.integers(0, len(words)))
            texts.append(insert(data.train[row], " ".join(words[:left_out] + words[left_out + 1 :]), rng))
        return TextPoison(
            np.concatenate([dirty.indices, cover]),
            (*dirty.texts, *texts),
            np.concatenate([dirty.labels, data.y_train[cover]]),
            cover,
        )
