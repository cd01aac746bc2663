"""What this distribution registers with modelguard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import Detector


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_rome._edit import RomeEdit
    from modelguard_rome._forensics import WeightForensics
    from modelguard_rome._siblings import RomeSpectrum

    return (RomeEdit, RomeSpectrum, WeightForensics)
