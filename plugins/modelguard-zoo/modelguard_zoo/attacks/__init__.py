"""The attacks, by name. An attack is one small file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from modelguard import UsageError
from modelguard_zoo.attacks.all_to_all import AllToAll
from modelguard_zoo.attacks.base import Attack, Poison
from modelguard_zoo.attacks.blended import Blended
from modelguard_zoo.attacks.checkerboard import Checkerboard
from modelguard_zoo.attacks.clean_label import CleanLabel
from modelguard_zoo.attacks.code_poisoning import CodePoisoning
from modelguard_zoo.attacks.hidden_trigger import HiddenTrigger
from modelguard_zoo.attacks.insert import Insert
from modelguard_zoo.attacks.patch import Patch
from modelguard_zoo.attacks.physical import Physical
from modelguard_zoo.attacks.pixel import SinglePixel
from modelguard_zoo.attacks.reflection import Reflection
from modelguard_zoo.attacks.semantic import Semantic
from modelguard_zoo.attacks.sig import Sinusoid
from modelguard_zoo.attacks.source_specific import SourceSpecific
from modelguard_zoo.attacks.wanet import WaNet

__all__ = ["ATTACKS", "Attack", "Poison", "make_attack"]

ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind
    for kind in (
        Patch,
        SinglePixel,
        Checkerboard,
        Insert,
        Blended,
        Sinusoid,
        Reflection,
        WaNet,
        AllToAll,
        SourceSpecific,
        CleanLabel,
        HiddenTrigger,
        Semantic,
        Physical,
        CodePoisoning,
    )
}


def make_attack(name: str, options: Mapping[str, Any]) -> Attack:
    """The attack called ``name``. Raises :class:`~modelguard.UsageError` for an unknown name or option."""
    if name not in ATTACKS:
        raise UsageError(f"attack {name}", "there is no such attack", f"known: {', '.join(sorted(ATTACKS))}")
    known = {item.name for item in fields(ATTACKS[name])}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"attack {name}", f"it has no option {', '.join(unknown)}", f"it has: {', '.join(sorted(known))}")
    return ATTACKS[name](**options)
