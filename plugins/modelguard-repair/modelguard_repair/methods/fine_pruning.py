"""Fine-Pruning (Liu, Dolan-Gavitt and Garg 2018): prune what clean samples do not wake, then fine-tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modelguard import Skip
from modelguard_repair._units import silence, unit_rows
from modelguard_repair.methods.base import Material, Method, labelled_loss, train
from modelguard_repair.methods.tuning import EPOCHS, RATE

if TYPE_CHECKING:
    from modelguard import Layer

STEPS = 25
"""Numbers of pruned units that are tried between none and all."""


PRUNED_DROP = 0.1
"""Accuracy that pruning may cost before fine-tuning, which brings most of it back (BackdoorBench's limit, a tenth); what the repair costs
in the end is judged on samples that it did not see."""


class FinePruning(Method):
    """The units of the last convolution (without one, of the last hidden linear layer) are silenced, the least active on clean samples
    first, as long as the accuracy stays (section 3.1); the rest is fine-tuned (section 3.2). Silenced units stay so."""

    name = "fine-pruning"
    cost = 3

    def repair(self, given: Material) -> dict[str, Any]:
        weights, x = given.weights, given.x
        layer, seen = last_hidden(given)
        if not (rows := unit_rows(weights, layer, x[:16])):
            raise Skip(f"fine-pruning: no weights can be told that make the units of layer {layer.name} one by one")
        order = _activity(given, seen, x).argsort().tolist()
        before, start = given.accuracy(x), weights.state()
        kept = 0
        for count in sorted({round(len(order) * step / STEPS) for step in range(1, STEPS)} - {0}):
            given.tick(f"pruning {count} of {len(order)} units")
            silence(rows, order[:count])
            if given.accuracy(x) < before - PRUNED_DROP:
                break
            kept = count
        weights.restore(start)
        silence(rows, order[:kept])
        train(given, x, labelled_loss(given), epochs=EPOCHS, rate=RATE, after=lambda: silence(rows, order[:kept]))
        return {"layer": layer.name, "pruned": kept, "units": len(order), "epochs": EPOCHS, "rate": RATE}


def last_hidden(given: Material) -> tuple[Layer, Layer]:
    """The last convolution, or hidden linear layer, with the norm behind it; and where its activation is seen. Raises ``Skip``."""
    layers = given.weights.model.layers
    convolutions = [place for place, layer in enumerate(layers) if layer.kind == "conv"]
    linear = [place for place, layer in enumerate(layers) if layer.kind == "linear"]
    place = convolutions[-1] if convolutions else linear[-2] if len(linear) > 1 else None
    if place is None:
        raise Skip("fine-pruning: the model has no convolution and no hidden linear layer")
    shape = layers[place].shape
    after = layers[place + 1] if place + 1 < len(layers) else None
    if after is not None and (after.kind, after.shape) == ("norm", shape):
        place += 1
        after = layers[place + 1] if place + 1 < len(layers) else None
    seen = after if after is not None and (after.kind, after.shape) == ("activation", shape) else layers[place]
    return layers[place], seen


@torch.no_grad()
def _activity(given: Material, layer: Layer, x: Tensor) -> Tensor:
    """(units,) the mean activation on the clean inputs."""
    axis = layer.unit_axis + 1 if layer.unit_axis >= 0 else layer.unit_axis
    total = torch.zeros(layer.shape[layer.unit_axis], device=x.device)
    for part in torch.split(x, 256):
        value = given.weights.model.capture(part, [layer.name])[1][layer.name].movedim(axis, -1)
        total += value.reshape(len(part), -1, len(total)).mean(1).sum(0)
    return total
