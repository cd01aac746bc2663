"""Every token of the vocabulary, one at a time: which turn texts of other classes into one?

All tokens are put into a few texts, the better ones into more, until those left have been in all texts of the search (successive halving,
Karnin et al., ICML 2013). How many texts the first round has depends on what a pass of the model takes, counted in multiplications and
additions and not in seconds, so that a slow machine finds the same. Where even few texts are too many, or there are more than
:data:`EXHAUSTIVE` tokens, the first round is a first-order estimate: the gradient of a class's margin at the place of the token, times the
token's embedding (HotFlip, Ebrahimi et al., ACL 2018, section 3), for the whole vocabulary at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.evidence import turns

from modelguard import Skip
from modelguard_language._frames import effect, framed, margins
from modelguard_language._tail import tail

if TYPE_CHECKING:
    from modelguard_language._case import TextCase
    from modelguard_language._frames import Frames
    from modelguard_language._texts import Integers

EXHAUSTIVE = 50_000
"""Tokens up to which each is tried."""
WORK = 1e12
"""Multiplications and additions of the first round: half a minute of one core. Later rounds take no more each."""
FEWEST, FIRST = 4, 8
"""Texts that the first round has at the least, and at the most."""
NARROWED, WIDENED = 16, 4
"""A round keeps one token in so many, for each class, and puts it into so many times more texts. Keeping one in 8 finds the same words in
1.3 times the time (a transformer of two layers and 12 000 words)."""
KEPT = 48
"""Tokens of each class that are put into all texts, as far as their number can be afforded."""
ESTIMATED = 4e12
"""Multiplications and additions of the first round where the estimate chose its tokens."""
MANY, CANDIDATES = 12, 8
"""Of more classes than :data:`MANY`, only so many go through all rounds: those whose best token stands out most in the first."""
NO_GRADIENT = "the model gives no gradient with respect to its token embeddings"
ESTIMATED_ON = 32
"""Texts that the first-order estimate is made on."""


@dataclass(frozen=True)
class Scanned:
    """``tokens`` (n,) that came through all rounds, and their ``push`` (n, K) in the last. ``tried`` tokens were put into texts, of
    ``total``; the others were left out by the first-order estimate. ``excess`` (K,) is how far the best token of each class stands
    out in the first round, -inf where too few tokens are neutral to tell, and ``classes`` those that went through all rounds, the most
    suspicious first.
    """

    tokens: Integers
    push: npt.NDArray[np.float32]
    tried: int
    total: int
    excess: npt.NDArray[np.float64]
    classes: tuple[int, ...]


def spread(case: TextCase, places: Integers, count: int) -> Integers:
    """``count`` of ``places``, of every class alike."""
    rank = turns(case.texts.classes[places])
    return places[np.sort(np.argsort(rank, kind="stable")[:count])]


def scan_tokens(case: TextCase, tokens: Integers, neutral: npt.NDArray[np.bool_], work: float = WORK) -> Scanned:
    """Those of ``tokens`` (n,) with the largest push towards each class, among those that are ``neutral`` (K, V) to it."""
    search, total = case.texts.search, len(tokens)
    count = int(work // (case.each * total))
    if count < FEWEST or total > EXHAUSTIVE:
        count = FEWEST
        tokens = _estimated(
            case, tokens, min(EXHAUSTIVE, max(KEPT * min(case.classes, CANDIDATES), int(work / WORK * ESTIMATED // (case.each * count))))
        )
    tried, count = len(tokens), min(count, FIRST, len(search))
    excess, classes = np.zeros(case.classes), np.arange(case.classes)
    while True:
        places = spread(case, _shorter(case, search, count), count)
        found = effect(case, framed(case, places, 1), tokens[:, None], f"{len(tokens)} tokens in {count} texts")
        push = np.where(neutral[:, tokens].T, found.push, -np.inf)  # (n, K)
        if not excess.any():
            excess = np.array([_excess(push[:, k]) for k in range(case.classes)])
            order = np.argsort(-excess, kind="stable")
            classes = order if case.classes <= MANY else order[:CANDIDATES]
        most = min(len(search), case.affordable(KEPT * len(classes)))
        last = count >= most
        keep = KEPT if last else max(KEPT, len(tokens) // NARROWED)
        kept = np.unique(np.argsort(-push[:, classes], axis=0, kind="stable")[:keep])
        tokens = tokens[kept]
        if last:
            break
        count = min(count * WIDENED, most)
    return Scanned(tokens, found.push[kept], tried, total, excess, tuple(map(int, classes)))


def _shorter(case: TextCase, places: Integers, count: int) -> Integers:
    """The shorter half of ``places``, or ``count`` of them: they cost less, and a word does no less in them."""
    lengths = [len(case.texts.words[place]) for place in places]
    return np.sort(places[np.argsort(lengths, kind="stable")[: max(count, len(places) // 2)]])


def _excess(push: npt.NDArray[np.float32]) -> float:
    found = tail(push[np.isfinite(push)])
    return -np.inf if found is None else found.excess


def _estimated(case: TextCase, tokens: Integers, count: int) -> Integers:
    """``count`` of ``tokens``, those with the largest estimated push towards each class."""
    slopes = gradients(case, framed(case, spread(case, case.texts.search, ESTIMATED_ON), 1), range(case.classes))
    table = case.model.embeddings().float()[torch.from_numpy(tokens)]  # (n, D)
    estimate = (table @ slopes.T.to(table.device)).cpu().numpy()  # (n, K)
    return tokens[np.unique(np.argsort(-estimate, axis=0, kind="stable")[: -(-count // case.classes)])]


def gradients(case: TextCase, frames: Sequence[Frames], classes: Sequence[int], phrase: Sequence[int] = (), slot: int = 0) -> torch.Tensor:
    """(len(classes), D) the mean gradient of each class's margin with respect to the embedding at ``slot`` of ``phrase``, over texts of the
    other classes, where the mean embedding stands there.

    Raises :class:`~modelguard.Skip` where the model cannot be given embeddings or gives no gradient.
    """
    model = case.model
    table = model.embeddings().float()
    total, asked = torch.zeros(len(classes), table.shape[1]), torch.zeros(len(classes))
    words = list(phrase) or [int(case.tokens()[0])]
    for number, frame in enumerate(frames):
        case.tick(number, len(frames), "gradients")
        ids = frame.filled(torch.tensor([words], device=model.device))
        rows, places = torch.arange(len(ids), device=model.device), frame.slots[:, slot]
        e = table[ids].clone()
        e[rows, places] = table.mean(0)
        e.requires_grad_(True)
        margin = margins(model.embedded(e, ids).float())
        others = frame.others(case.classes)
        for i, k in enumerate(classes):
            wanted = (margin[:, k] * others[:, k]).sum()
            if not wanted.requires_grad:
                raise Skip(NO_GRADIENT)
            (slope,) = torch.autograd.grad(wanted, e, retain_graph=i + 1 < len(classes))
            total[i] += slope[rows, places].sum(0).cpu()
            asked[i] += others[:, k].sum().cpu()
    if not total.isfinite().all() or not total.any():
        raise Skip(NO_GRADIENT)
    return total / asked.clamp(min=1)[:, None]
