"""What a repair is judged by: accuracy, and what triggers do, on samples that no method sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from modelguard_evaluate import Inputs, Rate, Trigger, effect, read_trigger, shown, trigger_of

from modelguard import SamplesError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from modelguard import Report, RunnableModel, Samples
    from modelguard_repair._request import KnownTrigger

FEWEST = 60
"""Samples in all: half are repaired on, and of the rest too few would say nothing of two points of accuracy."""


@dataclass(frozen=True)
class Named:
    """A trigger, where it comes from, and the class it is for (None: the one that gains most)."""

    name: str
    trigger: Trigger
    target: int | None


@dataclass(frozen=True)
class Measured:
    """What one trigger does: attack ``success`` beside the ``base`` rate without it; whether it ``works`` beyond chance."""

    name: str
    target: int
    success: Rate
    base: Rate
    works: bool


@dataclass(frozen=True)
class Score:
    """``accuracy`` on the samples held out, and what each trigger does on them."""

    accuracy: Rate
    triggers: tuple[Measured, ...]

    @property
    def worst(self) -> float:
        """The largest attack success of all triggers; 0 where none is known."""
        return max((item.success.value for item in self.triggers), default=0.0)

    def alive(self, most: float) -> tuple[Measured, ...]:
        """The triggers that turn more than a share ``most``, and more than chance."""
        return tuple(item for item in self.triggers if item.success.value > most and item.works)

    def facts(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            **self.accuracy.facts("accuracy"),
            "triggers": [
                {"name": item.name, "target_class": item.target, **item.success.facts("attack_success"), **item.base.facts("base_rate")}
                for item in self.triggers
            ],
        }


def check(samples: Samples) -> None:
    """Raise :class:`~modelguard.SamplesError` where no repair can be made with them, whatever the model."""
    if samples.labels is None:
        raise SamplesError(samples.origin, "has no labels", "give labels as well: a repair is taught and judged by them")
    if len(np.unique(samples.labels)) < 2:
        raise SamplesError(samples.origin, "has samples of one class only", "give samples of all classes")
    if len(samples.inputs) < FEWEST:
        raise SamplesError(samples.origin, f"has {len(samples.inputs)} samples, {FEWEST} are needed", "give a few hundred")


def split(inputs: Inputs, seed: int) -> tuple[Inputs, Inputs]:
    """Two halves that share no sample, of every class as many, drawn by ``seed``: to repair on, and to judge by."""
    rng = np.random.default_rng([3, seed])
    order = rng.permutation(len(inputs))
    order = order[np.argsort(inputs.labels[order], kind="stable")]
    return inputs.only(np.sort(order[::2])), inputs.only(np.sort(order[1::2]))


def known(model: RunnableModel, inputs: Inputs, given: KnownTrigger, folder: Path) -> Named:
    """The trigger that the user gave. Raises what ``read_trigger`` does, and :class:`~modelguard.UsageError` for a class there is not."""
    trigger, told = read_trigger(model, inputs, given.trigger, given.mask, given.finding, folder)
    target = given.target if given.target is not None else told
    if target is not None and target >= model.output.classes:
        raise UsageError(f"--target {target}", f"the model has classes 0 to {model.output.classes - 1}", "name one of them")
    return Named("known", trigger, target)


def recovered(model: RunnableModel, inputs: Inputs, report: Report) -> tuple[list[Named], list[str]]:
    """The triggers that the findings of a report show, each once, and why others could not be taken."""
    found: dict[Any, Named] = {}
    notes = []
    for finding in shown(report):
        try:
            trigger, target = trigger_of(finding, model, inputs, f"finding {finding.rule}")
        except UsageError as error:
            notes.append(str(error))
            continue
        sample = trigger.on(inputs.samples[:1])
        key = (target, sample[0] if isinstance(sample, list) else sample.tobytes())
        found.setdefault(key, Named(f"recovered {len(found) + 1}: {finding.rule}", trigger, target))
    return list(found.values()), notes


def score(model: RunnableModel, held: Inputs, triggers: tuple[Named, ...]) -> Score:
    """Measure a model that was built from its file and not changed since."""
    hits = np.concatenate([_predict(model, part) for part in held.parts()]).argmax(1) == held.labels
    seen = []
    for item in triggers:
        what = effect(model, held, item.trigger, item.target, lambda done: None)
        seen.append(Measured(item.name, what.target, what.success, what.base, what.works))
    return Score(Rate(int(hits.sum()), len(held)), tuple(seen))


def settled(model: RunnableModel, held: Inputs, triggers: tuple[Named, ...]) -> tuple[Named, ...]:
    """The triggers, each for a class: the one that gains most where nobody named one."""
    return tuple(
        item if item.target is not None else replace(item, target=effect(model, held, item.trigger, None, lambda done: None).target)
        for item in triggers
    )


def _predict(model: RunnableModel, part: Any) -> Any:
    return model.predict(model.encode(part) if isinstance(part, list) else part)
