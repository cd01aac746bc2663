"""What modelguard's own distributions bring, installed or not.

A policy may name a detector that is not installed here: it is valid, the missing detector makes a scan incomplete, and the decision
says which distribution to install. An id that is neither installed nor in the catalogue is a typing error. A scan is planned from what
the catalogue says, so that only the worker imports detectors, and numpy with them. ``catalogue.json`` is written by ``docs/generate.py``
from the plugins themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from modelguard._options import Option
from modelguard._schemas.display import read_shown
from modelguard.checkpoint import Format
from modelguard.detector import Capability, Detector
from modelguard.display import Chart, Measure
from modelguard.findings import Rule, Severity
from modelguard.model import ModelFactory


@dataclass(frozen=True, slots=True)
class KnownDetector:
    """A first-party detector, as its class declares it; ``ref`` is ``module:qualified name`` of the class."""

    ref: str
    requires: frozenset[Capability]
    rules: tuple[Rule, ...]
    options: tuple[Option, ...]
    when_quick: Literal["same", "shorter", "skipped"]
    runs_last: bool
    cost: int
    keeps_with_options: bool
    on_request: bool
    fetches: tuple[str, ...]
    shows: tuple[Measure | Chart, ...]

    @classmethod
    def read(cls, data: Mapping[str, Any], rules: Mapping[str, Rule], shown: Sequence[Measure | Chart]) -> KnownDetector:
        return cls(
            data["ref"],
            frozenset(map(Capability, data["requires"])),
            tuple(rules[rule] for rule in data["rules"]),
            tuple(Option.read(item) for item in data["options"]),
            data["when_quick"],
            data["runs_last"],
            data["cost"],
            data["keeps_with_options"],
            data["on_request"],
            tuple(data["fetches"]),
            tuple(shown[number] for number in data["shows"]),
        )


@dataclass(frozen=True, slots=True)
class Distribution:
    """One of modelguard's own distributions. ``hooks`` are the kinds of things it registers: ``detectors``, ``models``, ...

    ``formats`` and ``models`` are by id: the reference to the class, and a format's extensions.
    """

    name: str
    hooks: tuple[str, ...]
    detectors: Mapping[str, KnownDetector]
    formats: Mapping[str, tuple[str, tuple[str, ...]]]
    models: Mapping[str, str]


@cache
def first_party() -> tuple[Distribution, ...]:
    """Every distribution of ours that registers something, by name."""
    data = json.loads((resources.files("modelguard._policies") / "catalogue.json").read_text(encoding="utf-8"))
    rules = {item["id"]: Rule(**{**item, "severity": Severity.parse(item["severity"])}) for item in data["rules"]}
    shown = list(map(read_shown, data["shows"]))
    return tuple(
        Distribution(
            name,
            tuple(entry["hooks"]),
            {detector: KnownDetector.read(known, rules, shown) for detector, known in entry["detectors"].items()},
            {item: (known["ref"], tuple(known["extensions"])) for item, known in entry["formats"].items()},
            entry["models"],
        )
        for name, entry in data["distributions"].items()
    )


@cache
def detectors() -> Mapping[str, KnownDetector]:
    """Every first-party detector by id."""
    return MappingProxyType({name: known for item in first_party() for name, known in item.detectors.items()})


def stand_ins(distribution: str) -> Mapping[str, list[type]] | None:
    """Classes that declare what the detectors, formats and models of a distribution of ours declare, and can do nothing, by kind of hook.

    None where it is not one of ours.
    """
    found = next((item for item in first_party() if item.name == distribution), None)
    if found is None:
        return None
    same = ("requires", "rules", "when_quick", "runs_last", "cost", "keeps_with_options", "on_request", "fetches", "shows")
    return {
        "detectors": [
            _stand_in(Detector, name, known.ref, declared_options=known.options, **{item: getattr(known, item) for item in same})
            for name, known in found.detectors.items()
        ],
        "formats": [_stand_in(Format, name, ref, extensions=extensions) for name, (ref, extensions) in found.formats.items()],
        "models": [_stand_in(ModelFactory, name, ref) for name, ref in found.models.items()],
    }


def _stand_in(base: type, name: str, ref: str, **declared: Any) -> type:
    module, _, qualname = ref.partition(":")
    return type(qualname, (base,), {"id": name, "__module__": module, "__qualname__": qualname, **declared})


def hooks(distribution: str) -> tuple[str, ...]:
    """The kinds of things that a distribution of ours registers."""
    return next((item.hooks for item in first_party() if item.name == distribution), ())


def provider(detector: str) -> str | None:
    """The first-party distribution that brings ``detector``, or None."""
    return next((item.name for item in first_party() if detector in item.detectors), None)


def runner() -> str:
    """The first-party distribution that runs most kinds of models: what to install where none can be run."""
    return max(first_party(), key=lambda item: len(item.models)).name


def reporting(block: str) -> tuple[str, ...]:
    """The first-party detectors that may report a rule of a block, such as ``MG03``."""
    return tuple(name for name, known in sorted(detectors().items()) if any(rule.id.startswith(block) for rule in known.rules))
