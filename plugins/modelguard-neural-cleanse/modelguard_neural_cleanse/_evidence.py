"""How the clean images are dealt to the two parts of the evidence: in halves, class by class."""

from __future__ import annotations

import numpy as np
import torch
from modelguard_triggers.case import Case, images_per_pass, ticker
from modelguard_triggers.evidence import Evidence, Integers, clean_images, turns
from modelguard_triggers.outliers import MIN_CLASSES

from modelguard import ScanContext, Skip, Target

MIN_SAMPLES = 10
"""Fewer leave nothing to verify on."""
MOST_CPU, MOST_GPU = 128, 4096
"""Images in one pass at the most: on a CPU larger batches fall out of the cache."""


def prepare(target: Target, context: ScanContext, limit: int, least: int = MIN_CLASSES) -> Case:
    """A case of at most ``limit`` images and at least ``least`` classes. Raises :class:`~modelguard.Skip` with the reason the model or
    samples do not allow one."""
    clean = clean_images(target, context, "trigger inversion", least)
    search, check = _halves(clean.usable, clean.classes, limit, context.rng("split"))
    if len(search) < MIN_SAMPLES // 2 or len(check) < MIN_SAMPLES // 2:
        raise Skip(
            f"{len(clean.usable)} of {len(clean.images)} samples are classified as labelled, {MIN_SAMPLES} are needed to search and to "
            "verify: give more samples"
        )
    if len(np.unique(clean.classes[search])) < 2:
        raise Skip("all usable samples are of one class: give samples of several classes")
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
    return Case(model, evidence, images_per_pass(model, context, most=most, copies=3), context.rng, ticker(context), context.remaining)


def _halves(usable: Integers, classes: Integers, limit: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Every class dealt out in turn to the two parts until ``limit``: one image of each, then a second of each, and so on. Of a round
    that ``limit`` cuts short, chance says which classes have their turn.
    """
    shuffled = rng.permutation(usable)
    turn = turns(classes[shuffled])
    order = np.argsort(turn, kind="stable")[:limit]
    chosen, place = shuffled[order], turn[order]
    # Which part gets the odd one out alternates by class, so that single samples do not all land in one part.
    second = (place + classes[chosen]) % 2 == 1
    return np.sort(chosen[~second]), np.sort(chosen[second])
