"""Running models: the only torch code in the core package. Importing this package imports neither torch nor onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelguard._runtime.build import build_model, model_capabilities

if TYPE_CHECKING:
    from modelguard.model import ModelFactory

__all__ = ["build_model", "builtin_factories", "model_capabilities"]


def builtin_factories() -> tuple[type[ModelFactory], ...]:
    """The factories modelguard ships, in order of priority."""
    from modelguard._runtime.factories import BUILTIN

    return BUILTIN
