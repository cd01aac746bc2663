"""What a meta-classifier is bound to: one architecture, by its tensors, operators, layers, input and classes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from modelguard import Checkpoint, Target

PARTS = ("tensors", "operators", "layers", "input", "classes")


def fingerprint(target: Target) -> dict[str, str]:
    """A digest (hex) of each of :data:`PARTS` of the model that is run.

    They are names and shapes of its checkpoint's tensors, how often each operator occurs, kinds and shapes of its layers, shape, range and
    normalisation of its input, and the number of its classes.

    Raises what building the model raises.
    """
    model = target.model
    facts, spec = model.describe(), model.input
    channels = spec.shape[0]
    parts: Mapping[str, Any] = {
        "tensors": sorted((name, list(info.shape)) for name, info in _checkpoint(target, facts).tensors.items()),
        "operators": dict(sorted(facts.get("operators", {}).items())),
        "layers": [(layer.kind, list(layer.shape)) for layer in model.layers],
        "input": [
            spec.kind,
            list(spec.shape),
            spec.low,
            spec.high,
            list(spec.mean or [0.0] * channels),
            list(spec.std or [1.0] * channels),
        ],
        "classes": model.output.classes,
    }
    return {name: hashlib.sha256(json.dumps(parts[name]).encode()).hexdigest() for name in PARTS}


def described(target: Target) -> str:
    """The architecture in a few words, for people."""
    model = target.model
    kinds = Counter(layer.kind for layer in model.layers)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    shape = "x".join(map(str, model.input.shape))
    return f"images of {shape}, {counted}, {model.output.classes} classes, {model.describe().get('parameters', 0)} parameters"


def _checkpoint(target: Target, facts: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint that is run."""
    named = [item for item in target.checkpoints if item.name == facts.get("checkpoint")]
    return (named or list(target.checkpoints))[0]
