"""What this distribution registers. Imports happen inside, so that discovering it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import Detector, Format


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_serialization.detector import ExecutableContent

    return [ExecutableContent]


@hookimpl
def modelguard_formats() -> Iterable[type[Format]]:
    from modelguard_serialization._formats.gguf import GgufFormat
    from modelguard_serialization._formats.torch_legacy import TorchLegacyFormat
    from modelguard_serialization._formats.torch_zip import TorchZipFormat

    return [GgufFormat, TorchZipFormat, TorchLegacyFormat]
