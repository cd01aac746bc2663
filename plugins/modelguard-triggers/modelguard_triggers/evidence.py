"""What a search starts from: clean images the model classifies as it should, in two parts that share none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelguard import Skip, class_numbers, require_understanding
from modelguard_triggers.outliers import MIN_CLASSES

if TYPE_CHECKING:
    from torch import Tensor

    from modelguard import RunnableModel, Samples, ScanContext, Target

Integers = npt.NDArray[np.int64]

CANDIDATES, REFERENCES = 8, 16
"""With more classes than these together, only those most suspicious after a short look, and a random part of the others to compare
them with, are searched to the end: every statistic that enters a test has had the same search."""


@dataclass(frozen=True)
class Evidence:
    """``search`` and ``check`` are (N, C, H, W) canonical and raw, on the model's device, ``*_labels`` (N,) their classes, on the CPU.

    A trigger is searched on the one part and checked on the other. ``classes`` is how many the model has; ``accuracy`` is over all samples
    given, None without labels. ``base_rates`` has for every class the share of samples of others that the model calls it as they are; none
    without labels.
    """

    search: Tensor
    search_labels: Tensor
    check: Tensor
    check_labels: Tensor
    classes: int
    accuracy: float | None
    base_rates: Mapping[int, float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.search.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class CleanImages:
    """The samples as the model takes them: ``images`` (N, C, H, W) raw, ``classes`` (N,) what it takes them for, and the places ``usable``
    of those it classifies as labelled; of all where there are no labels. ``accuracy`` and ``base_rates`` as in
    :class:`Evidence`."""

    images: Tensor
    classes: Integers
    usable: Integers
    accuracy: float | None
    base_rates: Mapping[int, float] = field(default_factory=dict)


def require_classifier(model: RunnableModel, least: int = MIN_CLASSES) -> None:
    """Raise :class:`~modelguard.Skip` unless ``model`` is a classifier of at least so many classes."""
    if model.output.kind != "classifier":
        raise Skip(f"the model is {model.output.described}, not a classifier: it has no target class")
    if (classes := model.output.classes) < least:
        shown = f"{classes} class" if classes == 1 else f"{classes} classes"
        raise Skip(f"the model has {shown}: too few for one of them to stand out, {least} are needed")


def clean_images(target: Target, context: ScanContext, what: str, least: int = MIN_CLASSES) -> CleanImages:
    """The samples given with ``target``. Raises :class:`~modelguard.Skip` with the reason the model or samples do not allow a search.

    ``what`` names the search in the reason; ``least`` is the number of classes it takes.
    """
    model, samples = target.model, target.samples
    if samples is None:
        raise Skip(f"{what} needs clean samples: give --samples")
    if model.input.kind != "image":
        raise Skip(f"the model takes {model.input.kind} inputs; this search knows image triggers only")
    require_classifier(model, least)
    require_understanding(model, samples)
    context.check_deadline()
    images, classes = target.once((__name__, "clean"), lambda: _classified(model, samples))
    labels = class_numbers(model, samples)
    if labels is None:
        return CleanImages(images, classes, np.arange(len(images)), None)
    usable = np.flatnonzero(classes == labels)
    if 2 * (shown := len(np.unique(labels[usable]))) < (given := len(np.unique(labels))):
        # A network fed what it was not made for still gets some class right more often than by chance.
        raise Skip(
            f"the model classifies samples of only {shown} of the {given} classes given as labelled: they are not in the form it takes "
            "(see --input), or not of its task"
        )
    base = {k: float((classes == k)[labels != k].mean()) for k in range(model.output.classes) if (labels != k).any()}
    return CleanImages(images, classes, usable, float((classes == labels).mean()), base)


def _classified(model: RunnableModel, samples: Samples) -> tuple[Tensor, Integers]:
    """The samples as the model takes them, and what it takes them for."""
    images = model.inputs(samples)
    return images, model.predict(images.cpu().numpy()).argmax(1).astype(np.int64)


def turns(classes: Integers) -> Integers:
    """(N,) 0 for the first of each class, 1 for the second, and so on: taken in this order, every class has one before any has two."""
    turn = np.zeros(len(classes), np.int64)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        turn[members] = np.arange(len(members))
    return turn


def shortlist(rank: npt.NDArray[Any], rng: np.random.Generator) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Which of the K classes to search to the end, in order, and which of these are a random part, to compare the others with.

    ``rank`` (K,) is smallest for the most suspicious. All of up to :data:`CANDIDATES` + :data:`REFERENCES`, each a reference of the others;
    of more the first ones, and references drawn from the rest.
    """
    if len(rank) <= CANDIDATES + REFERENCES:
        return np.arange(len(rank)), np.ones(len(rank), np.bool_)
    order = np.argsort(rank, kind="stable")
    others = rng.choice(order[CANDIDATES:], REFERENCES, replace=False)
    kept = np.sort(np.concatenate([order[:CANDIDATES], others]))
    return kept, np.isin(kept, others)
