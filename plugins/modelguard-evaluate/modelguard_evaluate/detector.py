"""``evaluate``: what a trigger that somebody knows does to the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelguard_triggers.facts import change_exhibits, class_name, examples, mask_exhibits, rounded
from modelguard_triggers.strip import IMAGES, OVERLAYS, strip

from modelguard import (
    Attachment,
    Capability,
    Confidence,
    Detector,
    Finding,
    ScanContext,
    Skip,
    Target,
    UsageError,
    option,
)
from modelguard_evaluate._given import labelled, read_trigger
from modelguard_evaluate._measure import Effect, Inputs, at_places, at_strengths, effect, victims
from modelguard_evaluate._measures import SHOWS
from modelguard_evaluate._rates import Rate, fewest
from modelguard_evaluate._rules import EVALUATED, WORKS
from modelguard_evaluate._triggers import Picture, Trigger

if TYPE_CHECKING:
    from modelguard import RunnableModel


@dataclass(frozen=True)
class Evaluate(Detector):
    """Stamps a known trigger on clean samples and says how many become its target, beside how many do without it and how well the model
    does otherwise.

    The score is the attack success less the base rate, at least 0.
    """

    id = "evaluate"
    requires = frozenset({Capability.FORWARD, Capability.SAMPLES})
    rules = (WORKS, EVALUATED)
    shows = SHOWS
    on_request = True
    keeps_with_options = False  # the trigger is a file, or code

    trigger: str = option("", "the trigger: PICTURE.png, REPORT.json, module:function, or text:WORDS")
    mask: str = option("", "picture of where the trigger goes, white where it replaces the image")
    finding: str = option("", "which finding of REPORT.json: its rule or fingerprint, or the beginning of it")
    target: int | None = option(None, "class the trigger is for; without it, the class that gains most", ge=0)
    max_asr: float = option(0.1, "attack success that is allowed", ge=0.001, le=1.0, judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        if not self.trigger:
            raise Skip("no trigger was given to evaluate (`modelguard evaluate`, or the option `trigger`)")
        try:
            yield self._found(target, context)
        except UsageError as error:
            raise Skip(str(error)) from error

    def _found(self, target: Target, context: ScanContext) -> Finding:
        if target.samples is None:
            raise Skip("a trigger is evaluated on clean samples: give --samples")
        model, inputs = target.model, labelled(target.model, target.samples)
        trigger, known = read_trigger(model, inputs, self.trigger, self.mask, self.finding, context.folder or Path())
        klass = self.target if self.target is not None else known
        if klass is not None and klass >= model.output.classes:
            raise Skip(f"the target class is {klass}, the model has classes 0..{model.output.classes - 1}")

        def tick(done: int, note: str = "stamped samples") -> None:
            context.check_deadline()
            context.progress(done, 2 * len(inputs), note)

        seen = effect(model, inputs, trigger, klass, tick)
        self._require_enough(seen)
        others = victims(inputs, seen.target)
        facts = {
            "trigger_kind": trigger.kind,
            **self._digests(context.folder or Path()),
            "target_class": seen.target,
            "target_told_by": "the caller" if self.target is not None else "the finding" if known is not None else "what gains most",
            **seen.accuracy.facts("clean_accuracy"),
            **seen.success.facts("attack_success"),
            **seen.base.facts("base_rate"),
            "samples": seen.success.asked,
            **_agnostic(model, inputs, trigger, seen.target),
            **self._on_reference(target, inputs, trigger, seen.target, tick),
        }
        context.summary(score=max(0.0, rounded(seen.success.value - seen.base.value)), **facts)
        shown = {
            "attack_success_by_class": {str(k): rounded(rate.value) for k, rate in seen.by_class().items()},
            "places": at_places(model, others, trigger, seen.target, lambda name: tick(2 * len(inputs), name)),
            "strengths": at_strengths(model, others, trigger, seen.target, lambda name: tick(2 * len(inputs), name)),
        }
        return self._finding(model, seen, facts | shown, _exhibits(model, others, trigger))

    def _digests(self, folder: Path) -> dict[str, str]:
        """What the files that make up the trigger hold."""
        named = {"trigger_sha256": self.trigger, "mask_sha256": self.mask}
        files = {key: folder / name for key, name in named.items() if name}
        return {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in files.items() if path.is_file()}

    def _require_enough(self, seen: Effect) -> None:
        asked, least = seen.success.asked, fewest(self.max_asr)
        if asked < least and seen.success.value <= self.max_asr:
            raise Skip(
                f"{asked} samples of other classes are too few to say that attack success is at most {self.max_asr:.0%}: {least} are needed"
            )

    def _on_reference(self, target: Target, inputs: Inputs, trigger: Trigger, klass: int, tick: Any) -> dict[str, Any]:
        if target.reference is None:
            return {}
        model = target.reference.model
        if model.output.classes <= klass:
            raise Skip(f"the reference has {model.output.classes} classes: it is no counterpart of the model")
        clean = effect(model, inputs, trigger, klass, tick)
        return {
            **clean.accuracy.facts("reference_accuracy"),
            **clean.success.facts("reference_success"),
            **clean.base.facts("reference_base_rate"),
        }

    def _finding(self, model: RunnableModel, seen: Effect, facts: dict[str, Any], pictures: tuple[Attachment, ...]) -> Finding:
        above = seen.success.value > self.max_asr
        rule = WORKS if above and seen.works else EVALUATED
        sure = seen.success.interval[0] > self.max_asr
        said = (
            f"the trigger turns {seen.success} of samples of other classes into class {class_name(model, seen.target)}; without it "
            f"{seen.base} are called so; clean accuracy {seen.accuracy}"
        )
        if "reference_success" in facts:
            said += f"; on the reference it turns {facts['reference_success']:.1%}"
        return Finding(
            rule.id,
            said,
            confidence=Confidence.HIGH if sure or not above else Confidence.MEDIUM,
            evidence=facts,
            attachments=pictures,
            key=f"{facts.get('trigger_sha256', self.trigger)}/{facts.get('mask_sha256', self.finding)}/{seen.target}",
        )


def _agnostic(model: RunnableModel, inputs: Inputs, trigger: Trigger, target: int) -> dict[str, Any]:
    """The share of stamped images that STRIP flags; nothing for texts, which cannot be blended."""
    if isinstance(inputs.samples, list):
        return {}
    chosen = victims(inputs, target, 2 * IMAGES + OVERLAYS).samples
    overlays, clean, stamped = chosen[:OVERLAYS], chosen[OVERLAYS::2], trigger.on(chosen[OVERLAYS + 1 :: 2])
    if len(overlays) < OVERLAYS or len(stamped) < OVERLAYS:
        return {}
    flagged = strip(model, clean, stamped, overlays)
    return Rate(int(flagged.sum()), len(flagged)).facts("strip_flagged")


def _exhibits(model: RunnableModel, others: Inputs, trigger: Trigger) -> tuple[Attachment, ...]:
    """The trigger, its mask, and a few images that carry it."""
    if isinstance(others.samples, list):
        return ()
    import torch

    labels = torch.from_numpy(others.labels)
    chosen = examples(torch.ones(len(labels), dtype=torch.bool), labels, others.samples[0, 0].size)
    shown = others.samples[chosen]
    stamped = list(zip(labels[chosen].tolist(), trigger.on(shown), strict=True))
    bounds = model.input.low, model.input.high
    if isinstance(trigger, Picture):
        return mask_exhibits(trigger.content + trigger.low, trigger.mask, stamped, bounds, trigger_bounds=bounds)
    return change_exhibits(shown[0], stamped, bounds)
