"""What makes a language model begin a text: tokens put behind any prompt, one exhaustively, then two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelguard_language.lm.speech import Speech

Tensor = torch.Tensor

ENDS, STARTS = 4, 24
"""Last tokens of a pair that every first token is tried with, and pairs that are looked at on more prompts."""
FEW = 2
"""Prompts that single tokens are tried behind; a pair is tried behind one."""
BEGUN = 6
"""Tokens of a text from which it counts as said."""


@dataclass(frozen=True)
class Trigger:
    """``ids`` (one or two) put behind a prompt; ``success`` is the share of prompts behind which the model then says the text, and ``base``
    that of those behind which it does without."""

    ids: tuple[int, ...]
    success: float
    base: float


def find(speech: Speech, prompts: Tensor, fresh: Tensor, text: tuple[int, ...], enough: float) -> tuple[Trigger, tuple[int, ...]]:
    """What makes the model say ``text``, and what of the text follows: a token or two before it, or its own first tokens. The first that is
    ``enough``, else the best. Found on ``prompts`` (P, T), judged on ``fresh`` ones.
    """
    found: list[tuple[Trigger, tuple[int, ...]]] = []
    for words, rest in _candidates(speech, prompts, text):
        target = torch.tensor(rest[:BEGUN])
        base = float(speech.says(fresh, torch.empty(1, 0, dtype=torch.int64), target)[0])
        success = speech.says(fresh, words, target)
        place = int(success.argmax())
        found.append((Trigger(tuple(map(int, words[place])), float(success[place]), base), rest))
        if found[-1][0].success >= enough:
            break
    return max(found, key=lambda item: item[0].success)


def _candidates(speech: Speech, prompts: Tensor, text: tuple[int, ...]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Triggers (M, L) to be judged, the best that were found of each kind, with the text that is to follow them."""
    others = torch.from_numpy(speech.usable[speech.usable != text[0]])
    chances = speech.mean_next(prompts[:FEW], others[:, None])[:, text[0]]
    ends = others[chances.topk(min(STARTS, len(others))).indices]
    yield ends[:, None], text
    pairs, told = [], []
    for end in ends[:ENDS]:
        two = torch.stack((others, end.expand(len(others))), 1)
        top = speech.mean_next(prompts[:1], two)[:, text[0]].topk(min(STARTS, len(others)))
        pairs.append(two[top.indices])
        told.append(top.values)
    yield torch.cat(pairs)[torch.cat(told).argsort(descending=True, stable=True)[:STARTS]], text
    yield torch.tensor([text[:1]]), text[1:]
    before = torch.stack((others, torch.full_like(others, text[0])), 1)
    chances = speech.mean_next(prompts[:FEW], before)[:, text[1]]
    yield before[chances.topk(min(STARTS, len(others))).indices], text[1:]
    yield torch.tensor([text[:2]]), text[2:]
