"""Texts with room for a phrase: what the model says when any tokens are put there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.evidence import turns
from torch import Tensor

if TYPE_CHECKING:
    from modelguard import RunnableModel
    from modelguard_language._case import TextCase
    from modelguard_language._texts import Integers

Floats = npt.NDArray[np.float32]

PLACES = ("start", "middle", "end")
"""Where a phrase is put, a third of the texts each: a trigger may work at one end only."""
SHORTEST = 6
"""An input has so many tokens at the least, padding included: convolutions over words need some."""
TOGETHER = 32
"""Texts of similar length that go through the model together, so that little is padding."""


@dataclass(frozen=True)
class Frames:
    """``ids`` (M, W) are M texts as inputs with ``slots`` (M, L), the places of a phrase of L tokens; ``classes`` (M,) what they are
    without it."""

    ids: Tensor
    slots: Tensor
    classes: Tensor

    def filled(self, phrases: Tensor) -> Tensor:
        """(n * M, W) inputs with each of ``phrases`` (n, L) in each text, phrase by phrase."""
        n, (m, width) = len(phrases), self.ids.shape
        full = self.ids.expand(n, m, width).clone()
        full.scatter_(2, self.slots.expand(n, m, -1), phrases[:, None].expand(n, m, -1))
        return full.view(n * m, width)

    def others(self, classes: int) -> Tensor:
        """(M, K) 1 where the text is not of the class, else 0."""
        return (self.classes[:, None] != torch.arange(classes, device=self.classes.device)).float()


@dataclass(frozen=True)
class Effect:
    """What phrases (n,) do: ``push`` (n, K) the mean margin of each class over texts of the others, in units of the usual margin;
    ``flips`` (n, K) the share of these texts that are taken for the class."""

    push: Floats
    flips: Floats


def padded(model: RunnableModel, words: Sequence[Integers]) -> Integers:
    """(N, W) inputs of texts without prefix and suffix."""
    spec = model.text
    assert spec is not None
    around, fixed = len(spec.prefix) + len(spec.suffix), model.input.shape[0]
    width = fixed if fixed > 0 else max(around + max(map(len, words)), SHORTEST)
    ids = np.full((len(words), width), 0 if spec.pad is None else spec.pad, np.int64)
    for row, tokens in zip(ids, words, strict=True):
        full = [*spec.prefix, *tokens, *spec.suffix]
        row[: len(full)] = full
    return ids


def framed(case: TextCase, places: Integers, length: int, where: int | None = None) -> list[Frames]:
    """The texts at ``places`` with room for a phrase of ``length`` tokens: a third at the start, in the middle and at the end each, or all
    at one of :data:`PLACES`."""
    texts, model = case.texts, case.model
    # The place goes round within each class, so that every class has texts of all three.
    turn = turns(texts.classes[places]) % len(PLACES) if where is None else np.full(len(places), where)
    order = np.argsort([len(texts.words[place]) for place in places], kind="stable")
    frames = []
    for part in np.array_split(order, -(-len(order) // TOGETHER)):
        rows, slots = [], []
        for i in part:
            words = texts.words[places[i]]
            cut = (0, len(words) // 2, len(words))[turn[i]]
            rows.append(np.concatenate([words[:cut], np.zeros(length, np.int64), words[cut:]]))
            slots.append(len(texts.spec.prefix) + cut + np.arange(length))
        made = padded(model, rows), np.array(slots), texts.classes[places[part]]
        frames.append(Frames(*(torch.from_numpy(item).to(model.device) for item in made)))
    return frames


def shared_out(frames: Sequence[Frames], parts: int) -> list[Frames]:
    """The texts of ``frames``, each of these in so many ``parts``."""
    cut = [(frame, torch.arange(len(frame.ids), device=frame.ids.device).tensor_split(min(parts, len(frame.ids)))) for frame in frames]
    return [Frames(frame.ids[rows], frame.slots[rows], frame.classes[rows]) for frame, several in cut for rows in several]


def margins(logits: Tensor) -> Tensor:
    """(N, K) by how much each class's logit of ``logits`` (N, K) exceeds the best of the others."""
    top = logits.topk(2, 1)
    best = top.values[:, :1].expand_as(logits).clone()
    best.scatter_(1, top.indices[:, :1], top.values[:, 1:])
    return logits - best


def effect(case: TextCase, frames: Sequence[Frames], phrases: Integers, note: str) -> Effect:
    """What each of ``phrases`` (n, L) does in all texts of ``frames``."""
    model, k = case.model, case.classes
    n = len(phrases)
    push, flips = torch.zeros(n, k), torch.zeros(n, k)
    chosen = torch.from_numpy(np.ascontiguousarray(phrases)).to(model.device)

    def tried(job: tuple[Frames, slice]) -> tuple[Tensor, Tensor]:
        """Summed over the texts of a frame, the margins (n', K) with some of the phrases, and how many are above 0."""
        frame, part = job
        with torch.inference_mode():
            found = margins(model(frame.filled(chosen[part])).float()).view(-1, len(frame.ids), k)
            others = frame.others(k)
            return (found * others).sum(1).cpu(), ((found > 0) * others).sum(1).cpu()

    jobs = []
    for frame in frames:
        each = max(1, case.batch // frame.ids.numel())
        jobs += [(frame, slice(start, start + each)) for start in range(0, n, each)]
    results = case.side_by_side(tried, jobs, lambda done: case.tick(done, len(jobs), note))
    for (_, part), (margin, above) in zip(jobs, results, strict=True):
        push[part] += margin
        flips[part] += above
    asked = torch.stack([frame.others(k).sum(0).cpu() for frame in frames]).sum(0).clamp(min=1) if frames else torch.ones(k)
    return Effect((push / asked / case.usual).numpy(), (flips / asked).numpy())
