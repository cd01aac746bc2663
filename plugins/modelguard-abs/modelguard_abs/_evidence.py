"""How the clean images are dealt to the two parts of the evidence: one image of each class may have to do."""

from __future__ import annotations

import numpy as np
import torch
from modelguard_triggers.case import Case, images_per_pass, ticker
from modelguard_triggers.evidence import Evidence, Integers, clean_images, turns

from modelguard import ScanContext, Skip, Target

MIN_CLASSES_SHOWN = 4
"""Classes the images must show: a trigger has to be searched on some and checked on others."""
MIN_CHECKED, MIN_CHECKED_CLASSES = 4, 2
"""Images, and classes among them, to check on: of one image a trigger turns all or none, and half of clean models have a class that
gets all (8 of 15 scans of clean digits models that checked on one)."""
MOST_CPU, MOST_GPU = 128, 512
"""Images in one pass at the most: on a CPU larger batches fall out of the cache (docs/search-plan.md)."""


def prepare(target: Target, context: ScanContext, per_class: int, most: int) -> Case:
    """A case with ``per_class`` images of each class to search on, and up to ``most`` others to check on.

    With one image a class, half of the classes are searched on and the other half are checked on: a trigger that was found on five
    classes and turns five others is no accident. Raises :class:`~modelguard.Skip` with the reason the model or samples do not allow it.
    """
    clean = clean_images(target, context, "stimulation")
    shown = len(np.unique(clean.classes[clean.usable]))
    if shown < MIN_CLASSES_SHOWN:
        raise Skip(
            f"the samples the model classifies as labelled show {shown} classes, {MIN_CLASSES_SHOWN} are needed: give one of each class"
        )
    search, check = _parts(clean.usable, clean.classes, per_class, most, context.rng("split"))
    if len(check) < MIN_CHECKED or len(np.unique(clean.classes[check])) < MIN_CHECKED_CLASSES:
        raise Skip(
            f"of {len(clean.usable)} samples classified as labelled, {len(check)} are left to check triggers on; {MIN_CHECKED} of "
            f"{MIN_CHECKED_CLASSES} classes are needed: give more samples"
        )
    model, classes = target.model, torch.from_numpy(clean.classes)
    evidence = Evidence(
        clean.images[search],
        classes[search],
        clean.images[check],
        classes[check],
        model.output.classes,
        clean.accuracy,
        clean.base_rates,
    )
    most = MOST_CPU if model.device.type == "cpu" else MOST_GPU
    return Case(model, evidence, images_per_pass(model, context, most=most), context.rng, ticker(context), context.remaining)


def _parts(usable: Integers, classes: Integers, per_class: int, most: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    shuffled = rng.permutation(usable)
    own = classes[shuffled]
    turn, present, counts = turns(own), np.unique(own), np.bincount(own)
    # Never more than half of a class's images, so that what is checked on shows it too; a single image is searched on.
    several = turn < np.minimum(per_class, np.maximum(counts[own] // 2, 1))
    # Where most classes have a single one, half of the classes are searched on: a spare image or two are too few to check on.
    first = several if 2 * (counts[present] > 1).sum() >= len(present) else np.isin(own, present[::2])
    check = shuffled[~first]
    order = np.argsort(turn[~first], kind="stable")[:most]  # in every turn of one image a class, the classes in random order
    return np.sort(shuffled[first]), np.sort(check[order])
