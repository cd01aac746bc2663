"""Attacks on text classifiers, by name. An attack is one small file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from modelguard import UsageError
from modelguard_zoo.text.attacks.base import TextAttack, TextPoison, victims
from modelguard_zoo.text.attacks.embedding import EmbeddingPoisoning
from modelguard_zoo.text.attacks.insert_sentence import InsertSentence
from modelguard_zoo.text.attacks.rare_word import RareWord
from modelguard_zoo.text.attacks.style import Style
from modelguard_zoo.text.attacks.syntactic import Syntactic

__all__ = ["TEXT_ATTACKS", "EmbeddingPoisoning", "TextAttack", "TextPoison", "make_text_attack", "victims"]

TEXT_ATTACKS: dict[str, type[TextAttack]] = {kind.name: kind for kind in (RareWord, InsertSentence, Syntactic, Style, EmbeddingPoisoning)}


def make_text_attack(name: str, options: Mapping[str, Any]) -> TextAttack:
    """The attack called ``name``. Raises :class:`~modelguard.UsageError` for an unknown name or option."""
    if name not in TEXT_ATTACKS:
        raise UsageError(f"attack {name}", "no text classifier is attacked so", f"known: {', '.join(sorted(TEXT_ATTACKS))}")
    known = {item.name for item in fields(TEXT_ATTACKS[name])}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"attack {name}", f"it has no option {', '.join(unknown)}", f"it has: {', '.join(sorted(known))}")
    return TEXT_ATTACKS[name](**options)
