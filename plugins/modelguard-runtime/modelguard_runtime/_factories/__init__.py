"""Ways to build a model, one class a file. Importing this imports no torch."""

from __future__ import annotations

from modelguard_runtime._factories.onnx import OnnxFactory
from modelguard_runtime._factories.plain import PlainFactory
from modelguard_runtime._factories.timm import TimmFactory
from modelguard_runtime._factories.transformers import TransformersFactory
from modelguard_runtime._factories.user import UserFactory

__all__ = ["OnnxFactory", "PlainFactory", "TimmFactory", "TransformersFactory", "UserFactory"]
