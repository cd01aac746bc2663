"""What a search starts from: the samples, checked and split in two, and how much the machine can take at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelguard import ScanContext, Skip, Target, class_numbers, require_understanding

MIN_SAMPLES = 10
"""Fewer leave nothing to verify on."""


@dataclass(frozen=True)
class Evidence:
    """Clean images the model classifies as it should, in two parts that share none: one to search on, one to check on.

    ``search`` and ``check`` are (N, C, H, W) canonical and raw, ``*_labels`` (N,) their classes, on the CPU. ``accuracy`` is over all
    samples given, None without labels.
    """

    search: Tensor
    search_labels: Tensor
    check: Tensor
    check_labels: Tensor
    classes: int
    accuracy: float | None

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.search.shape[1:]
        return channels, height, width


def prepare(target: Target, context: ScanContext, limit: int) -> Evidence:
    """Evidence of at most ``limit`` images. Raises :class:`~modelguard.Skip` with the reason the model or samples do not allow one."""
    model, samples = target.model, target.samples
    if samples is None:
        raise Skip("trigger inversion needs clean samples: give --samples")
    if model.output.kind != "classifier":
        raise Skip(f"the model is a {model.output.kind}, not a classifier: it has no target class")
    if model.input.kind != "image":
        raise Skip(f"the model takes {model.input.kind} inputs; this search knows image triggers only")
    if model.output.classes < 2:
        raise Skip("the model has one class: nothing can be turned into another")
    require_understanding(model, samples)
    images = model.inputs(samples)
    predicted = model.predict(images.cpu().numpy()).argmax(1)
    labels = class_numbers(model, samples)
    accuracy = None if labels is None else float((predicted == labels).mean())
    usable = np.arange(len(images)) if labels is None else np.flatnonzero(predicted == labels)
    if labels is not None and 2 * (shown := len(np.unique(labels[usable]))) < (given := len(np.unique(labels))):
        # A network fed what it was not made for still gets some class right more often than by chance.
        raise Skip(
            f"the model classifies samples of only {shown} of the {given} classes given as labelled: they are not in the form it takes "
            "(see --input), or not of its task"
        )
    search, check = _halves(usable, predicted, limit, context.rng("split"))
    if len(search) < MIN_SAMPLES // 2 or len(check) < MIN_SAMPLES // 2:
        raise Skip(
            f"{len(usable)} of {len(images)} samples are classified as labelled, {MIN_SAMPLES} are needed to search and to verify: "
            "give more samples"
        )
    if len(np.unique(predicted[search])) < 2:
        raise Skip("all usable samples are of one class: give samples of several classes")
    classes = torch.from_numpy(predicted.astype(np.int64))
    return Evidence(images[search], classes[search], images[check], classes[check], model.output.classes, accuracy)


def _halves(
    usable: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], limit: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every class dealt out in turn to the two parts until ``limit``: one image of each, then a second of each, and so on. Of a round
    that ``limit`` cuts short, chance says which classes have their turn.
    """
    shuffled = rng.permutation(usable)
    turn = np.zeros(len(shuffled), np.int64)
    for label in np.unique(classes[shuffled]):
        members = np.flatnonzero(classes[shuffled] == label)
        turn[members] = np.arange(len(members))
    order = np.argsort(turn, kind="stable")[:limit]
    chosen, place = shuffled[order], turn[order]
    # Which part gets the odd one out alternates by class, so that single samples do not all land in one part.
    second = (place + classes[chosen]) % 2 == 1
    return np.sort(chosen[~second]), np.sort(chosen[second])


def images_at_once(target: Target, context: ScanContext) -> int:
    """Images that fit into one forward and backward pass within a quarter of the memory limit (1 GiB when there is none)."""
    layers = target.model.layers
    values = sum(prod(layer.shape) for layer in layers if all(size > 0 for size in layer.shape)) + 4 * prod(
        map(abs, target.model.input.shape)
    )
    budget = (context.memory_limit or 4 << 30) // 4
    most = 128 if target.model.device.type == "cpu" else 4096  # on a CPU larger batches fall out of the cache
    return int(np.clip(budget // (4 * 3 * max(1, values)), 1, most))


def generator(context: ScanContext, stream: str) -> torch.Generator:
    """A torch generator seeded from the context's randomness."""
    return torch.Generator().manual_seed(int(context.rng(stream).integers(2**62)))
