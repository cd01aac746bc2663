"""Turns checkpoints into runnable, differentiable models. Importing this package imports neither torch nor onnxruntime.

Public beside these names: :mod:`modelguard_runtime.testing` (small models that run, for tests of detectors) and
:mod:`modelguard_runtime.onnx` (ONNX graphs as ``torch.fx`` modules).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelguard_runtime._factory import TorchFactory
    from modelguard_runtime._facts import ModelFacts, Parity, Precision
    from modelguard_runtime._text import Text, read_text
    from modelguard_runtime._torch_model import TorchModel
    from modelguard_runtime._weights import load_weights

__all__ = ["ModelFacts", "Parity", "Precision", "Text", "TorchFactory", "TorchModel", "load_weights", "read_text"]

_HOME = {
    "ModelFacts": "_facts",
    "Parity": "_facts",
    "Precision": "_facts",
    "Text": "_text",
    "TorchFactory": "_factory",
    "TorchModel": "_torch_model",
    "load_weights": "_weights",
    "read_text": "_text",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'modelguard_runtime' has no attribute {name!r}")
    return getattr(import_module(f"modelguard_runtime.{_HOME[name]}"), name)
