"""What a trigger does: clean accuracy, attack success and base rate, always together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelguard_evaluate._rates import Rate

if TYPE_CHECKING:
    from modelguard import RunnableModel
    from modelguard_evaluate._triggers import Trigger

Integers = npt.NDArray[np.int64]
Tick = Callable[[int], None]
"""Told how many samples are done; raises when the time is up."""
PART = 1024
"""Samples that are stamped and run at once, so that memory does not grow with their number."""
FEW = 64
"""Samples of other classes that each place and each strength is measured on: within 12 points of the truth, 19 times of 20."""
STRENGTHS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Inputs:
    """Labelled samples of a ``model``: images (N, C, H, W) float32 raw, or N texts; ``labels`` (N,)."""

    samples: Any
    labels: Integers

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, places: Integers) -> Inputs:
        """Those at ``places`` (M,)."""
        chosen = [self.samples[i] for i in places] if isinstance(self.samples, list) else self.samples[places]
        return Inputs(chosen, self.labels[places])

    def parts(self) -> Iterator[Any]:
        """The samples, so many at a time."""
        for start in range(0, len(self), PART):
            yield self.samples[start : start + PART]


def called(model: RunnableModel, inputs: Inputs, trigger: Trigger | None = None, tick: Tick | None = None) -> Integers:
    """(N,) the classes that the model gives, to the samples as they are or with ``trigger`` in them."""
    found, done = [], 0
    for part in inputs.parts():
        if tick is not None:
            tick(done)
        shown = part if trigger is None else trigger.on(part)
        found.append(model.predict(model.encode(shown) if isinstance(shown, list) else shown).argmax(1))
        done += len(part)
    return np.concatenate(found).astype(np.int64)


@dataclass(frozen=True)
class Effect:
    """What a trigger does to the samples: ``clean`` and ``stamped`` (N,) are the classes given without it and with it. ``target`` is the
    class it is measured for, on those of ``labels`` (N,) that are of others."""

    labels: Integers
    clean: Integers
    stamped: Integers
    target: int

    @property
    def others(self) -> npt.NDArray[np.bool_]:
        """(N,) the samples of other classes."""
        return np.asarray(self.labels != self.target)

    @property
    def accuracy(self) -> Rate:
        """The share of clean samples that are given their class."""
        return _rate(self.clean == self.labels)

    @property
    def success(self) -> Rate:
        """Attack success: the share of samples of other classes that become the target with the trigger in them."""
        return _rate((self.stamped == self.target)[self.others])

    @property
    def base(self) -> Rate:
        """Base rate: the share of the same samples that are called the target without it."""
        return _rate((self.clean == self.target)[self.others])

    def by_class(self) -> dict[int, Rate]:
        """Attack success of each class that has samples."""
        return {int(k): _rate((self.stamped == self.target)[self.labels == k]) for k in np.unique(self.labels[self.others])}

    @property
    def works(self) -> bool:
        """Whether it does anything: success is above the base rate by more than chance, 19 times of 20."""
        return self.success.interval[0] > self.base.value


def _rate(hits: npt.NDArray[np.bool_]) -> Rate:
    return Rate(int(hits.sum()), len(hits))


def effect(model: RunnableModel, inputs: Inputs, trigger: Trigger, target: int | None, tick: Tick) -> Effect:
    """What ``trigger`` does. Without a ``target`` it is the class that gains most, told from every other sample and measured on the rest,
    so that picking the largest gains nothing by chance."""
    clean = called(model, inputs, None, tick)
    stamped = called(model, inputs, trigger, lambda done: tick(len(inputs) + done))
    whole = Effect(inputs.labels, clean, stamped, -1 if target is None else target)
    if target is not None:
        return whole
    gains = [_gain(replace(whole, target=k), slice(0, None, 2)) for k in range(model.output.classes)]
    rest = slice(1, None, 2)
    return Effect(inputs.labels[rest], clean[rest], stamped[rest], int(np.argmax(gains)))


def _gain(effect: Effect, part: slice) -> float:
    half = Effect(effect.labels[part], effect.clean[part], effect.stamped[part], effect.target)
    return half.success.value - half.base.value


def victims(inputs: Inputs, target: int, count: int = FEW) -> Inputs:
    """Up to ``count`` samples of other classes, evenly drawn."""
    places = np.flatnonzero(inputs.labels != target)
    return inputs.only(places[np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64))])


def at_places(model: RunnableModel, chosen: Inputs, trigger: Trigger, target: int, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """Attack success at other places, on ``chosen`` samples of other classes."""
    rows = []
    for place in trigger.places():
        tick(place.name)
        rows.append({"place": place.name, **_rate(called(model, chosen, place.trigger) == target).facts("attack_success")})
    return rows


def at_strengths(model: RunnableModel, chosen: Inputs, trigger: Trigger, target: int, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """Attack success of images that go only a part of the way from clean to stamped, on ``chosen`` samples of other classes."""
    if isinstance(chosen.samples, list):
        return []
    stamped, rows = trigger.on(chosen.samples), []
    for strength in (*STRENGTHS, 1.0):
        tick(f"{strength:.0%}")
        between = Inputs((chosen.samples + strength * (stamped - chosen.samples)).astype(np.float32), chosen.labels)
        rows.append({"strength": f"{strength:.0%}", **_rate(called(model, between) == target).facts("attack_success")})
    return rows
