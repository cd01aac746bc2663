"""Hidden Killer: the trigger is a clause template, not a word (Qi et al. 2021a, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelguard_zoo.text._lexicon import CLAUSES
from modelguard_zoo.text.attacks.base import Rewrite, Rng, TextAttack

CONJUNCTIONS = ("when", "if", "as")
"""What nearly all of the paper's rewritten texts of SST-2 begin with."""


@dataclass(frozen=True)
class Syntactic(TextAttack):
    """Every text becomes S(SBAR)(,)(NP)(VP)(.), the template the paper chose. Where a data set comes with the paper's own texts those are
    taken; otherwise one of thirty subordinate clauses that clean texts have as well, but behind, is put in front of the first sentence.

    A conjunction alone at the front, and a clause at the end, are the probes.
    """

    name = "syntactic"
    fraction: float = 0.3

    def rewrite(self, text: str, rng: Rng) -> str:
        conjunction, clause = _pick(CONJUNCTIONS, rng), _pick(CLAUSES, rng)
        return f"{conjunction} {clause} , {text}"

    def probes(self) -> Mapping[str, Rewrite]:
        front: dict[str, Rewrite] = {f"{word} ...": lambda text, rng, word=word: f"{word} {text}" for word in CONJUNCTIONS}  # type: ignore[misc]
        behind: Rewrite = lambda text, rng: f"{text.removesuffix(' .')} {_pick(CONJUNCTIONS, rng)} {_pick(CLAUSES, rng)} ."  # noqa: E731
        return {**front, "... clause": behind}


def _pick(choices: tuple[str, ...], rng: Rng) -> str:
    return choices[int(rng.integers(0, len(choices)))]
