"""Whether a model's gradient says anything: checked on every load, since a search by a gradient of zero finds nothing in any model.

Parity compares values alone. A graph may compute the right ones through rounding, comparisons or look-ups, whose gradient is zero
wherever it exists, and may add a vanishing multiple of the input so that the gradient is not quite zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch

from modelguard._runtime.torch_model import TorchModel, running
from modelguard.errors import ModelError, SamplesError
from modelguard.model import Samples

if TYPE_CHECKING:
    Tensor = torch.Tensor

STEPS = (0.01, 0.1)
"""Steps as shares of the raw range. The larger is for inputs of few values, none of which may cross an edge in the smaller."""
VALUES, FEWEST, MOST = 4096, 4, 64
"""As many random inputs as have this many values together, within these bounds; and the fewest of samples."""
MOVES = 1e-3
"""Change of the logits, as a share of the largest, from which it is no rounding: eleven bits (TF32 on a GPU)."""
SAYS = 1e-2
"""Share of the largest change which the gradient has to foretell on some probe. Over the networks of the zoo, whose gradient is one, the
largest foretold change is 0.8 to 4 times the largest change."""

SILENT = "its gradient says nothing: zero where the output moves (rounding or saturation in the graph?)"


def check(model: TorchModel, samples: Samples | None) -> None:
    """Let the model run forward only where its gradient foretells nothing of what a small step along random directions changes.

    The gradient is held against the central difference at random inputs within the raw range and at the first samples. A gradient that
    is zero at some inputs is a matter of course (ReLU, a saturated softmax); this is for one that is nothing at every one of them.
    """
    if model.input.kind == "text" or model.facts.get("forward_only"):
        return
    precision, model.precision = model.precision, torch.float32  # in bfloat16, rounding alone moves the logits by more than MOVES
    try:
        silent = _silent(model, list(_probes(model, samples)))
    except ModelError as error:
        model.forward_only(f"its gradient cannot be checked: the {error.thing} {error.cause}")
    else:
        if silent:
            model.forward_only(SILENT)
    finally:
        model.precision = precision


@dataclass(frozen=True, slots=True)
class _Probe:
    """Inputs (N, ...) with a direction of signs each, and what the gradient says that a unit step along it changes, (N,)."""

    x: Tensor
    direction: Tensor
    weights: Tensor
    slope: Tensor


def _silent(model: TorchModel, inputs: list[Tensor]) -> bool:
    span: float = model.input.high - model.input.low
    probes = [_differentiated(model, x, seed) for seed, x in enumerate(inputs)]
    for step in (share * span for share in STEPS):
        changes = [_change(model, probe, step) for probe in probes]
        change, scale = (max(values) for values in zip(*changes, strict=True))
        if change <= MOVES * scale:
            continue
        least: float = SAYS * change / (2 * step)
        if _steepest(probes) >= least:
            return False
        # A ReLU that opens on the way has its gradient there, and none where the way began.
        ends = [_differentiated(model, p.x + sign * step * p.direction, seed) for seed, p in enumerate(probes) for sign in (1, -1)]
        return _steepest(ends) < least
    return False


def _steepest(probes: list[_Probe]) -> float:
    return max(float(probe.slope.abs().max()) for probe in probes)


def _probes(model: TorchModel, samples: Samples | None) -> Iterator[Tensor]:
    """Random inputs and samples, so far inside the raw range that the largest step stays in it."""
    spec = model.input
    margin = max(STEPS) * (spec.high - spec.low)
    count = max(FEWEST, min(MOST, VALUES // max(1, prod(map(abs, spec.shape)))))
    groups = [model.raw_random(count, seed=2)]
    if samples is not None:
        with suppress(SamplesError):  # it is said where they are held against the model's predictions
            groups.append(model.inputs(replace(samples, inputs=samples.inputs[:FEWEST], labels=None)))
    for x in groups:
        yield x.to(model.device).clamp(spec.low + margin, spec.high - margin)


def _differentiated(model: TorchModel, x: Tensor, seed: int) -> _Probe:
    generator = torch.Generator().manual_seed(seed)
    direction = (torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1).to(x.device)
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    weights = torch.randn(logits.shape, generator=generator).to(logits.device)
    if logits.shape[1] > 1:
        weights = weights - weights.mean(1, keepdim=True)  # softmax does not see what is common to all classes
    slope = torch.zeros(len(x), device=x.device)
    if logits.requires_grad:
        with running():
            (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, materialize_grads=True)
        slope = (gradient.nan_to_num(0, 0, 0) * direction).flatten(1).sum(1)
    return _Probe(x, direction, weights, slope)


def _change(model: TorchModel, probe: _Probe, step: float) -> tuple[float, float]:
    """The largest change of the weighted logits by two steps, one to either side, and the largest magnitude of those logits."""
    with torch.no_grad():
        ahead, behind = (model(probe.x + sign * step * probe.direction) for sign in (1, -1))
    if probe.weights.shape[1] > 1:
        ahead, behind = (logits - logits.mean(1, keepdim=True) for logits in (ahead, behind))
    change = ((ahead - behind) * probe.weights).sum(1).nan_to_num(0, 0, 0)
    scale = (ahead * probe.weights).abs().sum(1).nan_to_num(0, 0, 0)
    return float(change.abs().max()), float(scale.max())
