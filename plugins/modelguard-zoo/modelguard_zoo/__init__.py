"""Small clean and backdoored image models with exact records, to measure what a gate catches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_zoo.build import Built, build_model, build_zoo, read_record
    from modelguard_zoo.data import data_folder
    from modelguard_zoo.spec import Spec
    from modelguard_zoo.standard import standard_zoo

__all__ = ["Built", "Spec", "build_model", "build_zoo", "data_folder", "read_record", "standard_zoo"]

# Resolved on first use: the command line lists this plugin's command without paying for numpy.
_HOME = {"data_folder": "data", "Spec": "spec", "standard_zoo": "standard"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'modelguard_zoo' has no attribute {name!r}")
    return getattr(import_module(f"modelguard_zoo.{_HOME.get(name, 'build')}"), name)
