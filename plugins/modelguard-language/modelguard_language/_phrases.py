"""From tokens to phrases: the shortest that turns nearly every text of other classes into one.

A beam search. The best phrases of one length are made longer by a token before or after them, out of a pool of tokens and of those that
the gradient at the new place names (HotFlip); the longer ones are tried on a few texts, and those of the best two beginnings on all texts
kept for checking. Of each length the best phrase is compared with the others of its beginning: does one token do what no other does?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from modelguard import Skip
from modelguard_language._frames import Effect, effect, framed
from modelguard_language._tail import TO, Tail, tail
from modelguard_language._tokens import gradients, spread

if TYPE_CHECKING:
    from modelguard_language._case import TextCase
    from modelguard_language._texts import Integers

BEAM, BEAM_FEW, BEGINNINGS = 4, 2, 2
"""Phrases of one length that are made longer, also of a model that is :data:`LARGE`, and of how many of them all are checked."""
TRIED_ON, TRIED_ON_FEW = 16, 8
"""Texts of other classes that a longer phrase is first tried on, and of a model that is :data:`LARGE`."""
LARGE = 5e8
"""Multiplications and additions of one text from which phrases are searched up to :data:`LARGE_LENGTH` tokens only."""
LARGE_LENGTH = 2
WORK = 1e12
"""Multiplications and additions that a class's phrases of one length may take, but for :data:`LEAST` tokens."""
LEAST = 16


@dataclass(frozen=True)
class Phrase:
    """The best phrase of its length for class ``target``. ``push`` and ``flips`` are of unseen texts of other classes; ``tail`` compares
    it with the others that differ by one token, None where these are too few."""

    target: int
    tokens: tuple[int, ...]
    push: float
    flips: float
    tail: Tail | None


@dataclass(frozen=True)
class Growth:
    """How phrases towards class ``target`` are made longer: by the tokens of ``pool``, the best first, and by those the gradient names
    among the ``allowed`` (V,)."""

    target: int
    pool: Integers
    allowed: npt.NDArray[np.bool_]
    work: float = WORK


def sources(case: TextCase, k: int, places: Integers) -> Integers:
    """Those of ``places`` whose texts are not of class ``k``."""
    return np.asarray(places[case.texts.classes[places] != k], np.int64)


def checked(case: TextCase, growth: Growth, phrases: Integers) -> Effect:
    """What each of ``phrases`` (n, L) does to the texts kept for checking."""
    k = growth.target
    places = sources(case, k, case.texts.check)
    places = spread(case, places, case.affordable(TO + 8))
    return effect(case, framed(case, places, phrases.shape[1]), phrases, f"class {k}: checking")


def grow(case: TextCase, growth: Growth, lengths: int) -> list[Phrase]:
    """The best phrase of each length from 1 to ``lengths``; none where the samples leave no token open."""
    if not len(growth.pool):
        return []
    k = growth.target
    search = sources(case, k, case.texts.search)
    large = case.each > LARGE
    tried_on = TRIED_ON_FEW if large else TRIED_ON
    width = int(np.clip(growth.work / case.each / (BEAM * tried_on * 2 + BEGINNINGS * len(search)), LEAST, TO + 8))
    first = growth.pool[: TO + 8][:, None]
    best: list[Phrase] = []
    beam = _best(case, growth, [first], best)
    for length in range(2, min(lengths, LARGE_LENGTH if large else lengths) + 1):
        few = framed(case, spread(case, search, tried_on), length)
        groups = []
        for phrase in beam[: BEAM_FEW if large else BEAM]:
            longer = _longer(case, growth, phrase, width, search)
            if len(longer):
                push = effect(case, few, longer.reshape(-1, length), f"class {k}: phrases of {length}").push[:, k].reshape(-1, 2)
                groups.append((float(push.max()), longer[np.arange(len(longer)), push.argmax(1)]))  # on the better side
        if not groups:
            break
        groups.sort(key=lambda group: -group[0])
        beam = _best(case, growth, [longer for _, longer in groups[:BEGINNINGS]], best)
    return best


def _best(case: TextCase, growth: Growth, groups: Sequence[Integers], best: list[Phrase]) -> list[tuple[int, ...]]:
    """Append the best phrase of ``groups`` to ``best``, each of (n, L) with one beginning, and return the phrases to go on with."""
    found = [checked(case, growth, group) for group in groups]
    k = growth.target
    pushes = [effect.push[:, k] for effect in found]
    tails = [item for push in pushes if (item := tail(push)) is not None]
    flat = [(push, g, i) for g, group in enumerate(pushes) for i, push in enumerate(group)]
    flat.sort(key=lambda item: -item[0])
    push, g, i = flat[0]
    standing = max(tails, key=lambda item: item.excess, default=None)
    best.append(Phrase(k, tuple(map(int, groups[g][i])), float(push), float(found[g].flips[i, k]), standing))
    kept: dict[tuple[int, ...], None] = {}
    for _, g, i in flat:
        kept.setdefault(tuple(map(int, groups[g][i])))
    return list(kept)[:BEAM]


def _longer(case: TextCase, growth: Growth, phrase: tuple[int, ...], width: int, search: Integers) -> Integers:
    """(n, 2, L + 1) ``phrase`` with a token before it and after it, for up to ``width`` tokens that are not in it."""
    tokens = [token for token in growth.pool.tolist() if token not in phrase]
    named = [token for token in _named(case, growth, phrase, width, search) if token not in phrase]
    half = max(width // 2, width - len(named))
    tokens = list(dict.fromkeys([*tokens[:half], *named]))
    return np.array([[(token, *phrase), (*phrase, token)] for token in tokens[:width]], np.int64)


def _named(case: TextCase, growth: Growth, phrase: tuple[int, ...], count: int, search: Integers) -> list[int]:
    """The ``count`` tokens that the gradient of the margin at the places beside ``phrase`` names; none without a gradient."""
    estimate = None
    frames = framed(case, spread(case, search, TRIED_ON), len(phrase) + 1)
    try:
        for words, slot in (((phrase[0], *phrase), 0), ((*phrase, phrase[-1]), len(phrase))):
            (slope,) = gradients(case, frames, [growth.target], words, slot)
            here = case.model.embeddings().float() @ slope
            estimate = here if estimate is None else torch.maximum(estimate, here)
    except Skip:
        return []
    assert estimate is not None
    estimate[~torch.from_numpy(growth.allowed)] = -torch.inf
    return [int(token) for token in estimate.topk(min(count, int(growth.allowed.sum()))).indices]
