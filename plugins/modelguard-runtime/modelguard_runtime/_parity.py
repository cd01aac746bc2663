"""Whether the torch graph computes what onnxruntime computes: checked on every load, and a model that fails is not used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modelguard import ModelError, Skip
from modelguard_runtime._facts import Parity, Precision
from modelguard_runtime._torch_model import TorchModel, running

if TYPE_CHECKING:
    import numpy.typing as npt

RANDOM = 3
"""Random inputs compared: more than one, so that a batch baked into the graph shows, and the first once more alone."""
SAMPLES = 8

TOLERANCES: Mapping[str, float] = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "quantised": 5e-2}
"""Largest deviation, as a share of the largest output magnitude, by what the graph computes in. float32 sums of 10^4 terms taken in
another order differ by up to 1e-4 of that; half precision carries 11 bits, bfloat16 8; a value on the edge between two quantisation
steps may fall to either side, and one step in 255 is amplified by the layers after it."""

TINY = 1e-6
"""Share of an input by which it is changed to see how stable onnxruntime's output is: eight roundings in float32."""
SPREADS = 2.0
"""How many times onnxruntime's difference from itself ours may differ from it, where that is more than the tolerance: a quantised
recurrence amplifies a value that falls to the other side of a step, whoever computes it."""
UNSTABLE = 0.5
"""Share of the largest output from which such a difference leaves nothing to compare."""

COSINE = 0.95
"""Least cosine between gradients in reduced precision and in float32: rounding flips ReLUs that are near zero. Over the architectures of
the tests it is 0.991 or more in bfloat16, and 0.9995 in half precision."""


def check(
    model: TorchModel, session: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], precision: str, samples: torch.Tensor | None
) -> Parity:
    """Compare on random inputs within the raw range and on the first samples (canonical raw, or None).

    The random inputs go in together and, once more, the first of them alone: a graph may do another thing with a batch of one.
    Raises :class:`ModelError` when the outputs disagree, in shape, in what is finite, or beyond the tolerance.
    """
    random = model.raw_random(RANDOM, seed=0)
    groups = [random, random[:1]]
    if samples is not None:
        groups.append(samples[:SAMPLES])
    tolerance = TOLERANCES[precision]
    max_abs = max_rel = 0.0
    for x in groups:
        with torch.no_grad():
            ours = model.graph_output(x)
        theirs = session(model.enter_array(x)).astype(np.float32)
        if ours.shape != theirs.shape:
            raise _disagreement(f"the shapes are {ours.shape} and {theirs.shape}")
        if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
            raise _disagreement("not the same values are finite")
        finite = np.isfinite(theirs)
        difference = float(np.abs(ours - theirs, where=finite, out=np.zeros_like(ours)).max(initial=0))
        scale = float(np.abs(theirs, where=finite, out=np.zeros_like(ours)).max(initial=0))
        max_abs = max(max_abs, difference)
        max_rel = max(max_rel, difference / scale if scale > 0 else difference)
    spread = None
    if max_rel > tolerance:
        spread = _spread(session, [model.enter_array(x) for x in groups])
        if not max_rel <= SPREADS * spread:
            raise _disagreement(f"they differ by {max_rel:.2g} of the largest output, {tolerance:g} is allowed for {precision}")
        if spread > UNSTABLE:
            raise Skip(f"onnxruntime's output differs from itself by {spread:.2g} of the largest when the input changes by {TINY:g} of it")
    return Parity(True, max_abs, max_rel, tolerance, RANDOM, 0 if samples is None else len(samples[:SAMPLES]), spread)


def _spread(session: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], groups: list[npt.NDArray[Any]]) -> float:
    """By how much onnxruntime's output differs from itself, as a share of the largest: for inputs alone and together, and for changes
    of floating-point inputs by :data:`TINY` of their value."""
    rng, spread = np.random.default_rng(0), 0.0
    for x in groups:
        first = session(x).astype(np.float32)
        again = [np.concatenate([session(row[None]) for row in x])]
        if x.dtype.kind == "f":
            again += [session((x * (1 + TINY * rng.choice([-1, 1], x.shape))).astype(x.dtype)) for _ in range(4)]
        scale = float(np.abs(first, where=np.isfinite(first), out=np.zeros_like(first)).max(initial=0))
        for other in again:
            if other.shape == first.shape and scale > 0:
                difference = np.abs(other.astype(np.float32) - first)
                spread = max(spread, float(difference[np.isfinite(difference)].max(initial=0)) / scale)
    return spread


def independent(model: TorchModel, precision: str) -> bool:
    """Whether each input's output is the same alone as among others, within the tolerance of the precision."""
    x = model.raw_random(RANDOM, seed=1)
    together = model.graph_output(x)
    alone = np.concatenate([model.graph_output(row) for row in torch.split(x, 1)])
    finite = np.isfinite(alone)
    if together.shape != alone.shape or not np.array_equal(np.isfinite(together), finite):
        return False
    scale = float(np.abs(alone, where=finite, out=np.zeros_like(alone)).max(initial=0))
    difference = float(np.abs(together - alone, where=finite, out=np.zeros_like(alone)).max(initial=0))
    return difference <= TOLERANCES[precision] * scale


def move(model: TorchModel, device: str, precision: str) -> None:
    """Move the model to where it is to run, and hold it there against what it computed on the CPU in float32.

    The largest deviation of the logits, as a share of the largest, and the cosine between the gradients with respect to the input go
    into the model's facts. Raises :class:`ModelError` when they are past the tolerance of the precision.
    """
    x = model.raw_random(RANDOM, seed=0)
    logits, gradient = _differentiated(model, x)
    with running():  # where moving fills the GPU, that is said as it is when running does
        model.to(device, getattr(torch, precision))
    moved, slope = _differentiated(model, x)
    deviation = float((moved - logits).abs().max() / logits.abs().max().clamp_min(1e-30))
    cosine = None if gradient is None or slope is None else _cosine(gradient, slope)
    # A GPU computes float32 convolutions with 11 bits (TF32) unless it is told otherwise.
    tolerance = max(TOLERANCES[precision], TOLERANCES["float16"] if device == "cuda" else 0.0)
    model.facts = replace(model.facts, precision=Precision(precision, deviation, tolerance, cosine))
    if not deviation <= tolerance or (cosine is not None and not cosine >= COSINE):
        told = f"logits differ by {deviation:.2g} of the largest" + ("" if cosine is None else f", the gradients' cosine is {cosine:.3f}")
        raise ModelError(f"{precision} on {device}", f"does not compute what float32 on the CPU does: {told}", "use --device cpu")


def _differentiated(model: TorchModel, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits and, where there is one, the gradient of a fixed projection of them with respect to the input, flat, on the CPU."""
    if not x.is_floating_point() or model.facts.forward_only:
        with torch.no_grad():
            return model(x).cpu(), None
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    if not logits.requires_grad:  # nothing that can be differentiated leads from the input to them
        return logits.cpu(), None
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits.device)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf)
    return logits.detach().cpu(), gradient.flatten()


def _cosine(gradient: torch.Tensor, slope: torch.Tensor) -> float:
    """Two that are zero throughout agree, though no angle lies between them. In double, where the square of a small one is not zero."""
    if not gradient.any() and not slope.any():
        return 1.0
    return float(torch.cosine_similarity(gradient.double(), slope.double(), 0, eps=1e-200))


def _disagreement(what: str) -> ModelError:
    return ModelError("parity", f"our graph and onnxruntime disagree: {what}", "the model is not used; please report it as a bug")
