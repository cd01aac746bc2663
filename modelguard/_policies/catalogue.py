"""What modelguard's own distributions bring, so that a policy may name a detector that is not installed here.

Such a policy is valid: the missing detector makes a scan incomplete, and the decision says which distribution to install. An id
that is neither installed nor listed here is a typing error.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCKS = ("MG01", "MG02", "MG03", "MG1", "MG2", "MG3", "MG4", "MG5", "MG9")
"""The documented blocks of rule ids; a pattern that names one is meant, even before a plugin has rules in it."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """``blocks`` are the beginnings of the rule ids its detectors declare."""

    name: str
    detectors: tuple[str, ...]
    blocks: tuple[str, ...]


FIRST_PARTY: tuple[Distribution, ...] = (
    Distribution("modelguard", ("format-integrity",), ("MG01", "MG90")),
    Distribution("modelguard-weight-diff", ("weight-diff",), ("MG11", "MG12")),
    Distribution("modelguard-rome", ("rome-edit", "rome-spectrum", "weight-forensics"), ("MG13", "MG2")),
    Distribution("modelguard-neural-cleanse", ("neural-cleanse",), ("MG30",)),
    Distribution("modelguard-abs", ("abs",), ("MG30", "MG31")),
)


def provider(detector: str) -> str | None:
    """The first-party distribution that brings ``detector``, or None."""
    return next((item.name for item in FIRST_PARTY if detector in item.detectors), None)
