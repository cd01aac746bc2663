"""How checkpoints are read. Every file of an artifact is recognised by its content; names are hints."""

from __future__ import annotations

from modelguard._formats.opening import Opened, open_artifact
from modelguard.checkpoint import Format

__all__ = ["Opened", "builtin_formats", "open_artifact"]


def builtin_formats() -> list[type[Format]]:
    """The formats modelguard ships."""
    from modelguard._formats.onnx import OnnxFormat
    from modelguard._formats.safetensors import SafetensorsFormat

    return [SafetensorsFormat, OnnxFormat]
