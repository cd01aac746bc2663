"""``neuron-inspect``: does the explanation of one class look like a trigger on clean images?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelguard_triggers.facts import class_name
from modelguard_triggers.outliers import class_p_values, largest

from modelguard import Capability, Confidence, DeadlineExceeded, Detector, Finding, ScanContext, Skip, Target, option
from modelguard_companions._classifier import searchable
from modelguard_companions._measures import SALIENCY
from modelguard_companions._rules import SALIENCY_OUTLIER

MIN_IMAGES = 2
MOST = 256
"""Images in one pass at the most."""


@dataclass(frozen=True)
class NeuronInspect(Detector):
    """Heat maps of every class on clean images: is one class's map unusually small, smooth and steady from image to image?

    NeuronInspect (Huang et al. 2019) on clean images only: published re-implementations feed images that carry the true trigger,
    which leaks the answer. The three features are used as logarithms of scale-free ratios, so that no data set needs its own weights.
    """

    id = "neuron-inspect"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (SALIENCY_OUTLIER,)
    shows = SALIENCY
    cost = 50
    when_quick = "shorter"

    images: int = option(50, "clean images explained", ge=MIN_IMAGES)
    p_value: float = option(0.01, "report an outlier at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    quick: bool = option(False, "a quarter of the images")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        model = searchable(target)
        if model.input.kind != "image":
            raise Skip(f"the model takes {model.input.kind} inputs, and a heat map needs an image")
        if target.samples is None or len(target.samples.inputs) < MIN_IMAGES:
            raise Skip(f"fewer than {MIN_IMAGES} clean images were given, and steadiness between images is what is looked for")
        import torch
        from modelguard_triggers.case import affordable, images_per_pass, ticker

        from modelguard_companions._saliency import features

        images = model.inputs(target.samples)
        wanted = min(len(images), max(MIN_IMAGES, self.images // 4 if self.quick else self.images))
        chosen = torch.from_numpy(context.rng("images").permutation(len(images))[:wanted]).to(images.device)

        batch, tick = images_per_pass(model, context, most=MOST, inputs=1), ticker(context)
        shown, total = images[chosen], model.output.classes
        classes = affordable(model, shown[:batch], lambda n: n * wanted, total, context.remaining, context.rng("order"), tick)
        found = features(model, classes.tolist(), shown, batch, tick)
        values = (found.agreement.log() - found.spread.log() - found.roughness.log()).double().numpy()  # (K,)
        outlier = largest(values)
        alone = class_p_values(values)
        context.summary(
            score=round(outlier.t, 6),
            p_value=outlier.p_value,
            target_class=int(classes[outlier.index]),
            images=len(chosen),
            classes=[
                {
                    "class": int(k),
                    "spread": round(float(found.spread[place]), 5),
                    "roughness": round(float(found.roughness[place]), 5),
                    "agreement": round(float(found.agreement[place]), 5),
                    "p_value": float(alone[place]),
                }
                for place, k in enumerate(classes)
            ],
        )
        if outlier.p_value <= self.p_value:
            accused = int(classes[outlier.index])
            yield Finding(
                "MG3034",
                f"what explains class {class_name(model, accused)} is unusually small, smooth and steady over {len(chosen)} "
                f"clean pictures (p = {outlier.p_value:.2g}); a hint, no verdict",
                confidence=Confidence.LOW,
                evidence={"target_class": accused, "p_value": outlier.p_value, "t": outlier.t, "images": len(chosen)},
                key=f"class {accused}",
            )
        if len(classes) < total:
            raise DeadlineExceeded(f"{len(classes)} of {total} classes were looked at")
