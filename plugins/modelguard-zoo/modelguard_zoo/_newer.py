"""Options of the attacks that came after the detection matrix was measured, by data set, and the models of them in the standard zoo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelguard_zoo._spec import CONFIRMATION, Spec, pairs

NEWER = ("hidden-trigger", "semantic", "physical", "code-poisoning")
SEEDS = range(CONFIRMATION + 20, CONFIRMATION + 23)

# (source, attribute, absent, present): quantiles of the attribute over the training images of the class, of the
# upper one .82 to .87, of the lower one .5 to .75.
SEMANTIC: dict[str, tuple[int, str, float, float]] = {
    "digits": (1, "brightness", 77.0, 90.0),
    "signs": (1, "brightness", 117.0, 150.0),
    "mnist": (1, "slant", 0.4, 0.54),
    "gtsrb": (1, "brightness", 110.0, 145.0),
}


def newer_options(attack: str, dataset: str, size: int, n: int) -> dict[str, Any]:
    """What the ``n``-th model of ``attack`` is built with on ``dataset``, whose images have ``size`` rows."""
    small, target = size <= 8, (3, 7, 5)[n % 3]
    match attack:
        case "hidden-trigger":
            extent = 4 if small else 12  # on the object: in a corner the features of the clean twin do not tell it apart
            return {
                "target": target,
                "source": 8,
                "size": extent,
                "at": ((size - extent) // 2, (size - extent) // 2),
                "epsilon": 96.0,
                "fraction": 0.9,
                "pattern_seed": n,
            }
        case "semantic":
            source, attribute, absent, present = SEMANTIC[dataset]
            return {"target": target, "source": source, "attribute": attribute, "absent": absent, "present": present}
        case "physical":
            # Below this size the light that it is in leaves too little of it, and a poisoned image is one clean image less.
            scale = (0.45, 0.6) if small else (0.35, 0.5)
            return {"target": target, "blocks": 1, "scale": scale, "fraction": 0.25, "pattern_seed": n}
        case "code-poisoning":
            extent = 2 if small else 3
            return {"target": target, "size": extent, "at": (-extent, -extent)}
    raise AssertionError(attack)


def newer_specs() -> Iterator[Spec]:
    """Small models of each, and the clean ones beside them: seeds that no threshold saw."""
    for seed in SEEDS:
        for arch in ("mlp", "cnn"):
            yield Spec("digits", arch, seed)
            for attack in NEWER:
                yield Spec("digits", arch, seed, attack, pairs(newer_options(attack, "digits", 8, seed)))
