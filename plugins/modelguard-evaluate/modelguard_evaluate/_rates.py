"""Shares of samples, each with how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from modelguard_triggers.facts import rounded

DEVIATE = 1.959964
"""Of the normal distribution, two-sided at 95 %."""


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``asked`` samples."""

    hits: int
    asked: int

    @property
    def value(self) -> float:
        """The share; 0 where none was asked."""
        return self.hits / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval (Wilson 1927), which keeps its level for few samples and for shares near 0 and 1, where the
        normal approximation does not (Brown, Cai and DasGupta 2001, section 4)."""
        if not self.asked:
            return 0.0, 1.0
        n, p, z = self.asked, self.value, DEVIATE
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (max(0.0, middle - half) if self.hits else 0.0), (min(1.0, middle + half) if self.hits < n else 1.0)

    def facts(self, key: str) -> dict[str, Any]:
        """The share and its interval as ``key`` and ``key_interval``."""
        return {key: rounded(self.value), f"{key}_interval": [rounded(value) for value in self.interval]}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


def fewest(limit: float) -> int:
    """Samples without one hit that show that a share is at most ``limit``: with fewer, the interval reaches beyond it."""
    return math.ceil(DEVIATE**2 * (1 - limit) / limit)
