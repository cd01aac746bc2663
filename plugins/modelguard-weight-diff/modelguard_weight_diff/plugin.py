"""Entry point: the hooks, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import Detector, Reporter


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_weight_diff.detector import WeightDiff

    return [WeightDiff]


@hookimpl
def modelguard_reporters() -> Iterable[type[Reporter]]:
    from modelguard_weight_diff.view import DiffAllReporter, DiffReporter

    return [DiffReporter, DiffAllReporter]
