"""What the search starts from: clean pictures the model classifies as it should, in two parts that share none."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import ScanContext, Skip, Target, class_numbers, require_understanding

if TYPE_CHECKING:
    from modelguard import RunnableModel

MIN_CLASSES = 5
"""With fewer classes none can be told from the others (see :mod:`modelguard_abs.decision`)."""
MIN_CLASSES_SHOWN = 4
"""Classes the pictures must show: a trigger has to be searched on some and checked on others."""
MIN_CHECKED, MIN_CHECKED_CLASSES = 4, 2
"""Pictures, and classes among them, to check on: of one picture a trigger turns all or none, and half of clean models have a class that
gets all (8 of 15 scans of clean digits models that checked on one)."""


@dataclass(frozen=True)
class Evidence:
    """``search`` and ``check`` (N, C, H, W) raw and canonical, ``*_labels`` (N,) their classes; ``accuracy`` over all samples given, None
    without labels."""

    search: Tensor
    search_labels: Tensor
    check: Tensor
    check_labels: Tensor
    accuracy: float | None


def prepare(target: Target, context: ScanContext, per_class: int, most: int) -> Evidence:
    """``per_class`` pictures of each class to search on, and up to ``most`` others to check on.

    With one picture a class, half of the classes are searched on and the other half are checked on: a trigger that was found on five
    classes and turns five others is no accident. Raises :class:`~modelguard.Skip` with the reason the model or samples do not allow it.
    """
    model, samples = target.model, target.samples
    if samples is None:
        raise Skip("stimulation needs clean samples: give --samples")
    if model.output.kind != "classifier":
        raise Skip(f"the model is a {model.output.kind}, not a classifier: it has no target class")
    if model.input.kind != "image":
        raise Skip(f"the model takes {model.input.kind} inputs; this search knows image triggers only")
    if model.output.classes < MIN_CLASSES:
        raise Skip(f"the model has {model.output.classes} classes; with fewer than {MIN_CLASSES} none can be told from the others")
    require_understanding(model, samples)
    context.check_deadline()
    pictures = model.inputs(samples)
    predicted = model.predict(pictures.cpu().numpy()).argmax(1).astype(np.int64)
    labels = class_numbers(model, samples)
    accuracy = None if labels is None else float((predicted == labels).mean())
    usable = np.arange(len(predicted)) if labels is None else np.flatnonzero(predicted == labels)
    shown = len(np.unique(predicted[usable]))
    if shown < MIN_CLASSES_SHOWN:
        raise Skip(
            f"the samples the model classifies as labelled show {shown} classes, {MIN_CLASSES_SHOWN} are needed: give one of each class"
        )
    if labels is not None and 2 * shown < (given := len(np.unique(labels))):
        raise Skip(
            f"the model classifies samples of only {shown} of the {given} classes given as labelled: they are not in the form it takes "
            "(see --input), or not of its task"
        )
    search, check = _parts(usable, predicted, per_class, most, context.rng("split"))
    if len(check) < MIN_CHECKED or len(np.unique(predicted[check])) < MIN_CHECKED_CLASSES:
        raise Skip(
            f"of {len(usable)} samples classified as labelled, {len(check)} are left to check triggers on; {MIN_CHECKED} of "
            f"{MIN_CHECKED_CLASSES} classes are needed: give more samples"
        )
    classes = torch.from_numpy(predicted).to(pictures.device)
    return Evidence(pictures[search], classes[search], pictures[check], classes[check], accuracy)


def _parts(
    usable: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], per_class: int, most: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    shuffled = rng.permutation(usable)
    turn = np.zeros(len(shuffled), np.int64)
    present = np.unique(classes[shuffled])
    for label in present:
        members = np.flatnonzero(classes[shuffled] == label)
        turn[members] = np.arange(len(members))
    own = classes[shuffled]
    counts = np.bincount(own)
    # Never more than half of a class's pictures, so that what is checked on shows it too; a single picture is searched on.
    several = turn < np.minimum(per_class, np.maximum(counts[own] // 2, 1))
    # Where most classes have a single one, half of the classes are searched on: a spare picture or two are too few to check on.
    first = several if 2 * (counts[present] > 1).sum() >= len(present) else np.isin(own, present[::2])
    check = shuffled[~first]
    order = np.argsort(turn[~first], kind="stable")[:most]  # in every turn of one picture a class, the classes in random order
    return np.sort(shuffled[first]), np.sort(check[order])


def at_once(model: RunnableModel, context: ScanContext) -> int:
    """Pictures for one forward and backward pass that stay within a quarter of the memory limit (1 GiB when there is none)."""
    values = sum(prod(map(abs, layer.shape)) for layer in model.layers) + 4 * prod(map(abs, model.input.shape))
    budget = (context.memory_limit or 4 << 30) // 4
    return int(np.clip(budget // (4 * 4 * values), 1, 512))
