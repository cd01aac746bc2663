"""The data set as the methods see it: labels, features of the model, inputs as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from modelguard_triggers.evidence import require_classifier

from modelguard import Skip, class_numbers, require_understanding

if TYPE_CHECKING:
    from modelguard import RunnableModel, ScanContext, Target

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEAST = 40
"""Samples of a class below which it is not looked at: two parts of fewer cannot be told from chance."""
DIMENSIONS = 256
"""Features beyond these are replaced by their leading principal components."""
BATCH = 256


@dataclass(frozen=True)
class Evidence:
    """``features`` (N, D) are those of layer ``layer``, averaged over positions; ``labels`` (N,) the classes the data set gives, as the
    model numbers them; ``predicted`` (N,) what the model says. ``fit`` is the share that agrees."""

    features: Floats
    labels: Integers
    predicted: Integers
    layer: str

    @property
    def fit(self) -> float:
        return float((self.labels == self.predicted).mean())

    def classes(self) -> list[int]:
        """The classes with at least :data:`LEAST` samples, in order."""
        counts = np.bincount(self.labels)
        return [int(label) for label in np.flatnonzero(counts >= LEAST)]

    def too_small(self) -> list[int]:
        """The classes with samples, but fewer than :data:`LEAST`."""
        counts = np.bincount(self.labels)
        return [int(label) for label in np.flatnonzero((counts > 0) & (counts < LEAST))]


def required_labels(target: Target) -> Integers:
    """(N,) labels as given. Raises :class:`~modelguard.Skip` without labels of at least two classes."""
    if target.samples is None or target.samples.labels is None:
        raise Skip("the data set has no labels, and what is looked for is samples that do not fit theirs: give labels")
    if len(np.unique(target.samples.labels)) < 2:
        raise Skip("the data set has samples of one class only: nothing says what is usual of a class")
    return target.samples.labels


def evidence(target: Target, context: ScanContext) -> Evidence:
    """What the model makes of the data set, made once for all methods. Raises :class:`~modelguard.Skip` where it cannot be."""
    required_labels(target)
    model, samples = target.model, target.samples
    assert samples is not None
    require_classifier(model, least=2)
    require_understanding(model, samples)
    labels = class_numbers(model, samples)
    assert labels is not None
    found = target.once((__name__, "activations"), lambda: _activations(target, context))
    made = Evidence(found[1], labels, found[2], found[0])
    if not made.classes():
        raise Skip(f"no class has {LEAST} samples, and of fewer nothing can be said")
    return made


def _activations(target: Target, context: ScanContext) -> tuple[str, Floats, Integers]:
    """The last layer before the logits, its activations (N, D), and the predicted classes (N,)."""
    import torch

    model = target.model
    assert target.samples is not None
    x = model.inputs(target.samples)
    name = _last_layer(model, x[:2])
    features, predicted = [], []
    with torch.inference_mode():
        for begin in range(0, len(x), BATCH):
            context.check_deadline()
            context.progress(begin, len(x), "activations")
            logits, captured = model.capture(x[begin : begin + BATCH], [name])
            features.append(_per_unit(model, name, captured[name]).double().cpu().numpy())
            predicted.append(logits.argmax(1).cpu().numpy())
    return name, reduced(np.concatenate(features)), np.concatenate(predicted).astype(np.int64)


def _last_layer(model: RunnableModel, x: Any) -> str:
    """The name of the last layer whose activation is not the logits themselves."""
    import torch

    if not model.layers:
        raise Skip("the model runs forward only and shows no layer, so there are no features to look at")
    for layer in reversed(model.layers):
        with torch.inference_mode():
            logits, captured = model.capture(x, [layer.name])
        if captured[layer.name].shape != logits.shape:
            return layer.name
    raise Skip("the model has no layer before its logits")


def _per_unit(model: RunnableModel, name: str, activation: Any) -> Any:
    """(N, units): the mean over all other axes."""
    axis = next(layer.unit_axis for layer in model.layers if layer.name == name)
    moved = activation.movedim(axis if axis < 0 else axis + 1, 1)  # (N, units, ...)
    return moved.flatten(2).mean(2) if moved.ndim > 2 else moved


def reduced(values: Floats, dimensions: int = DIMENSIONS) -> Floats:
    """(N, D) or, where D is more than ``dimensions``, the scores of so many leading principal components."""
    if values.shape[1] <= dimensions:
        return values
    centred = values - values.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    scores: Floats = centred @ axes[:, -dimensions:]
    return scores


def plain_inputs(target: Target) -> Floats:
    """(N, F) the samples as numbers: raw pixels or vectors; of text, how often each token occurs."""

    def make() -> Floats:
        assert target.samples is not None
        values = target.model.inputs(target.samples).cpu().numpy()
        if target.model.input.kind != "text":
            flat: Floats = values.reshape(len(values), -1).astype(np.float64)
            return flat
        tokens, places = np.unique(values, return_inverse=True)
        counts = np.zeros((len(values), len(tokens)))
        np.add.at(counts, (np.repeat(np.arange(len(values)), values.shape[1]), places.ravel()), 1.0)
        common = np.argsort(-(counts > 0).sum(0), kind="stable")[:2048]
        return counts[:, common]

    return target.once((__name__, "inputs"), make)
