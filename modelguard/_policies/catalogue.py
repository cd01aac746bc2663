"""What modelguard's own distributions bring, installed or not.

A policy may name a detector that is not installed here: it is valid, the missing detector makes a scan incomplete, and the decision
says which distribution to install. An id that is neither installed nor in the catalogue is a typing error. ``catalogue.json`` is
written by ``docs/generate.py`` from the plugins themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from modelguard._options import Option


@dataclass(frozen=True, slots=True)
class KnownDetector:
    """A first-party detector: the rules it declares, by id, and its options."""

    rules: tuple[str, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """One of modelguard's own distributions. ``hooks`` are the kinds of things it registers: ``detectors``, ``models``, ..."""

    name: str
    hooks: tuple[str, ...]
    detectors: Mapping[str, KnownDetector]


@cache
def first_party() -> tuple[Distribution, ...]:
    """Every distribution of ours that registers something, by name."""
    data = json.loads((resources.files("modelguard._policies") / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(
        Distribution(
            name,
            tuple(entry["hooks"]),
            {
                detector: KnownDetector(tuple(known["rules"]), tuple(Option.read(item) for item in known["options"]))
                for detector, known in entry["detectors"].items()
            },
        )
        for name, entry in data.items()
    )


@cache
def detectors() -> Mapping[str, KnownDetector]:
    """Every first-party detector by id."""
    return MappingProxyType({name: known for item in first_party() for name, known in item.detectors.items()})


def provider(detector: str) -> str | None:
    """The first-party distribution that brings ``detector``, or None."""
    return next((item.name for item in first_party() if detector in item.detectors), None)


def providers(hook: str) -> tuple[str, ...]:
    """The first-party distributions that register something of a kind, such as ``models``."""
    return tuple(item.name for item in first_party() if hook in item.hooks)


def reporting(block: str) -> tuple[str, ...]:
    """The first-party detectors that may report a rule of a block, such as ``MG03``."""
    return tuple(name for name, known in sorted(detectors().items()) if any(rule.startswith(block) for rule in known.rules))
