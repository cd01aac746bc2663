"""Which weights make one unit (channel, neuron) of a layer. Told by gradients and operators, never by names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from modelguard import Layer
    from modelguard_repair._weights import Weights

PROBED = 3
"""Units whose gradients are looked at."""
Rows = list[tuple[nn.Parameter, int]]


def unit_rows(weights: Weights, layer: Layer, x: Tensor) -> Rows:
    """The weights of which unit i of ``layer`` depends on slice i of one axis and on nothing else, with that axis: the rows that are to be
    zero for the unit to be. ``x`` are a few inputs."""
    units = layer.shape[layer.unit_axis]
    axis = layer.unit_axis + 1 if layer.unit_axis >= 0 else layer.unit_axis
    found: Rows = []
    with weights.trainable() as parameters:
        _, acts = weights.model.capture(x, [layer.name])
        value = acts[layer.name].movedim(axis, -1).reshape(-1, units)  # (N * places, units)
        # Units that differ between inputs: a dead one has no gradient to tell anything.
        probed = value.detach().std(0).topk(min(PROBED, units)).indices.tolist()
        grads = [torch.autograd.grad(value[:, i].square().sum(), parameters, retain_graph=True, allow_unused=True) for i in probed]
        for place, parameter in enumerate(parameters):
            for side in range(min(parameter.ndim, 2)):
                if parameter.shape[side] == units and all(_only(grad[place], side, i) for grad, i in zip(grads, probed, strict=True)):
                    found.append((parameter, side))
                    break
    return found


def _only(grad: Tensor | None, axis: int, i: int) -> bool:
    """Whether a gradient is zero but for slice ``i`` of ``axis``, and is not zero there."""
    if grad is None:
        return False
    touched = grad.movedim(axis, 0).reshape(grad.shape[axis], -1).any(1)
    return bool(touched[i]) and int(touched.sum()) == 1


@torch.no_grad()
def silence(rows: Rows, units: list[int]) -> None:
    """Make ``units`` zero, in place."""
    for parameter, axis in rows:
        parameter.movedim(axis, 0)[units] = 0.0


def batch_norms(weights: Weights) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(gamma, beta) of every BatchNorm whose two can be trained, in no order."""
    module = weights.model.module
    known = {id(parameter) for parameter in weights.tensors.values()}
    pairs = [(part.weight, part.bias) for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine]
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            if node.meta.get("op_type") == "BatchNormalization":
                pairs.append(tuple(getattr(module, str(getattr(arg, "target", "")), None) for arg in node.args[1:3]))  # type: ignore[arg-type]
    return [(gamma, beta) for gamma, beta in pairs if id(gamma) in known and id(beta) in known]
