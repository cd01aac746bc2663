"""Registers detectors that misbehave, each in one way, after having made one honest finding."""

from collections.abc import Iterable

from modelguard import Detector, hookimpl


@hookimpl
def modelguard_detectors() -> Iterable[type[Detector]]:
    from modelguard_faulty import detectors

    classes: list[type[Detector]] = detectors.ALL
    return classes
