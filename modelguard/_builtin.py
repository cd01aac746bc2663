"""What modelguard ships, registered through the same hooks a plugin uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard.hookspecs import hookimpl

if TYPE_CHECKING:
    from modelguard.artifact import Source
    from modelguard.checkpoint import Format
    from modelguard.detector import Detector
    from modelguard.report import Reporter


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard._detectors.format_integrity import FormatIntegrity
    from modelguard._detectors.reference_files import ReferenceFiles
    from modelguard._detectors.remote_code import RemoteCode
    from modelguard._detectors.signature import Signature
    from modelguard._diff.detector import WeightDiff

    return [FormatIntegrity, ReferenceFiles, RemoteCode, Signature, WeightDiff]


@hookimpl
def modelguard_formats() -> Iterable[type[Format]]:
    from modelguard._formats import builtin_formats

    return builtin_formats()


@hookimpl
def modelguard_sources() -> Iterable[type[Source]]:
    from modelguard._sources import builtin_sources

    return builtin_sources()


@hookimpl
def modelguard_reporters() -> Iterable[type[Reporter]]:
    from modelguard._reporters import builtin_reporters

    return builtin_reporters()
