"""Every token of the vocabulary, one at a time: which turn texts of other classes into one?

All tokens are put into a few texts, the better ones into more, until those left have been in all texts of the search (successive halving,
Karnin et al. 2013). How many texts the first round has depends on what a pass of the model takes, counted in multiplications and
additions and not in seconds, so that a slow machine finds the same. Where even few texts are too many, or where there are more than
:data:`EXHAUSTIVE` tokens, the first round is a first-order estimate: the gradient of a class's margin at the place of the token, times the token's embedding
(HotFlip, Ebrahimi et al. 2018, section 3), for the whole vocabulary at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from modelguard import Skip
from modelguard_language._frames import Effect, effect, framed, margins

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from modelguard_language._case import TextCase
    from modelguard_language._frames import Frames
    from modelguard_language._texts import Integers

EXHAUSTIVE = 50_000
"""Tokens up to which each is tried."""
WORK = 1e12
"""Multiplications and additions of the first round: half a minute of one core. Later rounds take no more each."""
FEWEST, FIRST = 4, 16
"""Texts that the first round has at the least, and at the most."""
NARROWED, WIDENED = 8, 4
"""A round keeps one token in so many, for each class, and puts it into so many times more texts."""
KEPT = 64
"""Tokens of each class that are put into all texts."""


@dataclass(frozen=True)
class Scanned:
    """``tokens`` (n,) that came through all rounds and their effect on the texts of the search. ``tried`` tokens were put into texts,
    ``of`` is how many there are; ``ranked`` says whether the others were left out by the first-order estimate."""

    tokens: Integers
    effect: Effect
    tried: int
    of: int

    @property
    def ranked(self) -> bool:
        return self.tried < self.of


def spread(case: TextCase, places: Integers, count: int) -> Integers:
    """``count`` of ``places``, of every class alike."""
    classes = case.texts.classes[places]
    rank = np.zeros(len(places), np.int64)
    for label in np.unique(classes):
        own = np.flatnonzero(classes == label)
        rank[own] = np.arange(len(own))
    return places[np.sort(np.argsort(rank, kind="stable")[:count])]


def scan_tokens(case: TextCase, work: float = WORK) -> Scanned:
    """The tokens with the largest push towards each class."""
    tokens, search = case.tokens(), case.texts.search
    of = len(tokens)
    each = 2 * case.weights * case.length  # of one text
    count = int(work // (each * of))
    if count < FEWEST or of > EXHAUSTIVE:
        count = FEWEST
        tokens = _estimated(case, tokens, max(KEPT * case.classes, min(EXHAUSTIVE, int(work // (each * count)))))
    tried, count = len(tokens), min(count, FIRST)
    while True:
        frames = framed(case, spread(case, search, count), 1)
        found = effect(case, frames, tokens[:, None], f"{len(tokens)} tokens in {min(count, len(search))} texts")
        keep = KEPT if count >= len(search) else max(KEPT, len(tokens) // NARROWED)
        kept = best(found, keep)
        tokens = tokens[kept]
        if count >= len(search):
            return Scanned(tokens, Effect(found.push[kept], found.flips[kept]), tried, of)
        count = min(count * WIDENED, len(search))


def best(found: Effect, count: int) -> Integers:
    """The places of the ``count`` with the largest push towards each class, in order."""
    places = np.argsort(-found.push, axis=0, kind="stable")[:count]
    return np.unique(places)


def _estimated(case: TextCase, tokens: Integers, count: int) -> Integers:
    """``count`` of ``tokens``, those with the largest estimated push towards each class."""
    slopes = gradients(case, framed(case, spread(case, case.texts.search, 32), 1), range(case.classes))
    table = case.model.embeddings().float()[torch.from_numpy(tokens)]  # (n, D)
    estimate = (table @ slopes.T).numpy()  # (n, K)
    return tokens[best(Effect(estimate, estimate), -(-count // case.classes))]


def gradients(case: TextCase, frames: Sequence[Frames], classes: Sequence[int], phrase: Sequence[int] = (), slot: int = 0) -> torch.Tensor:
    """(len(classes), D) the mean gradient of each class's margin with respect to the embedding at ``slot`` of the phrase, over texts of the
    other classes. The phrase there is ``phrase`` with the mean embedding at ``slot``.

    Raises :class:`~modelguard.Skip` where the model cannot be given embeddings.
    """
    model = case.model
    table = model.embeddings().float()
    usual = table.mean(0)
    total = torch.zeros(len(classes), table.shape[1])
    asked = torch.zeros(len(classes))
    words = list(phrase) or [0]
    for number, frame in enumerate(frames):
        case.tick(number, len(frames), "gradients")
        ids = frame.filled(torch.tensor([words], device=model.device))
        rows, places = torch.arange(len(ids), device=model.device), frame.slots[:, slot]
        e = table[ids].clone()
        e[rows, places] = usual
        e.requires_grad_(True)
        margin = margins(model.embedded(e, ids).float())
        others = frame.others(case.classes)
        for i, k in enumerate(classes):
            (slope,) = torch.autograd.grad((margin[:, k] * others[:, k]).sum(), e, retain_graph=i + 1 < len(classes))
            total[i] += slope[rows, places].sum(0).cpu()
            asked[i] += others[:, k].sum().cpu()
    if not total.isfinite().all() or not total.any():
        raise Skip("the model gives no gradient with respect to token embeddings: too many tokens to try each, and nothing to rank them by")
    return total / asked.clamp(min=1)[:, None]
