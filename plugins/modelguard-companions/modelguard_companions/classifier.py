"""What all companions ask of a model before they look."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from modelguard import Skip, require_understanding
from modelguard_companions.outlier import MIN_CLASSES

if TYPE_CHECKING:
    from modelguard import RunnableModel, ScanContext, Target


def classifier(target: Target, *, searches_inputs: bool = False) -> RunnableModel:
    """The target's model, if it is a classifier with enough classes for one of them to stand out.

    With ``searches_inputs`` its input must be one that can be changed continuously, whose sizes and raw range are known, and samples,
    where there are any, must be understood: a search over the wrong inputs says nothing of the right ones. Raises :class:`Skip` with the
    reason otherwise.
    """
    model = target.model
    if model.output.kind != "classifier":
        raise Skip(f"the model is a {model.output.kind}, and only a classifier's classes can be compared")
    if model.output.classes < MIN_CLASSES:
        raise Skip(f"the model has {model.output.classes} classes; with fewer than {MIN_CLASSES} none can be called an outlier")
    if searches_inputs:
        if model.input.kind == "text":
            raise Skip("the model takes token ids, and this search needs an input that can be changed continuously")
        if any(size < 1 for size in model.input.shape):
            what, shape = ("pictures", "CxHxW") if model.input.kind == "image" else ("vectors", "F")
            raise Skip(f"the model takes {what} of any size: give --samples, or say --input shape={shape}")
        if target.samples is not None:
            require_understanding(model, target.samples)
        if not model.input.domain_known:
            raise Skip(
                "nothing says which raw values the model takes: give --samples with labels, or --input range=LOW..HIGH,mean=...,std=..."
            )
    return model


def name_of(model: RunnableModel, index: int) -> str:
    """``class 3`` or ``class 3 (stop sign)``."""
    labels = model.output.labels
    return f"class {index} ({labels[index]})" if index < len(labels) else f"class {index}"


def at_once(model: RunnableModel, context: ScanContext) -> int:
    """Images for one forward and backward pass that stay within a quarter of the memory limit (1 GiB when there is none)."""
    values = sum(prod(map(abs, layer.shape)) for layer in model.layers) + prod(map(abs, model.input.shape))
    budget = (context.memory_limit or 4 << 30) // 4
    return max(1, min(256, budget // (4 * 4 * values)))
