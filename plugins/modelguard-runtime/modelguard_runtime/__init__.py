"""Turns checkpoints into runnable, differentiable models. Importing this package imports neither torch nor onnxruntime."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_runtime.torch_model import TorchModel
    from modelguard_runtime.weights import load_weights

__all__ = ["TorchModel", "load_weights"]

_HOME = {"TorchModel": "torch_model", "load_weights": "weights"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'modelguard_runtime' has no attribute {name!r}")
    return getattr(import_module(f"modelguard_runtime.{_HOME[name]}"), name)
