"""What this distribution registers. Imports happen inside, so that discovering it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import Detector


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_language.embedding_inversion import EmbeddingInversion
    from modelguard_language.embedding_rows import EmbeddingRows
    from modelguard_language.lm.canary import LmCanary
    from modelguard_language.lm.diff import LmDiff
    from modelguard_language.lm.inversion import LmInversion
    from modelguard_language.text_probes import TextProbes
    from modelguard_language.token_scan import TokenScan

    return [EmbeddingInversion, EmbeddingRows, TextProbes, TokenScan, LmInversion, LmDiff, LmCanary]
