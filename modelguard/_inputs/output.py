"""What a model returns: classes and their names, or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelguard.model import OutputSpec, Samples

POOLS = ("mean", "max", "first", "last")
"""How ``--model-output NAME,POOL`` makes one row of values of those at several positions."""


def output_spec(width: int, head: Any, samples: Samples | None, config: Mapping[str, Any] | None = None) -> OutputSpec:
    """What a model with ``width`` outputs is: a classifier, unless it has one output that nothing says is a probability.

    One output is a classifier of two classes when the graph ends in a sigmoid or the samples' labels are 0 and 1, else a regressor.
    Label names come from ``id2label`` of config.json when it names every class.
    """
    import numpy as np

    config = config or {}
    if config.get("problem_type") == "regression":
        return OutputSpec("regressor", width, "logits")
    if width == 1:
        labels = None if samples is None else samples.labels
        binary = head == "sigmoid" or (labels is not None and np.array_equal(np.unique(labels), [0, 1]))
        return OutputSpec("classifier", 2, head, label_names(config, 2)) if binary else OutputSpec("regressor", 1, "logits")
    return OutputSpec("classifier", width, head, label_names(config, width))


def label_names(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The class names of config.json's ``id2label``, or () when they are missing, incomplete or only LABEL_0, LABEL_1 ..."""
    named = config.get("id2label")
    if not isinstance(named, dict) or len(named) != classes or not all(str(place) in named for place in range(classes)):
        return ()
    names = tuple(str(named[str(place)])[:200] for place in range(classes))
    return () if all(name == f"LABEL_{place}" for place, name in enumerate(names)) else names
