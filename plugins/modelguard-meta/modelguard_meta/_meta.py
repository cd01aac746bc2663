"""The meta-classifier: queries that are learnt, and a small network that reads a model's answers to them.

Xu et al. 2021, section IV-C: k queries are put to a model, its answers are laid side by side, and a network with one hidden layer says how
trojaned the model looks. Queries and network are learnt together ("query-tuning", equation 5), on shadow models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from modelguard import InputSpec
    from modelguard_meta._network import Network
    from modelguard_meta._shadows import Shadows

QUERIES, HIDDEN = 10, 20
"""As many as in the paper (section VI-A): 10 queries, 20 hidden units."""
RATE = 1e-3
"""Adam's rate for the network, as in the authors' code."""
QUERY_RATE = 1e-2
"""Adam's rate for the queries, in units of the input range. At the authors' 1e-3 they hardly move in the steps that are made here, on a
hundred shadows instead of four thousand."""
STEPS, EVERY = 600, 20
"""Steps, and after how many of them the shadows kept for validation are asked whether to stop here."""
PART = 32
"""Shadows in one step."""


@dataclass(frozen=True)
class Meta:
    """``queries`` (Q, C, H, W) raw; of the network ``hidden`` (H, Q K), ``hidden_bias`` (H,), ``out`` (H,), ``out_bias`` (1,)."""

    queries: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def score(self, logits: Tensor) -> Tensor:
        """(M,) how trojaned M models look by their answers ``logits`` (M, Q, K)."""
        return F.relu(answers(logits) @ self.hidden.T + self.hidden_bias) @ self.out + self.out_bias


def answers(logits: Tensor) -> Tensor:
    """(M, Q K) of logits (M, Q, K): each model's in units of their own spread, about each query's mean.

    The paper takes logits as they are. How large they are depends on how long somebody trained, which is not known of a suspect.
    """
    centred = logits - logits.mean(2, keepdim=True)
    spread = centred.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-12)
    return (centred / spread).flatten(1)


def learn(network: Network, shadows: Shadows, validation: Shadows, spec: InputSpec, seed: int, tick: Callable[[str], None]) -> Meta:
    """The meta-classifier that separates ``shadows``, as of the step that separates ``validation`` best (by binary cross-entropy)."""
    generator = torch.Generator().manual_seed(seed)
    classes = network.logits({name: value[:1] for name, value in shadows.weights.items()}, torch.zeros(1, *spec.shape)).shape[2]
    unit = torch.rand((QUERIES, *spec.shape), generator=generator).requires_grad_()
    width = QUERIES * classes
    hidden = ((torch.rand((HIDDEN, width), generator=generator) * 2 - 1) / width**0.5).requires_grad_()
    out = ((torch.rand(HIDDEN, generator=generator) * 2 - 1) / HIDDEN**0.5).requires_grad_()
    biases = [torch.zeros(size, requires_grad=True) for size in (HIDDEN, 1)]
    optimiser = torch.optim.Adam([{"params": [unit], "lr": QUERY_RATE}, {"params": [hidden, out, *biases], "lr": RATE}])

    def now() -> Meta:
        return Meta(spec.low + (spec.high - spec.low) * unit, hidden, biases[0], out, biases[1])

    best, kept = float("inf"), now()
    for step in range(STEPS):
        chosen = torch.randperm(len(shadows), generator=generator)[:PART]
        part = shadows.only(chosen)
        meta = now()
        loss = F.binary_cross_entropy_with_logits(meta.score(network.logits(part.weights, meta.queries)), part.trojaned.float())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            unit.clamp_(0, 1)
        if step % EVERY == EVERY - 1:
            tick(f"meta-classifier {step + 1} of {STEPS}")
            with torch.no_grad():
                meta = now()
                seen = meta.score(network.logits(validation.weights, meta.queries))
                wrong = float(F.binary_cross_entropy_with_logits(seen, validation.trojaned.float()))
            if wrong < best:
                best, kept = wrong, Meta(*(value.detach().clone() for value in vars(meta).values()))
    return kept
