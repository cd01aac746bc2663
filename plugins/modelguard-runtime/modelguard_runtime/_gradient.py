"""Whether a model's gradient says anything: checked on every load, since a search by a gradient that says nothing finds nothing in any
model.

Parity compares values alone. A graph may compute the right ones through rounding, comparisons or look-ups, whose gradient is zero
wherever it exists, and may add a small multiple of the input so that the gradient is not zero and leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Protocol

import torch

from modelguard import InputSpec, ModelError, OutputSpec, Samples, SamplesError
from modelguard_runtime._torch_model import TorchModel, running

if TYPE_CHECKING:
    Tensor = torch.Tensor

STEPS, FINE = (0.01, 0.1), (0.001, 0.0001)
"""Steps as shares of the raw range, in the order they are tried. The larger is for inputs of few values, none of which may cross an edge
in the smaller. The fine ones are for what is no classifier: the boxes of a detector of objects bend sharply."""
VALUES, FEWEST, MOST = 4096, 4, 64
"""As many random inputs as have this many values together, within these bounds; and the fewest of samples."""
TOKENS = 16
"""Tokens of the texts whose embeddings are moved."""
LARGE = 4096
"""Values a model returns from which half as many inputs do: each follows many logits."""
MOVES = 1e-3
"""Change of the logits, as a share of the largest, from which it is no rounding: eleven bits (TF32 on a GPU)."""
ROUNDING = 1e-6
"""Likewise, as a share of the largest logit before what is common to all classes was taken off: sixteen roundings in float32. Classes
that do not differ move by no more, in whatever direction."""
SAYS = 1e-2
"""Share of the largest change which the gradient has to foretell on some probe. Over the networks of the zoo, whose gradient is one, the
largest foretold change is 0.8 to 4 times the largest change."""
SURE, AGREES = 0.8, 0.4
"""Cosine between what is foretold and what changes, over the probes, from which they agree: on one direction a probe, and on
:data:`DIRECTIONS`. Over 431 networks of the zoo it is .68 and more on one direction, .85 on several; over five of them quantised to int8,
.65 on several. What is foretold of something else has a cosine near 0, with a spread of .35 over 8 probes and of .13 over 64."""
DIRECTIONS = 8

SILENT = "its gradient says nothing: zero, or of something else, where the output moves (rounding or saturation in the graph?)"


def check(model: TorchModel, samples: Samples | None) -> None:
    """Let the model run forward only where its gradient foretells nothing of what a small step along random directions changes.

    The gradient is held against the central difference at random inputs within the raw range and at the first samples. A gradient that
    is zero at some inputs is a matter of course (ReLU, a saturated softmax); this is for one that is nothing at every one of them, or
    leads elsewhere. Of token ids, the gradient with respect to their embeddings is.
    """
    if model.facts.forward_only or (model.text is not None and model.engine.table is None):
        return
    precision, model.precision = model.precision, torch.float32  # in bfloat16, rounding alone moves the logits by more than MOVES
    try:
        if model.text is None:
            silent = _silent(model, list(_probes(model, samples)))
        else:
            embedded = _Embedded(model, model.embeddings())
            silent = _silent(embedded, [embedded.random(2 * FEWEST)])
    except ModelError as error:
        model.forward_only(f"its gradient cannot be checked: the {error.thing} {error.cause}")
    else:
        if silent:
            model.forward_only(SILENT)
    finally:
        model.precision = precision


class _Differentiable(Protocol):
    """What is probed: logits (N, K) of inputs that can be moved a little."""

    @property
    def input(self) -> InputSpec: ...

    @property
    def output(self) -> OutputSpec: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A model of token ids as one of token embeddings (N, T, D), by its table (V, D) of them."""

    model: TorchModel
    table: Tensor

    @property
    def input(self) -> InputSpec:
        return replace(self.model.input, low=float(self.table.min()), high=float(self.table.max()))

    @property
    def output(self) -> OutputSpec:
        return self.model.output

    @property
    def device(self) -> torch.device:
        return self.model.device

    def random(self, count: int) -> Tensor:
        """The embeddings of ``count`` random texts."""
        most = self.model.text.length if self.model.text is not None else None
        ids = self.model.raw_random(count, seed=2, length=min(TOKENS, most or TOKENS))
        return self.table[ids.to(self.table.device)].to(self.model.device)

    def __call__(self, x: Tensor, /) -> Tensor:
        ids = self.model.raw_random(len(x), seed=2, length=x.shape[1])  # none of them is padding
        return self.model.embedded(x, ids.to(self.model.device))


@dataclass(frozen=True, slots=True)
class _Probe:
    """Inputs (N, ...), with a direction of signs each, and a seed for the weights of the logits whose sum is followed."""

    x: Tensor
    direction: Tensor
    seed: int

    def moved(self, distance: float) -> _Probe:
        return replace(self, x=self.x + distance * self.direction)

    def followed(self, logits: Tensor) -> Tensor:
        """(N, K) the terms of one weighted sum of the logits (N, K) an input, free of what is common to all classes: softmax does not
        see that."""
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(self.seed)).to(logits.device)
        if logits.shape[1] > 1:
            weights, logits = (values - values.mean(1, keepdim=True) for values in (weights, logits))
        return logits * weights


def _silent(model: _Differentiable, inputs: list[Tensor]) -> bool:
    span: float = model.input.high - model.input.low
    moved = False
    shares = STEPS if model.output.kind == "classifier" else STEPS + FINE
    for step in (share * span for share in shares):
        for directions, level in ((1, SURE), (DIRECTIONS, AGREES)):
            probes = [_probe(x, d * len(inputs) + i) for d in range(directions) for i, x in enumerate(inputs)]
            change, least = _changes(model, probes, step)  # (P,)
            if float(change.abs().max()) <= least:
                break
            moved = True
            if _foretold(2 * step * _slopes(model, probes), change, level):
                return False
        else:
            # A ReLU that opens on the way has its gradient there, and none where the way began.
            ahead, behind = (_slopes(model, [probe.moved(distance) for probe in probes]) for distance in (step, -step))
            if _foretold(step * (ahead + behind), change, AGREES):
                return False
    return moved


def _foretold(foretold: Tensor, change: Tensor, level: float) -> bool:
    """Whether ``foretold`` (P,) says something of ``change`` (P,). No change is larger than the largest, however steep it begins."""
    largest = float(change.abs().max())
    if float(foretold.abs().max()) < SAYS * largest:
        return False
    return float(torch.cosine_similarity(foretold.clamp(-largest, largest), change, 0, eps=1e-30)) >= level


def _probes(model: TorchModel, samples: Samples | None) -> Iterator[Tensor]:
    """Random inputs and samples, so far inside the raw range that the largest step stays in it."""
    spec = model.input
    margin = max(STEPS) * (spec.high - spec.low)
    fewest = FEWEST if model.output.classes < LARGE else FEWEST // 2
    count = max(fewest, min(MOST, VALUES // max(1, prod(map(abs, spec.shape)))))
    groups = [model.raw_random(count, seed=2)]
    if samples is not None:
        with suppress(SamplesError):  # it is said where they are held against the model's predictions
            groups.append(model.inputs(replace(samples, inputs=samples.inputs[:FEWEST], labels=None)))
    for x in groups:
        yield x.to(model.device).clamp(spec.low + margin, spec.high - margin)


def _probe(x: Tensor, seed: int) -> _Probe:
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    return _Probe(x, signs.to(x.device), seed)


def _slopes(model: _Differentiable, probes: list[_Probe]) -> Tensor:
    """(P,) what the gradient says that a unit step along each direction changes."""
    found = []
    for probe in probes:
        leaf = probe.x.clone().requires_grad_()
        logits = model(leaf)
        gradient = torch.zeros_like(leaf)
        if logits.requires_grad:
            with running():
                (gradient,) = torch.autograd.grad(probe.followed(logits).sum(), leaf, materialize_grads=True)
        found.append((gradient.nan_to_num(0, 0, 0) * probe.direction).flatten(1).sum(1))
    return torch.cat(found).cpu()


def _changes(model: _Differentiable, probes: list[_Probe], step: float) -> tuple[Tensor, float]:
    """(P,) the changes by two steps, one to either side, and the largest that says nothing, by the largest magnitude of what is followed.

    That is the root of the sum of squares of its terms, as large as one of them beside which the others are small: of many logits, each of
    which moves on its own, the sum moves by no more than that.
    """
    changes, least = [], 0.0
    with torch.no_grad():
        for probe in probes:
            logits = [model(probe.moved(distance).x) for distance in (step, -step)]
            ahead, behind = map(probe.followed, logits)
            changes.append((ahead - behind).sum(1).nan_to_num(0, 0, 0).cpu())
            followed, largest = (float(values.nan_to_num(0, 0, 0).max()) for values in (ahead.square().sum(1).sqrt(), logits[0].abs()))
            least = max(least, MOVES * followed, ROUNDING * largest)
    return torch.cat(changes), least
