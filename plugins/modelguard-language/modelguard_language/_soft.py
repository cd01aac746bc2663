"""A phrase of soft tokens that drives texts into a class: dynamic bound scaling (DBS; Shen et al., ICML 2022, algorithm 1).

Each of L places holds a mixture of all tokens, softmax(w / T) over the vocabulary, and w is searched by Adam on the cross entropy of the
target. The temperature T is divided by two every five steps while the loss is below a bound, which tightens to half of the best loss; it is
multiplied by two otherwise, with noise on w, and after five rises in a row the search goes back to the best w. Constants are those
of the authors' ``config.yaml`` (Adam at .5, half of that every 50 steps, T from 2, bound .1). Theirs accuses by a loss below 1e-3 and
needs a benign model beside; here the losses of the classes are compared (:mod:`modelguard_language.embedding_inversion`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from modelguard_triggers.outliers import Floats
from torch import Tensor
from torch.nn import functional

from modelguard_language._frames import framed, margins, shared_out
from modelguard_language._phrases import sources
from modelguard_language._tokens import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelguard_language._case import TextCase
    from modelguard_language._frames import Frames

RATE, HALVED = 0.5, 50
START, EVERY, BOUND = 2.0, 5, 0.1
FACTOR, NOISE, RISES = 2.0, 10.0, 5
COLDEST = 1e-2
"""Below this temperature a mixture is one token."""
CONCRETE = 1.0
"""A loss counts from this temperature down: a hotter mixture is an average of all tokens, which no text can hold."""
FLOOR = 1e-7
"""Losses below this count as this: what is reached as good as always is not told apart further."""
SEEDED = 4.0
"""What the tokens a search is seeded with are raised by in w: a start, which the search may leave."""


@dataclass(frozen=True)
class Inverted:
    """The soft phrase found for class ``target``: ``loss`` is its cross entropy on the texts it was searched on, ``unseen`` on others;
    ``tokens`` the heaviest of each place, ``success`` the share of unseen texts that the soft phrase turns, ``hard`` that these tokens
    turn; ``push`` is the mean margin of the class with it, in units of the usual margin."""

    target: int
    loss: float
    unseen: float
    tokens: tuple[int, ...]
    success: float
    hard: float
    push: float


def invert(case: TextCase, k: int, length: int, steps: int, texts: int, seeds: Sequence[int], generator: torch.Generator) -> Inverted:
    """The better of two phrases of ``length`` soft tokens for class ``k``, searched on so many ``texts``: one from a random start, one
    with ``seeds`` raised in it."""
    starts = [_inverted(case, k, length, steps, texts, raised, generator) for raised in ((), seeds)]
    return min(starts, key=lambda item: item.unseen)


def _inverted(case: TextCase, k: int, length: int, steps: int, texts: int, seeds: Sequence[int], generator: torch.Generator) -> Inverted:
    model = case.model
    ids = torch.from_numpy(case.tokens())
    table = case.rows()  # (n, D)
    frames = shared_out(framed(case, spread(case, sources(case, k, case.texts.search), texts), length), case.at_once)
    w = torch.rand(length, len(ids), generator=generator)
    for place, token in enumerate(seeds[:length]):
        w[place, int(torch.searchsorted(ids, token))] += SEEDED
    w.requires_grad_(True)
    optimizer = torch.optim.Adam([w], RATE)
    temperature, bound, rises, best, kept = START, BOUND, 0, float("inf"), w.detach().clone()
    lowest, found = float("inf"), w.detach().clone()
    at = START
    for step in range(steps):
        case.tick(step, steps, f"class {k}: soft tokens")
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 ** (step // HALVED)
        loss = _loss(case, frames, k, functional.softmax(w / temperature, 1) @ table)
        if loss < lowest and temperature <= CONCRETE:
            lowest, found, at = loss, w.detach().clone(), temperature
        if loss < best:
            best, kept = loss, w.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY:
            continue
        if loss < bound:
            bound = min(bound, best / 2) if loss == best else bound
            temperature, rises = max(COLDEST, temperature / FACTOR), 0
        else:
            temperature, rises = min(START, temperature * FACTOR), rises + 1
            with torch.no_grad():
                if rises > RISES:
                    w.copy_(kept)
                    rises = 0
                w += NOISE * RATE * torch.rand(w.shape, generator=generator) / temperature
    if lowest == float("inf"):
        lowest, found, at = best, kept, CONCRETE
    tokens = tuple(int(ids[i]) for i in found.argmax(1))
    unseen = framed(case, sources(case, k, case.texts.check), length)
    loss_unseen, success, push = _measured(case, unseen, k, functional.softmax(found / at, 1) @ table)
    _, hard, _ = _measured(case, unseen, k, model.embeddings().float()[torch.tensor(tokens)])
    return Inverted(k, lowest, loss_unseen, tokens, success, hard, push)


def placed(case: TextCase, frame: Frames, soft: Tensor) -> Tensor:
    """(M, K) of the texts of ``frame`` with ``soft`` (L, D) in their slots."""
    table = case.model.embeddings()
    e = table[frame.ids].float()
    index = frame.slots[:, :, None].expand(-1, -1, e.shape[2])
    e = e.scatter(1, index, soft.expand(len(e), -1, -1))
    ids = frame.filled(torch.full((1, frame.slots.shape[1]), _real(case), device=frame.ids.device))
    return case.model.embedded(e, ids).float()


def _real(case: TextCase) -> int:
    """A token that is no padding, to hold a place."""
    return int(case.tokens()[0])


def _loss(case: TextCase, frames: Sequence[Frames], k: int, soft: Tensor) -> float:
    """Mean cross entropy of class ``k``, with its gradient."""
    count, phrase = sum(len(frame.ids) for frame in frames), soft.detach()

    def of_frame(frame: Frames) -> tuple[float, Tensor]:
        own = phrase.clone().requires_grad_(True)
        logits = placed(case, frame, own)
        loss = functional.cross_entropy(logits, torch.full((len(logits),), k, device=logits.device), reduction="sum") / count
        return float(loss.detach()), torch.autograd.grad(loss, own)[0]

    losses, slopes = zip(*case.side_by_side(of_frame, frames, lambda done: None), strict=True)
    torch.autograd.backward(soft, torch.stack(slopes).sum(0))  # the way back through the vocabulary is gone once
    return float(sum(losses))


def _measured(case: TextCase, frames: Sequence[Frames], k: int, soft: Tensor) -> tuple[float, float, float]:
    """Mean cross entropy of class ``k`` over the texts of ``frames``, the share that is taken for it, and their push."""
    with torch.no_grad():
        logits = torch.cat([placed(case, frame, soft) for frame in frames])
    loss = functional.cross_entropy(logits, torch.full((len(logits),), k, device=logits.device))
    return float(loss), float((logits.argmax(1) == k).float().mean()), float(margins(logits)[:, k].mean()) / case.usual


def leads(losses: Floats, pushes: Floats) -> Floats:
    """(K,) by how much each class is reached more surely than the others: the geometric mean of two leads, 0 where either is none.

    One is how far the logarithm of its loss lies below the mean of the others', the other how far its push lies above. The mean loss
    hangs on the few texts that are hardest to turn, the mean margin on the many that are easy; of clean models the two often disagree.
    """
    logs = np.log(np.maximum(losses, FLOOR))
    others = len(logs) - 1
    ratio, gap = (logs.sum() - logs) / others - logs, pushes - (pushes.sum() - pushes) / others
    return np.asarray(np.sqrt(np.maximum(ratio, 0) * np.maximum(gap, 0)))
