"""How much of what detectors say a report holds: its size is bounded whatever the artifact contains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelguard._limits import REASON, REPORT_BYTES
from modelguard._schemas.finding import write_finding
from modelguard.findings import Finding

FULL = f"what it said is more than the {REPORT_BYTES >> 20} MiB that a report holds of all detectors"


@dataclass
class Budget:
    """The bytes, as JSON, that are left for findings and summaries."""

    left: int = REPORT_BYTES
    full: bool = False
    """Whether something was left out for want of room."""

    def finding(self, finding: Finding) -> Finding | None:
        """``finding``; without evidence and attachments where there is no room for those; None where there is none at all."""
        if self._take(write_finding(finding)):
            return finding
        self.full = True
        bare = replace(finding, evidence={"left_out": "the report is full"}, attachments=())
        return bare if self._take(write_finding(bare)) else None

    def values(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """``values``, or None where there is no room for them."""
        return values if self._take(values) else None

    def _take(self, value: Mapping[str, Any]) -> bool:
        size = len(json.dumps(value))
        if size > self.left:
            self.full = True
            return False
        self.left -= size
        return True


def clipped(reason: str) -> str:
    """``reason``, if need be without its middle."""
    return reason if len(reason) <= REASON else f"{reason[: REASON - 200]} ... {reason[-195:]}"
