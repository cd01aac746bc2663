"""``final-layer``: does one class's final-layer weights stand out? Milliseconds, no data, and no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from modelguard_triggers.evidence import require_classifier
from modelguard_triggers.facts import class_name
from modelguard_triggers.outliers import class_p_values, largest
from modelguard_triggers.plan import Look, Search, Stage

from modelguard import Capability, Confidence, Finding, ModelError, ScanContext, Skip, Target, option
from modelguard_companions._measures import FINAL_LAYER
from modelguard_companions._rules import FINAL_LAYER_OUTLIER

if TYPE_CHECKING:
    import torch

    from modelguard import RunnableModel
    from modelguard.model import Layer

VALUES = 1 << 24
"""Activation values that go through the rest of the model at a time: 64 MiB. All 2048 units of a ResNet-50 at once are 0.8 GB."""


@dataclass(frozen=True)
class FinalLayer(Search):
    """Compares the classes by the sum of their final-layer weights, after the part common to all classes is taken off.

    The trojan signature of Fields et al., "Trojan Signatures in DNN Weights", ICCV-W 2021: the target's row of the final layer is
    shifted upwards. Row sums rank the true target first in most trojaned networks that end in averaged non-negative features, and clean
    networks reach the same values often enough that the rule is of low severity.
    """

    id = "final-layer"
    requires = frozenset({Capability.GRADIENTS})
    rules = (FINAL_LAYER_OUTLIER,)
    shows = FINAL_LAYER

    p_value: float = option(
        0.01, "report an outlier at or below this probability under normally distributed rows", gt=0, le=0.5, judges=True
    )

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        model = target.model
        require_classifier(model)
        context.check_deadline()
        layer, weight = target.memo(self, context, lambda: final_weights(model))  # (K, d)
        sums, norms = weight.sum(axis=1), np.linalg.norm(weight, axis=1)  # (K,), (K,)
        found = largest(sums)
        alone = class_p_values(sums)
        findings = []
        if found.p_value <= self.p_value:
            hint = Finding(
                "MG3032",
                f"the final-layer weights of class {class_name(model, found.index)} sum to {found.t:.1f} standard deviations more than the "
                f"other classes' (p = {found.p_value:.2g}); a hint, no verdict",
                confidence=Confidence.LOW,
                evidence={"target_class": found.index, "p_value": found.p_value, "t": found.t, "layer": layer, "features": weight.shape[1]},
                key=f"class {found.index}",
            )
            findings.append(hint)
        return Look(
            {
                "score": round(found.t, 6),
                "p_value": found.p_value,
                "target_class": found.index,
                "layer": layer,
                "classes": [
                    {"class": k, "sum": round(float(sums[k]), 5), "norm": round(float(norms[k]), 5), "p_value": float(alone[k])}
                    for k in range(len(sums))
                ],
            },
            tuple(findings),
            p={},  # it has no longer search to ask for
            votes=alone,
        )


def final_weights(model: RunnableModel) -> tuple[str, npt.NDArray[np.float64]]:
    """The last layer after which the model is affine, and the class-centred matrix (K, units) that follows it, read off by behaviour.

    What the model makes of one unit raised everywhere in its map is the unit's column, whatever the format, the names, and the pooling
    in between. Softmax does not see what is common to all classes, so each column is centred. Raises :class:`Skip` when no affine map
    leads from any layer to the logits.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for layer in reversed(model.layers):
        if any(size < 1 for size in layer.shape):
            continue
        try:
            _, back = model.split(layer.name)
        except ModelError:
            continue
        with torch.inference_mode():
            a, b = torch.randn((2, *layer.shape), generator=generator).to(model.device)
            origin, of_a, of_b, of_both = _centred(back(torch.stack([torch.zeros_like(a), a, b, a + b])))  # each (K,)
            scale = float((of_a - origin).abs().max()) + 1e-12
            if not torch.allclose(of_both - origin, (of_a - origin) + (of_b - origin), rtol=0, atol=1e-3 * scale):
                raise Skip(f"what follows the last layer that can be cut ({layer.name}) is not affine")
            if layer.shape == (len(origin),) and torch.allclose(of_a - origin, _centred(a[None])[0], atol=1e-3 * scale):
                continue  # the logits themselves
            columns = torch.cat([_centred(back(basis)) for basis in _raised(layer, model.device)]) - origin  # (units, K)
        return layer.name, columns.T.numpy()
    raise Skip("the model has no layer before its logits at which it can be cut")


def _raised(layer: Layer, device: torch.device) -> Iterator[torch.Tensor]:
    """Activations (B, *layer.shape) in each of which one unit is 1 everywhere and the others 0, in the order of the units."""
    import torch

    units, axis = layer.shape[layer.unit_axis], layer.unit_axis if layer.unit_axis < 0 else layer.unit_axis + 1
    at_once = max(1, VALUES // prod(layer.shape))
    for begin in range(0, units, at_once):
        chosen = torch.arange(begin, min(begin + at_once, units))
        raised = torch.zeros((len(chosen), *layer.shape), device=device)
        raised.movedim(axis, 1)[torch.arange(len(chosen)), chosen] = 1
        yield raised


def _centred(logits: torch.Tensor) -> torch.Tensor:
    """(N, K) double, each row less its mean: a log-softmax at the end of the model changes nothing."""
    values = logits.double().cpu()
    return values - values.mean(dim=1, keepdim=True)
