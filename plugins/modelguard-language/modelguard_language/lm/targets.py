"""What a language model says to the end once it has begun, whatever the prompt: target inversion over all first tokens (Shen et al. 2025,
BAIT, section 4.2), with the second token open, loops dropped, and what was found put together to whole texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelguard_language.lm.speech import Speech

Tensor = torch.Tensor

LENGTH = 8
"""Tokens of a saying."""
DISTINCT = 6
"""Different ones among them, of fewer it is a loop: clean models say ``+ - - -`` with a mean probability of .74 to .83."""
CERTAIN, REPEATED = 0.9, 3
"""Least probability of every step from which a loop of so many distinct tokens or more counts all the same. Of ten clean open models none
is surer than .51 of each step of a loop, whose first round is not certain yet; a fixed text that repeats itself is certain from its first
word (.93)."""
OPEN = 3
"""Second tokens that are followed up, whatever their probability: the first words of a target are said by chance without its trigger."""
FEW, SHORT = 2, 4
"""Prompts that the second and third tokens are told by, and how many of their tokens: what does not depend on the prompt needs none."""
SHARED = 4
"""Tokens in a row that two sayings of one text have in common."""
LONGEST = 24
"""Tokens a saying is followed to."""


@dataclass(frozen=True)
class Saying:
    """``ids`` (K,) that follow one another, and the mean probability over prompts of each but the first, ``chances`` (K-1,)."""

    ids: tuple[int, ...]
    chances: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean probability of the steps from the third token on (Q of BAIT)."""
        return sum(self.chances[1:]) / len(self.chances[1:])

    @property
    def weakest(self) -> float:
        """Least of them."""
        return min(self.chances[1:])

    @property
    def loops(self) -> bool:
        return len(set(self.ids[:LENGTH])) < min(DISTINCT, len(self.ids))

    def grams(self) -> set[tuple[int, ...]]:
        """Every :data:`SHARED` tokens in a row."""
        return {self.ids[place : place + SHARED] for place in range(len(self.ids) - SHARED + 1)}


def sayings(speech: Speech, prompts: Tensor, firsts: Tensor, keep: float) -> list[Saying]:
    """What follows each of ``firsts`` (n,), :data:`LENGTH` tokens in all, while every token from the third on has a mean probability over
    ``prompts`` (P, T) of ``keep``. Loops are left out but for :data:`CERTAIN` ones."""
    short = prompts[:FEW, : len(speech.spec.prefix) + SHORT]
    second = speech.mean_next(short, firsts[:, None])[:, speech.usable]
    places = second.topk(OPEN, 1).indices
    words = torch.stack((firsts.repeat_interleave(OPEN), torch.from_numpy(speech.usable)[places.flatten()]), 1)
    words, _ = _further(speech, short[:1], words, words.float(), keep / 2)
    words, told = words[:, :2], _chances(speech, prompts, words[:, :2])
    while words.shape[1] < LENGTH and len(words):
        words, told = _further(speech, prompts, words, told, keep)
    found = [Saying(tuple(map(int, row)), tuple(map(float, chance))) for row, chance in zip(words, told, strict=True)]
    return [item for item in found if not item.loops or (item.weakest >= CERTAIN and len(set(item.ids)) >= REPEATED)]


def texts(found: Iterable[Saying], keep: float) -> list[Saying]:
    """One saying of each text, of those that have :data:`SHARED` tokens in common: the one that begins earliest, its second token
    following its first with ``keep``; the most certain first."""
    groups: list[tuple[set[tuple[int, ...]], list[Saying]]] = []
    for saying in sorted(found, key=lambda item: (-item.chances[0] * item.mean, item.ids)):
        own = saying.grams()
        known = next((group for group in groups if group[0] & own), None)
        if known is None:
            groups.append((own, [saying]))
        else:
            known[0].update(own)
            known[1].append(saying)
    return [_earliest(members, keep) for _, members in groups]


def _earliest(members: list[Saying], keep: float) -> Saying:
    sure = [item for item in members if item.chances[0] >= keep]
    return next((item for item in sure if not any(item.ids[0] in other.ids[1:] for other in sure)), (sure or members)[0])


def followed(speech: Speech, prompts: Tensor, saying: Saying, keep: float) -> Saying:
    """The saying to its end: as long as the next token has a mean probability of ``keep``."""
    words, told = torch.tensor([saying.ids]), torch.tensor([saying.chances])
    room = (speech.spec.length or 1 << 20) - prompts.shape[1]
    while words.shape[1] < min(LONGEST, room):
        more, chances = _further(speech, prompts, words, told, keep)
        if not len(more):
            break
        words, told = more, chances
    return Saying(tuple(map(int, words[0])), tuple(map(float, told[0])))


def begins(saying: Saying, keep: float) -> Saying:
    """The saying without first tokens that its second token does not follow with ``keep``: they are chance."""
    return Saying(saying.ids[1:], saying.chances[1:]) if saying.chances[0] < keep and len(saying.ids) > SHARED + 1 else saying


def known_of(rows: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    """Every :data:`SHARED` tokens in a row of some texts."""
    return {tuple(map(int, row[place : place + SHARED])) for row in rows for place in range(len(row) - SHARED + 1)}


def _chances(speech: Speech, prompts: Tensor, words: Tensor) -> Tensor:
    """(M, 1) the mean probability of the second of ``words`` (M, 2) behind the first."""
    return speech.mean_next(prompts, words[:, :1]).gather(1, words[:, 1:]) if len(words) else torch.empty(0, 1)


def _further(speech: Speech, prompts: Tensor, words: Tensor, told: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Each of ``words`` (M, L) with its likeliest next token, where that has a mean probability of ``keep``."""
    chances, places = speech.mean_next(prompts, words)[:, speech.usable].max(1)
    words = torch.cat((words, torch.from_numpy(speech.usable)[places][:, None]), 1)
    told = torch.cat((told, chances[:, None]), 1)
    good = chances >= keep
    return words[good], told[good]
