"""Takes backdoors out of models, and says what is left of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_repair._repair import Repaired, repair
    from modelguard_repair._request import KnownTrigger, Request

__all__ = ["KnownTrigger", "Repaired", "Request", "repair"]

# Resolved on first use: the command line lists this plugin's command without paying for torch.
_HOME = {"KnownTrigger": "_request", "Repaired": "_repair", "Request": "_request", "repair": "_repair"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'modelguard_repair' has no attribute {name!r}")
    return getattr(import_module(f"modelguard_repair.{_HOME[name]}"), name)
