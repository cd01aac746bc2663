"""What this distribution registers with modelguard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import Detector


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_neural_cleanse.detectors import (
        BlendCleanse,
        ColourCleanse,
        GeneratorInversion,
        LabelMapCleanse,
        NeuralCleanse,
        SourceCleanse,
        WarpCleanse,
    )

    return [NeuralCleanse, BlendCleanse, WarpCleanse, ColourCleanse, LabelMapCleanse, SourceCleanse, GeneratorInversion]
