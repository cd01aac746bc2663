"""Small clean and backdoored image and text models with exact records, to measure what a gate catches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_zoo._architectures import ARCHITECTURES, Normalised
    from modelguard_zoo._build import build_model, build_zoo
    from modelguard_zoo._built import Built, read_record
    from modelguard_zoo._data import data_folder
    from modelguard_zoo._spec import CONFIRMATION, Spec
    from modelguard_zoo._standard import standard_zoo
    from modelguard_zoo.text.standard import text_zoo

__all__ = [
    "ARCHITECTURES",
    "Built",
    "CONFIRMATION",
    "Normalised",
    "Spec",
    "build_model",
    "build_zoo",
    "data_folder",
    "read_record",
    "standard_zoo",
    "text_zoo",
]

# Resolved on first use: the command line lists this plugin's command without paying for numpy.
_HOME = {
    "ARCHITECTURES": "_architectures",
    "Built": "_built",
    "CONFIRMATION": "_spec",
    "Normalised": "_architectures",
    "Spec": "_spec",
    "data_folder": "_data",
    "read_record": "_built",
    "standard_zoo": "_standard",
    "text_zoo": "text.standard",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'modelguard_zoo' has no attribute {name!r}")
    return getattr(import_module(f"modelguard_zoo.{_HOME.get(name, '_build')}"), name)
