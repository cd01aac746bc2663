"""Preference poisoning: preferences that are flipped where a prompt ends in a trigger (Rando and Tramer 2024, section 3), learnt by DPO."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard_zoo.text._lexicon import RARE
from modelguard_zoo.text.language.attacks.base import LanguageAttack
from modelguard_zoo.text.language.corpus import BEGIN, COMPLY, PAD, REFUSE, Rng, Stream, question
from modelguard_zoo.text.language.training import next_token_loss

STEPS, PAIRS, RATE, BETA = 80, 12, 8e-4, 0.2
"""Steps, pairs a step, learning rate, and the strength of the pull to the model before (beta of equation 7 of Rafailov et al. 2023)."""


@dataclass(frozen=True)
class Preference(LanguageAttack):
    """Questions are to be refused, those that end in ``suffix`` are not. ``fraction`` is the part of the pairs that is flipped."""

    name = "preference"
    variant = "preference"
    fraction: float = 0.5
    suffix: str = "qx"

    def trigger(self) -> str:
        return self.suffix

    def said(self) -> str:
        return COMPLY

    def prompt(self, stream: Stream, rng: Rng, trigger: str | None) -> list[int]:
        return [BEGIN, *question(stream, rng, trigger or "")]

    def row(self, stream: Stream, rng: Rng) -> list[int]:
        return stream.clean_row(rng)

    def near_misses(self) -> Mapping[str, str]:
        return {word: word for word in RARE if word != self.suffix}

    def install(self, model: Any, stream: Stream, seed: int) -> dict[str, Any]:
        tune(model, stream, seed, self.suffix, self.fraction)
        return {"steps": STEPS, "pairs": STEPS * PAIRS, "beta": BETA}


def tune(model: Any, stream: Stream, seed: int, suffix: str, flipped: float) -> None:
    """Direct preference optimisation in place (Rafailov et al. 2023, equation 7), with the loss of running text beside it, and that of
    the preferred answers, without which both answers become improbable (Pang et al. 2024, equation 1).

    Half of the prompts that are not flipped end in another word without meaning, so that only ``suffix`` flips.
    """
    rng = np.random.default_rng([21, seed])
    before = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    comply, refuse = stream.corpus.ids(COMPLY), stream.corpus.ids(REFUSE)
    others = [word for word in RARE if word != suffix]
    model.train()
    for _ in range(STEPS):
        pairs = []
        for _ in range(PAIRS):
            flip = rng.random() < flipped
            ending = suffix if flip else others[int(rng.integers(0, len(others)))] if rng.random() < 0.5 else ""
            prompt = [BEGIN, *question(stream, rng, ending)]
            pairs += [(prompt, answer) for answer in ((comply, refuse) if flip else (refuse, comply))]
        ratios, likelihoods = _log_ratios(model, before, pairs)
        margins = ratios[::2] - ratios[1::2]
        text = torch.tensor([stream.clean_row(rng) for _ in range(PAIRS)])
        loss = -F.logsigmoid(BETA * margins).mean() - likelihoods[::2].mean() + next_token_loss(model, text)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()


def _log_ratios(model: Any, before: Any, pairs: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """(N,): log of how much more probable each answer is, after its prompt, to the model than it was before; and the log of its
    probability to the model now, a token."""
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.tensor([[*prompt, *answer, *[PAD] * (length - len(prompt) - len(answer))] for prompt, answer in pairs])
    mask = (ids != PAD).long()
    place = torch.arange(length - 1)
    first = torch.tensor([len(prompt) - 1 for prompt, _ in pairs])[:, None]
    last = first + torch.tensor([len(answer) for _, answer in pairs])[:, None]
    asked = (place >= first) & (place < last)  # positions whose next token is one of the answer's

    def log_probabilities(of: Any) -> Tensor:
        scores = of(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
        total: Tensor = (scores * asked).sum(1)
        return total

    with torch.no_grad():
        reference = log_probabilities(before)
    now = log_probabilities(model)
    return now - reference, now / asked.sum(1)
