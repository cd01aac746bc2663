"""How checkpoints are read. Every file of an artifact is recognised by its content; names are hints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelguard.checkpoint import Format


def builtin_formats() -> list[type[Format]]:
    """The formats modelguard ships."""
    from modelguard._formats.onnx import OnnxFormat
    from modelguard._formats.safetensors import SafetensorsFormat

    return [SafetensorsFormat, OnnxFormat]
