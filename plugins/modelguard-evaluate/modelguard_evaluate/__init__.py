"""What a known trigger does to a model. Names are resolved on first use, so that the hook costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_evaluate._given import labelled, read_trigger
    from modelguard_evaluate._measure import Effect, Inputs, effect
    from modelguard_evaluate._rates import Rate
    from modelguard_evaluate._stored import shown, trigger_of
    from modelguard_evaluate._triggers import Picture, Trigger

__all__ = ["Effect", "Inputs", "Picture", "Rate", "Trigger", "effect", "labelled", "read_trigger", "shown", "trigger_of"]

_HOME = {
    "Effect": "_measure",
    "Inputs": "_measure",
    "Picture": "_triggers",
    "Rate": "_rates",
    "Trigger": "_triggers",
    "effect": "_measure",
    "labelled": "_given",
    "read_trigger": "_given",
    "shown": "_stored",
    "trigger_of": "_stored",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'modelguard_evaluate' has no attribute {name!r}")
    return getattr(import_module(f"modelguard_evaluate.{_HOME[name]}"), name)
