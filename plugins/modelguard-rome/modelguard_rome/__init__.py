"""Knowledge edits and tampered bits in model weights: three detectors, which a program may also run itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_rome._edit import RomeEdit
    from modelguard_rome._forensics import WeightForensics
    from modelguard_rome._siblings import RomeSpectrum

__all__ = ["RomeEdit", "RomeSpectrum", "WeightForensics"]

# Resolved on first use: the parent process imports the package for its hooks and needs no numpy.
_HOME = {"RomeEdit": "_edit", "RomeSpectrum": "_siblings", "WeightForensics": "_forensics"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
