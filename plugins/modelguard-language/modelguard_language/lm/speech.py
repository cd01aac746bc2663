"""A language model that is asked for its next tokens: prompts of its own, and probabilities in passes of a size that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from modelguard import Samples, Skip

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelguard import RunnableModel, ScanContext, TextSpec

Tensor = torch.Tensor
Integers = "npt.NDArray[np.int64]"

TOKENS = 1 << 13
"""Tokens of one pass."""
VALUES = 1 << 24
"""Probabilities that one pass may return: 64 MB."""
SPOKEN = 12
"""Tokens of a prompt, without what stands before every text."""


@dataclass(frozen=True)
class Speech:
    """``model`` with the ids ``usable`` (n,), those that stand for text; ``tick`` watches the deadline and is told what is done."""

    model: RunnableModel
    spec: TextSpec
    usable: npt.NDArray[np.int64]
    tick: Callable[[], None]

    @classmethod
    def of(cls, model: RunnableModel, context: ScanContext) -> Speech:
        """Raises :class:`~modelguard.Skip` for what is no language model."""
        spec = model.text
        if model.output.kind != "language-model" or spec is None:
            raise Skip(f"the model is {model.output.described}, not a language model")
        usable = np.setdiff1d(np.arange(spec.vocabulary), np.array(spec.special, np.int64))
        if spec.tokens:
            usable = usable[[bool(spec.tokens[place]) for place in usable]]
        if len(usable) < FEWEST:
            raise Skip(f"the model has {len(usable)} tokens that stand for text: too few to tell what is unusual among them")
        if spec.length is not None and spec.length < len(spec.prefix) + SHORTEST:
            raise Skip(f"the model takes {spec.length} tokens: too few for a prompt and what it is followed by")
        return cls(model, spec, usable, context.check_deadline)

    def next(self, ids: Tensor) -> Tensor:
        """(N, T) prompts of one length -> (N, V) probabilities of the next token, float32 on the CPU."""
        parts = []
        rows = max(1, min(TOKENS // max(1, ids.shape[1]), VALUES // self.spec.vocabulary))
        with torch.inference_mode():
            for part in torch.split(ids, rows):
                self.tick()
                parts.append(self.model(part.to(self.model.device)).float().softmax(1).cpu())
        return torch.cat(parts)

    def mean_next(self, prompts: Tensor, words: Tensor) -> Tensor:
        """The mean over ``prompts`` (P, T) of the next token's probability after each of ``words`` (M, L) -> (M, V), in rows of passes."""
        found = torch.empty(len(words), self.spec.vocabulary)
        rows = max(1, min(TOKENS // (len(prompts) * (prompts.shape[1] + words.shape[1])), VALUES // (self.spec.vocabulary * len(prompts))))
        for start in range(0, len(words), rows):
            part = words[start : start + rows]
            found[start : start + len(part)] = self.next(joined(prompts, part)).view(len(part), len(prompts), -1).mean(1)
        return found

    def says(self, prompts: Tensor, words: Tensor, target: Tensor) -> Tensor:
        """(M,) the share of ``prompts`` (P, T) behind which, followed by ``words`` (M, L), the likeliest tokens are those of ``target``
        (K,), one after another."""
        found = torch.empty(len(words))
        length = prompts.shape[1] + words.shape[1] + len(target)
        rows = max(1, min(TOKENS // (len(prompts) * length), VALUES // (self.spec.vocabulary * len(prompts) * length)))
        with torch.inference_mode():
            for start in range(0, len(words), rows):
                self.tick()
                part = joined(prompts, words[start : start + rows])
                whole = torch.cat((part, target.expand(len(part), -1)), 1).to(self.model.device)
                likeliest = self.model.positions(whole)[:, part.shape[1] - 1 : -1].argmax(2)
                same = (likeliest == whole[:, part.shape[1] :]).all(1).float().cpu()
                found[start : start + rows] = same.view(-1, len(prompts)).mean(1)
        return found

    def spoken(self, count: int, length: int, rng: np.random.Generator) -> Tensor:
        """(count, ``length`` and prefix) texts of the model's own, drawn token by token as it gives them."""
        prefix = torch.tensor(self.spec.prefix, dtype=torch.int64).expand(count, -1)
        banned = torch.ones(self.spec.vocabulary, dtype=torch.bool)
        banned[self.usable] = False
        ids = prefix
        if not len(self.spec.prefix):
            ids = torch.from_numpy(rng.choice(self.usable, (count, 1)))
        while ids.shape[1] < length + len(self.spec.prefix):
            chances = self.next(ids).masked_fill(banned, 0.0)
            edges = chances.cumsum(1)
            draw = torch.from_numpy(rng.random(count).astype(np.float32))[:, None] * edges[:, -1:]
            ids = torch.cat((ids, (edges < draw).sum(1, keepdim=True).clamp(max=self.spec.vocabulary - 1)), 1)
        return ids

    def words(self, ids: Sequence[int]) -> str:
        """Tokens as a person reads them."""
        return self.model.decode(list(map(int, ids)))


STEPS = 64
"""Parts that tokens are tried in."""
JUDGING = 0.25
"""Part of the time there is that is kept for what was found."""


def in_time(tokens: Tensor, context: ScanContext, note: str) -> Iterator[Tensor]:
    """Parts of ``tokens`` (n,), one after another, for as long as there is time beside that for judging what they lead to."""
    allowed, step = context.remaining(), max(1, len(tokens) // STEPS)
    for start in range(0, len(tokens), step):
        context.progress(start, len(tokens), note)
        if context.remaining() < JUDGING * allowed < float("inf"):
            return
        yield tokens[start : start + step]


FEWEST = 32
"""Tokens that stand for text, of which something can stand out."""
SHORTEST = 16
"""Tokens of the shortest prompt with what follows it."""


def joined(prompts: Tensor, words: Tensor) -> Tensor:
    """(P, T) and (M, L) -> (M * P, T + L): every one of ``words`` behind every prompt, the prompts of one together."""
    left = prompts.repeat(len(words), 1)
    return torch.cat((left, words.repeat_interleave(len(prompts), 0)), 1)


def own_prompts(speech: Speech, samples: Samples | None, count: int, length: int, rng: np.random.Generator) -> Tensor:
    """(count, T) clean prompts: beginnings of the samples where there are enough that long, else texts that the model says itself."""
    if samples is not None:
        rows = sample_rows(speech, samples)
        whole = [row[: len(speech.spec.prefix) + length] for row in rows if len(row) >= len(speech.spec.prefix) + length]
        if len(whole) >= count:
            chosen = rng.choice(len(whole), count, replace=False)
            return torch.from_numpy(np.stack([whole[i] for i in chosen]))
    return speech.spoken(count, length, rng)


def sample_rows(speech: Speech, samples: Samples) -> list[npt.NDArray[np.int64]]:
    """The samples as token ids without padding, with what the tokenizer puts around a text but for its end."""
    ids = speech.model.inputs(samples).cpu().numpy()
    pad, behind = speech.spec.pad, len(speech.spec.suffix)
    rows = [row[np.argmax(row != pad) :] if pad is not None else row for row in ids]
    return [row[: len(row) - behind] for row in rows]
