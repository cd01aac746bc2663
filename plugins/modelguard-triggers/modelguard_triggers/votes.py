"""How the outcome of one search counts where several are combined.

The evidence of a finding that accuses a class holds its ``target_class`` and ``p_value``, and ``mask_area_fraction`` where the trigger
covers a part of the image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from modelguard import Detector
from modelguard_triggers.outliers import Floats


class Voter(Detector):
    """A detector that says something of every class. Its own summary is its own business: others ask it for p-values."""

    @abstractmethod
    def class_p_values(self, summary: Mapping[str, Any], classes: int) -> Floats:
        """(``classes``,) one-sided p-values of each class by itself, under no backdoor, from the ``summary`` of a completed run.

        NaN where it did not examine a class, or has nothing to say.
        """
