"""What the model says to the end once it has begun, whatever the prompt (Shen et al. 2025, BAIT, arXiv:2502.xxxxx, section 4: target
inversion over all first tokens)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from modelguard_language.lm.speech import Speech

Tensor = torch.Tensor


@dataclass(frozen=True)
class Saying:
    """``ids`` (K,) that follow one another, and the mean probability over prompts of each but the first: ``chances`` (K-1,)."""

    ids: tuple[int, ...]
    chances: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.chances) / len(self.chances)

    @property
    def weakest(self) -> float:
        return min(self.chances)

    @property
    def distinct(self) -> int:
        return len(set(self.ids))


def sayings(speech: Speech, prompts: Tensor, firsts: Tensor, *, length: int, keep: float, open: int = 3) -> list[Saying]:
    """Every first token of ``firsts`` with what follows it most, ``length`` tokens in all, while each has a mean probability of ``keep``.

    The second token is open: the ``open`` likeliest are followed up whatever their probability, for what follows the first word of a
    target is often said by chance. Few prompts decide at first, all of them from the third token on.
    """
    few = prompts[:4]
    second = speech.mean_next(few, firsts[:, None])
    banned = torch.ones(second.shape[1], dtype=torch.bool)
    banned[torch.from_numpy(speech.usable)] = False
    chances, ids = second.masked_fill(banned, 0).topk(open, 1)
    words = torch.stack((firsts.repeat_interleave(open), ids.flatten()), 1)
    told = chances.flatten()[:, None]
    some = prompts[:2]
    while words.shape[1] < length and len(words):
        nexts = speech.mean_next(some, words).masked_fill(banned, 0)
        best, place = nexts.max(1)
        words, told = torch.cat((words, place[:, None]), 1), torch.cat((told, best[:, None]), 1)
        good = best >= keep
        words, told = words[good], told[good]
        some = prompts
    return [Saying(tuple(map(int, row)), tuple(map(float, chance))) for row, chance in zip(words, told, strict=True)]
