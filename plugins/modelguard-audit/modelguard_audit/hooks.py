"""What this distribution registers. Imports happen inside, so that discovering it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelguard import hookimpl

if TYPE_CHECKING:
    from modelguard import Detector


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_audit.activation_clustering import ActivationClustering
    from modelguard_audit.data_consistency import DataConsistency
    from modelguard_audit.early_loss import EarlyLoss
    from modelguard_audit.roni import Roni
    from modelguard_audit.spectral_signatures import SpectralSignatures

    return [ActivationClustering, DataConsistency, EarlyLoss, Roni, SpectralSignatures]
