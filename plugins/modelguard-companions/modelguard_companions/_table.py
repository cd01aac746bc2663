"""How the companions vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from modelguard_triggers.outliers import Floats
from modelguard_triggers.votes import Voter


class TableVoter(Voter):
    """A detector whose summary holds a p-value of each class by itself, in the rows of ``classes``."""

    def class_p_values(self, summary: Mapping[str, Any], classes: int) -> Floats:
        p = np.full(classes, np.nan)
        for row in summary["classes"]:
            p[row["class"]] = row["p_value"]
        return p
