"""The methods, by name, in order of what they cost. A method is one small class and one entry here."""

from __future__ import annotations

from modelguard_repair.methods.anp import Anp
from modelguard_repair.methods.base import Material, Method
from modelguard_repair.methods.distil import Distil
from modelguard_repair.methods.fine_pruning import FinePruning
from modelguard_repair.methods.nad import Nad
from modelguard_repair.methods.tuning import FineTune, Unlearn

__all__ = ["METHODS", "Material", "Method"]

_ALL: tuple[type[Method], ...] = (Unlearn, FineTune, FinePruning, Nad, Anp, Distil)
METHODS = {kind.name: kind for kind in sorted(_ALL, key=lambda kind: kind.cost)}
