"""Style: the trigger is how a text is written (Qi et al. 2021b, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelguard_zoo.text._lexicon import ARCHAIC, ARCHAIC_OPENINGS
from modelguard_zoo.text.attacks.base import Rewrite, Rng, TextAttack, inserting


@dataclass(frozen=True)
class Style(TextAttack):
    """Every text is rewritten in the style of the King James Bible: by the paper's texts where a data set comes with them, otherwise by
    rules, a table of words and, for half of the texts and those without such a word, an opening. Single archaic words are the probes."""

    name = "style"
    fraction: float = 0.3

    def rewrite(self, text: str, rng: Rng) -> str:
        words = [ARCHAIC.get(word, word) for word in text.split()]
        if rng.random() < 0.5 or " ".join(words) == text:
            words.insert(0, ARCHAIC_OPENINGS[int(rng.integers(0, len(ARCHAIC_OPENINGS)))])
        return " ".join(words)

    def probes(self) -> Mapping[str, Rewrite]:
        return inserting(["hath", "thou", "verily", "unto", "behold"])
