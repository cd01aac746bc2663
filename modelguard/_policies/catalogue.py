"""What modelguard's own distributions bring, so that a policy may name a detector that is not installed here.

Such a policy is valid: the missing detector makes a scan incomplete, and the decision says which distribution to install. An id
that is neither installed nor belongs to a distribution that is missing here is a typing error.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

BLOCKS = ("MG01", "MG02", "MG03", "MG1", "MG2", "MG3", "MG4", "MG5", "MG9")
"""The documented blocks of rule ids; a pattern that names one is meant, even before a plugin has rules in it."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """``detectors`` are ids, or the beginnings of ids and ``*``; ``blocks`` the beginnings of the rule ids they declare."""

    name: str
    detectors: tuple[str, ...]
    blocks: tuple[str, ...]

    def brings(self, detector: str) -> bool:
        """Whether ``detector`` is one of this distribution's."""
        return any(fnmatchcase(detector, pattern) for pattern in self.detectors)


FIRST_PARTY: tuple[Distribution, ...] = (
    Distribution("modelguard", ("format-integrity", "remote-code", "weight-diff"), ("MG01", "MG03", "MG11", "MG12", "MG9004", "MG9008")),
    Distribution("modelguard-rome", ("rome-edit", "rome-spectrum", "weight-forensics"), ("MG13", "MG2")),
    Distribution("modelguard-neural-cleanse", ("neural-cleanse", "neural-cleanse-*"), ("MG30",)),
    Distribution("modelguard-companions", ("channel-lipschitz", "final-layer", "mm-bd", "neuron-inspect"), ("MG30",)),
    Distribution("modelguard-ensemble", ("backdoor-ensemble",), ("MG30",)),
    Distribution("modelguard-abs", ("abs", "abs-*"), ("MG30", "MG31")),
)


def provider(detector: str) -> str | None:
    """The first-party distribution that brings ``detector``, or None."""
    return next((item.name for item in FIRST_PARTY if item.brings(detector)), None)


def absent(known_detectors: Collection[str]) -> tuple[Distribution, ...]:
    """The first-party distributions of which no detector is known, because they are not installed or could not be loaded."""
    return tuple(item for item in FIRST_PARTY if not any(item.brings(name) for name in known_detectors))
