"""Neural attention distillation (Li et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard import Skip
from modelguard_repair.methods.base import Material, Method, labelled_loss, train
from modelguard_repair.methods.tuning import EPOCHS, RATE

if TYPE_CHECKING:
    from modelguard import Layer

BETAS = (0.5, 4.0, 16.0)
"""Weights of the three distances. The authors' 500, 1000, 1000 multiply means over the 32 x 32, 16 x 16 and 8 x 8 places of WRN-16-1; as
factors of the sums, which depend on no size, they are these."""


class Nad(Method):
    """The suspect, fine-tuned, teaches the suspect: where its layers look, by attention maps at three depths (equations 1 to 4)."""

    name = "nad"
    cost = 5

    def repair(self, given: Material) -> dict[str, Any]:
        weights, x, y = given.weights, given.x, given.y
        names = [layer.name for layer in attentive(given)]
        start = weights.state()
        train(given, x, labelled_loss(given), epochs=EPOCHS, rate=RATE, what="teacher")
        with torch.no_grad():
            taught = [_maps(given, part, names)[1] for part in torch.split(x, 256)]
        lesson = [torch.cat([maps[i] for maps in taught]) for i in range(len(names))]
        weights.restore(start)

        def loss(batch: Tensor, places: Tensor) -> Tensor:
            at = places.to(x.device)
            logits, maps = _maps(given, batch, names)
            apart = [(mine - theirs[at]).square().sum(1).mean() for mine, theirs in zip(maps, lesson, strict=True)]
            weighed = [beta * value for beta, value in zip(BETAS[-len(apart) :], apart, strict=True)]
            return F.cross_entropy(logits, y[at]) + torch.stack(weighed).sum()

        train(given, x, loss, epochs=EPOCHS, rate=RATE, what="student")
        return {"layers": names, "betas": list(BETAS[-len(names) :]), "epochs": EPOCHS, "rate": RATE}


def attentive(given: Material) -> tuple[Layer, ...]:
    """The layers that are compared: the last with places at the end of each third of the depth. Raises ``Skip`` where no layer has any."""
    layers = given.weights.model.layers
    for kinds in (("activation", "block"), ("conv", "norm", "attention", "linear")):
        found = [layer for layer in layers if layer.kind in kinds and len(layer.shape) > 1 and layer.shape[-1 - layer.unit_axis] > 1]
        if found:
            chosen = sorted({-(-len(found) * third // 3) - 1 for third in (1, 2, 3)})
            return tuple(found[place] for place in chosen)
    raise Skip("nad compares where layers look, and no layer of the model has places: use another method")


def _maps(given: Material, x: Tensor, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and for each layer (N, places): the mean of the squares over its units, of norm 1."""
    logits, acts = given.weights.model.capture(x, names)
    axes = {layer.name: layer.unit_axis for layer in given.weights.model.layers if layer.name in names}
    found = []
    for name in names:
        axis = axes[name] + 1 if axes[name] >= 0 else axes[name]
        found.append(F.normalize(acts[name].float().square().mean(axis).flatten(1), dim=1))
    return logits, found
