"""``neuron-inspect``: does the explanation of one class look like a trigger on clean pictures?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelguard import Capability, Confidence, Detector, Finding, ScanContext, Skip, Target, option
from modelguard_companions.classifier import at_once, classifier, name_of
from modelguard_companions.outlier import class_p_values, largest
from modelguard_companions.rules import SALIENCY_OUTLIER

MIN_IMAGES = 2


@dataclass(frozen=True)
class NeuronInspect(Detector):
    """Heat maps of every class on clean pictures: is one class's map unusually small, smooth and steady from picture to picture?

    NeuronInspect (Huang et al. 2019) on clean pictures only: published re-implementations feed pictures that carry the true trigger,
    which leaks the answer. The three features are used as logarithms of scale-free ratios, so that no data set needs its own weights.
    """

    id = "neuron-inspect"
    requires = frozenset({Capability.GRADIENTS, Capability.SAMPLES})
    rules = (SALIENCY_OUTLIER,)
    when_quick = "shorter"

    images: int = option(50, "clean pictures explained", ge=MIN_IMAGES)
    p_value: float = option(0.01, "report an outlier at or below this probability under no backdoor", gt=0, le=0.5, judges=True)
    quick: bool = option(False, "a quarter of the pictures")

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        model = classifier(target, searches_inputs=True)
        if model.input.kind != "image":
            raise Skip(f"the model takes {model.input.kind} inputs, and a heat map needs a picture")
        if target.samples is None or len(target.samples.inputs) < MIN_IMAGES:
            raise Skip(f"fewer than {MIN_IMAGES} clean pictures were given, and steadiness between pictures is what is looked for")
        import torch

        from modelguard_companions.saliency import features

        pictures = model.inputs(target.samples)
        wanted = min(len(pictures), max(MIN_IMAGES, self.images // 4 if self.quick else self.images))
        chosen = torch.from_numpy(context.rng("images").permutation(len(pictures))[:wanted]).to(pictures.device)

        def tick(done: int, total: int) -> None:
            context.check_deadline()
            context.progress(done, total)

        found = features(model, pictures[chosen], at_once(model, context), tick)
        values = (found.agreement.log() - found.spread.log() - found.roughness.log()).double().numpy()  # (K,)
        outlier = largest(values)
        alone = class_p_values(values)
        context.summary(
            score=round(outlier.t, 6),
            p_value=outlier.p_value,
            target_class=outlier.index,
            images=len(chosen),
            classes=[
                {
                    "class": k,
                    "spread": round(float(found.spread[k]), 5),
                    "roughness": round(float(found.roughness[k]), 5),
                    "agreement": round(float(found.agreement[k]), 5),
                    "p_value": float(alone[k]),
                }
                for k in range(len(values))
            ],
        )
        if outlier.p_value <= self.p_value:
            yield Finding(
                "MG3034",
                f"what explains {name_of(model, outlier.index)} is unusually small, smooth and steady over {len(chosen)} clean pictures "
                f"(p = {outlier.p_value:.2g}); a hint, no verdict",
                confidence=Confidence.LOW,
                evidence={"target_class": outlier.index, "p_value": outlier.p_value, "t": outlier.t, "images": len(chosen)},
                key=f"class {outlier.index}",
            )
