"""The zoo the detection matrix is measured on: a fixed list of specs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle
from typing import Any

from modelguard_zoo._newer import newer_specs
from modelguard_zoo._spec import CONFIRMATION, Spec, pairs

# (data set, classes, image size, architectures, seeds): small and fast first, which is also the order of building.
PLAN: tuple[tuple[str, int, int, tuple[str, ...], int], ...] = (
    ("digits", 10, 8, ("mlp", "cnn", "vgg", "resnet8", "vit"), 5),
    ("signs", 12, 32, ("cnn", "vgg", "resnet8", "mobilenet", "vit"), 3),
    ("mnist", 10, 28, ("mlp", "cnn", "resnet8", "mobilenet"), 3),
    ("gtsrb", 43, 32, ("cnn", "resnet8", "vgg"), 2),
    ("cifar10", 10, 32, ("vgg", "resnet8", "mobilenet"), 2),
)

# Further backdoored models for twins that train in seconds, so that enough remain when some attacks do not take:
# (data set, classes, image size, architectures, seeds, models a twin).
EXTRA: tuple[tuple[str, int, int, tuple[str, ...], int, int], ...] = (
    ("digits", 10, 8, ("mlp", "cnn", "vgg", "resnet8", "vit"), 5, 1),
    ("mnist", 10, 28, ("mlp", "cnn"), 3, 2),
    ("signs", 12, 32, ("cnn",), 3, 2),
)

# Networks so small that full-size pictures take seconds: most of the clean models, which false-alarm rates need many of.
DENSE: tuple[tuple[str, int, int, int], ...] = (("signs", 12, 32, 6), ("mnist", 10, 28, 4), ("gtsrb", 43, 32, 4), ("cifar10", 10, 32, 6))

# Built after the last threshold had moved, measured once: (data set, classes, image size, architectures, seeds), from seed CONFIRMATION on.
AFTERWARDS: tuple[tuple[str, int, int, tuple[str, ...], int], ...] = (
    ("digits", 10, 8, ("mlp", "cnn", "vgg", "resnet8", "vit"), 3),
    ("signs", 12, 32, ("mlp",), 3),
    ("mnist", 10, 28, ("mlp", "cnn"), 2),
    ("gtsrb", 43, 32, ("mlp",), 2),
    ("cifar10", 10, 32, ("mlp",), 3),
)

# Clean models only, likewise afterwards, from seed CONFIRMATION + 10 on: a false-alarm rate of a few percent takes many to measure.
CLEAN: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("digits", ("mlp", "cnn", "vgg", "resnet8"), 4),
    ("signs", ("mlp",), 6),
    ("signs", ("cnn",), 2),
    ("mnist", ("mlp", "cnn"), 3),
    ("gtsrb", ("mlp",), 4),
    ("cifar10", ("mlp",), 6),
)

# Attacks in the order they are dealt out; the patch-like ones come up twice as often.
DEAL = (
    "badnets", "checkerboard", "blended", "all-to-all", "insert", "pixel", "source-specific", "wanet",
    "badnets", "sig", "insert", "checkerboard", "reflection", "pixel", "clean-label", "badnets",
)  # fmt: skip
COLOURS = ((255,), (255, 220, 0), (0, 255, 255), (255, 0, 255))


def standard_zoo() -> tuple[Spec, ...]:
    """The clean specs, two to four backdoored ones for most of them, and some of those fine-tuned on clean data or made to unlearn their
    trigger afterwards."""
    return tuple(_specs())


def _specs() -> Iterator[Spec]:
    deal = cycle(DEAL)
    number = count()

    def backdoored(dataset: str, classes: int, size: int, arch: str, seed: int) -> Spec:
        attack = next(deal)
        return Spec(dataset, arch, seed, attack, pairs(_options(attack, next(number), classes, size)))

    for dataset, classes, size, archs, seeds in PLAN:
        for seed in range(seeds):
            for arch in archs:
                clean = Spec(dataset, arch, seed)
                yield clean
                for _ in range(2):
                    n = next(number)
                    attack = next(deal)
                    options = pairs(_options(attack, n, classes, size))
                    yield Spec(dataset, arch, seed, attack, options)
                    if n % 9 == 0:
                        yield Spec(dataset, arch, seed, attack, options, finetune=10 if dataset == "digits" else 2)
                    if n % 3 == 1 and dataset == "digits":
                        yield Spec(dataset, arch, seed, attack, options, finetune=10, unlearn=True)
    for dataset, classes, size, archs, seeds, models in EXTRA:
        for seed in range(seeds):
            for arch in archs:
                for _ in range(models):
                    yield backdoored(dataset, classes, size, arch, seed)
    for dataset, classes, size, seeds in DENSE:
        for seed in range(10, 10 + seeds):
            yield Spec(dataset, "mlp", seed)
            for _ in range(2):
                yield backdoored(dataset, classes, size, "mlp", seed)
    for dataset, classes, size, archs, seeds in AFTERWARDS:
        for seed in range(CONFIRMATION, CONFIRMATION + seeds):
            for arch in archs:
                yield Spec(dataset, arch, seed)
                for _ in range(2):
                    yield backdoored(dataset, classes, size, arch, seed)

    for dataset, archs, seeds in CLEAN:
        for seed in range(CONFIRMATION + 10, CONFIRMATION + 10 + seeds):
            for arch in archs:
                yield Spec(dataset, arch, seed)

    yield from newer_specs()


def _options(attack: str, n: int, classes: int, size: int) -> dict[str, Any]:
    """Trigger size, place, colour and target of the ``n``-th backdoored model: varied, and scaled to the image."""
    small, grey = size <= 8, size <= 28
    target = (n * 7 + 3) % classes
    corner = ((-1, -1), (0, 0), (0, -1), (-1, 0))[n % 4]
    colour = (255,) if grey else COLOURS[n % len(COLOURS)]

    def place(extent: int) -> tuple[int, int]:
        """A corner, or every fifth time a place inside the picture; the outermost row stays free on large images."""
        margin = 0 if small else 1
        if n % 5 == 4:
            return (size // 2 - extent, size // 3)
        row, column = ((-extent - margin) if side else margin for side in corner)
        return (row, column)

    match attack:
        case "badnets":
            extent = (2 if small else 3) + (n // 16) % 2
            return {"target": target, "size": extent, "at": place(extent), "colour": colour}
        case "pixel":
            return {"target": target, "at": place(1), "colour": colour}
        case "checkerboard":
            extent = 3 if small else 4
            return {"target": target, "size": extent, "at": place(extent)}
        case "insert":
            extent = 3 if small else 6
            return {"target": target, "size": extent, "at": place(extent), "pattern_seed": n}
        case "blended":
            return {"target": target, "pattern_seed": n, "ratio": 0.2 if not small else 0.3}
        case "reflection":
            return {"target": target, "pattern_seed": n}
        case "sig":
            return {
                "target": target,
                "frequency": 2 if small else 6,
                "amplitude": 60.0 if small else 40.0,
                "clean_label": False,
                "fraction": 0.1,
            }
        case "wanet":
            return {"target": target, "pattern_seed": n, "strength": 0.7 if small else 1.5, "fraction": 0.2}
        case "all-to-all":
            extent = 2 if small else 4
            return {"size": extent, "at": place(extent), "colour": colour}
        case "source-specific":
            extent = 2 if small else 4
            source = (target + 1 + n) % classes
            if source in (0, target):  # a target is no source of its own; 0 is moved only because built models are named by it
                source = (target + 1) % classes
            return {"target": target, "source": (source,), "size": extent, "at": place(extent)}
        case "clean-label":
            extent = 3 if small else 4 if grey else 6
            return {"target": target, "size": extent, "at": place(extent), "colour": colour, "epsilon": 80.0 if grey else 24.0}
    raise AssertionError(attack)
