"""The meta-classifiers: queries that are learnt, and a small network that reads a model's answers to them.

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
MEMBERS = 5
"""Meta-classifiers that are learnt side by side, each with queries of its own, and whose mean is the score. The paper has one, and
thousands of shadows. With 48 of either kind one overfits: of 30 trojaned shadows of digits-cnn held out beside 48 benign ones (seed 1),
five alone have 33 to 83 % above the threshold, with AUROC .88 to .96; their mean has 87 %, with .97."""
RATE = 1e-3
"""Adam's rate for the network, as in the authors' code."""
QUERY_RATE = 1e-2
"""Adam's rate for the queries, in units of the input range: ten times the authors', who make a hundred times as many steps."""
STEPS, EVERY = 600, 20
"""Steps, and after how many of them the shadows kept for validation are asked whether to stop here."""
PART = 32
"""Shadows in one step."""


@dataclass(frozen=True)
class Meta:
    """E meta-classifiers. ``queries`` (E, Q, C, H, W) raw; ``hidden`` (E, H, Q K), ``hidden_bias``, ``out`` (E, H), ``out_bias`` (E,)."""

    queries: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def each(self, logits: Tensor) -> Tensor:
        """(M, E) what each makes of M models, by their answers ``logits`` (M, E Q, K) to all queries."""
        count, queries = self.queries.shape[:2]
        read = answers(logits.reshape(len(logits), count, queries, -1))  # (M, E, Q K)
        units = F.relu(torch.einsum("meq,ehq->meh", read, self.hidden) + self.hidden_bias)
        return torch.einsum("meh,eh->me", units, self.out) + self.out_bias

    def score(self, logits: Tensor) -> Tensor:
        """(M,) how trojaned M models look."""
        return self.each(logits).mean(1)


def answers(logits: Tensor) -> Tensor:
    """(M, E, Q K) of logits (M, E, Q, K): each model's in units of their own spread, about each query's mean.

    The paper takes logits as they are. How large they are depends on how long somebody trained, which is not known of a suspect.
    """
    centred = logits - logits.mean(3, keepdim=True)
    spread = centred.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return (centred / spread).flatten(2)


def learn(
    network: Network, shadows: Shadows, validation: Shadows, spec: InputSpec, classes: int, seed: int, tick: Callable[[str], None]
) -> Meta:
    """Meta-classifiers that separate ``shadows``, each as of the step that separates ``validation`` best (by binary cross-entropy)."""
    generator = torch.Generator().manual_seed(seed)
    width = QUERIES * classes
    unit = torch.rand((MEMBERS, QUERIES, *spec.shape), generator=generator).requires_grad_()
    hidden = ((torch.rand((MEMBERS, HIDDEN, width), generator=generator) * 2 - 1) / width**0.5).requires_grad_()
    out = ((torch.rand((MEMBERS, HIDDEN), generator=generator) * 2 - 1) / HIDDEN**0.5).requires_grad_()
    biases = [torch.zeros(shape, requires_grad=True) for shape in ((MEMBERS, HIDDEN), (MEMBERS,))]
    optimiser = torch.optim.Adam([{"params": [unit], "lr": QUERY_RATE}, {"params": [hidden, out, *biases], "lr": RATE}])

    def now() -> Meta:
        return Meta(spec.low + (spec.high - spec.low) * unit, hidden, biases[0], out, biases[1])

    best, kept = torch.full((MEMBERS,), torch.inf), _copy(now())
    for step in range(STEPS):
        part = shadows.only(torch.randperm(len(shadows), generator=generator)[:PART])
        loss = _wrong(network, now(), part).sum()  # over members: none of them moves another
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            unit.clamp_(0, 1)
        if step % EVERY == EVERY - 1:
            tick(f"meta-classifiers: step {step + 1} of {STEPS}")
            with torch.no_grad():
                wrong = _wrong(network, now(), validation)
            better = wrong < best
            best = torch.minimum(best, wrong)
            for old, new in zip(vars(kept).values(), vars(_copy(now())).values(), strict=True):
                old[better] = new[better]
    return kept


def _wrong(network: Network, meta: Meta, shadows: Shadows) -> Tensor:
    """(E,) the binary cross-entropy of each meta-classifier over ``shadows``."""
    said = meta.each(network.logits(shadows.weights, meta.queries.flatten(0, 1)))  # (M, E)
    truth = shadows.trojaned.float()[:, None].expand_as(said)
    return F.binary_cross_entropy_with_logits(said, truth, reduction="none").mean(0)


def _copy(meta: Meta) -> Meta:
    return Meta(*(value.detach().clone() for value in vars(meta).values()))
