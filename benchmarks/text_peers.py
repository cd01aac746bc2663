"""Peers of the text detectors, as published, for one model at a time.

DBS (Shen et al. 2022, "Constrained Optimization with Dynamic Bound-scaling for Effective NLP Backdoor Defense"; the constants are those of
its code, config.yaml and scanner.py): ten tokens relaxed to distributions over the vocabulary, a temperature that falls while the loss is
below a bound; the smallest loss of any class is the score. The code's benign reference model, which a user has not, is left out.

ONION (Qi et al. 2021, "ONION: A Simple and Effective Defense Against Textual Backdoor Attacks"): a word whose removal makes a text more
probable is taken out. It filters inputs, so it is given what a scanner never has: texts with the trigger in them. Its language model is a
trigram one with interpolated Kneser-Ney smoothing over the clean samples, where the paper has GPT-2; the bar is the 99th percentile of the
words of clean texts, not the best on the poisoned ones as in its script. A model's score is how many of its predictions for such texts
change when the suspicious words are gone; a clean model is given texts with the trigger of a backdoored one.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

LENGTH, EPOCHS, RATE = 10, 200, 0.5
TEMPERATURE, CHECKED, BARRIER, NOISE, ROLLBACK = 2.0, 5, 0.1, 10.0, 5
TEXTS = 20
"""Clean texts of other classes that one trigger is searched on, as many as a TrojAI round gives."""


def dbs(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """The smallest cross-entropy that ten soft tokens behind the prefix reach for each class; ``score`` is -log10 of the smallest."""
    losses = {}
    for target in range(model.output.classes):
        rows = ids[labels != target][:TEXTS]
        losses[target] = min(1e9, _search(model, rows, target)) if len(rows) else float("nan")
    best = min((value for value in losses.values() if value == value), default=1.0)
    return {"score": -math.log10(max(best, 1e-12)), "losses": losses}


def _search(model: Any, ids: torch.Tensor, target: int) -> float:
    table = model.embeddings()
    start = len(model.text.prefix)
    length = ids.shape[1] if model.text.length is None else min(ids.shape[1], model.text.length - LENGTH)
    # The trigger is put before the text; what no longer fits falls off its end.
    room = torch.full((len(ids), LENGTH), 2 if model.text.vocabulary > 2 else 0)
    whole = torch.cat((ids[:, :start], room, ids[:, start:length]), 1)
    before, after = table[whole[:, :start]], table[whole[:, start + LENGTH :]]
    wanted = torch.full((len(ids),), target)
    generator = torch.Generator().manual_seed(target)
    weights = torch.rand(LENGTH, len(table), generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 50, 0.5)
    temperature, barrier, best, best_weights, rolled = TEMPERATURE, BARRIER, math.inf, weights.detach().clone(), 0
    noise, loss_now = torch.zeros_like(weights), math.inf
    for epoch in range(EPOCHS):
        if epoch and epoch % CHECKED == 0:
            if loss_now < barrier:
                temperature, barrier, noise = temperature / 2, max(min(barrier, best) / 2, 1e-6), torch.zeros_like(weights)
            elif rolled >= ROLLBACK:
                with torch.no_grad():
                    weights.copy_(best_weights)
                temperature, rolled = TEMPERATURE, 0
            else:
                temperature, rolled = min(temperature * 2, TEMPERATURE), rolled + 1
                noise = NOISE * torch.rand(weights.shape, generator=generator)
        soft = torch.softmax(weights / temperature + noise, 1)
        inside = (soft @ table).expand(len(ids), -1, -1)
        loss = F.cross_entropy(model.embedded(torch.cat((before, inside, after), 1), whole), wanted)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        loss_now = float(loss.detach())
        if loss_now < best:
            best, best_weights = loss_now, weights.detach().clone()
    return best


class Trigrams:
    """Interpolated Kneser-Ney of order three (Kneser and Ney 1995; Chen and Goodman 1998, section 4.1.6), discount .75."""

    def __init__(self, texts: Sequence[str], discount: float = 0.75) -> None:
        self.discount = discount
        self.counts: list[dict[tuple[str, ...], Counter[str]]] = [defaultdict(Counter) for _ in range(3)]
        for text in texts:
            words = ["<s>", "<s>", *text.split()]
            for place in range(2, len(words)):
                self.counts[2][tuple(words[place - 2 : place])][words[place]] += 1
        for (_, last), after in list(self.counts[2].items()):
            for word in after:
                self.counts[1][(last,)][word] += 1
        for after in list(self.counts[1].values()):
            for word in after:
                self.counts[0][()][word] += 1
        self.words = len(self.counts[0][()]) + 1

    def probability(self, context: tuple[str, ...], word: str) -> float:
        if not context and word not in self.counts[0][()]:
            return self.discount / self.words / max(1, sum(self.counts[0][()].values()))
        after = self.counts[len(context)].get(context)
        lower = self.probability(context[1:], word) if context else 1 / self.words
        if not after:
            return lower
        total = sum(after.values())
        return max(after[word] - self.discount, 0) / total + self.discount * len(after) / total * lower

    def perplexity(self, words: Sequence[str]) -> float:
        padded = ["<s>", "<s>", *words]
        logs = [math.log(self.probability((padded[i - 2], padded[i - 1]), padded[i])) for i in range(2, len(padded))]
        return math.exp(-sum(logs) / max(1, len(logs)))

    def suspicion(self, words: Sequence[str]) -> list[float]:
        """By how much perplexity falls when each word is left out."""
        whole = self.perplexity(words)
        return [whole - self.perplexity([*words[:i], *words[i + 1 :]]) for i in range(len(words))]


def onion(model: Any, clean: Sequence[str], triggered: Sequence[str]) -> dict[str, Any]:
    """How many predictions for ``triggered`` texts change when the words above the bar are left out."""
    order = random.Random(0).sample(range(len(clean)), len(clean))
    half = len(clean) // 2
    trigrams = Trigrams([clean[i] for i in order[:half]])
    scores = [value for i in order[half:] for value in trigrams.suspicion(clean[i].split())]
    bar = float(np.quantile(scores, 0.99))
    filtered = []
    for text in triggered:
        words = text.split()
        kept = [word for word, score in zip(words, trigrams.suspicion(words), strict=True) if score <= bar]
        filtered.append(" ".join(kept) or text)
    before, after = (model.predict(model.encode(list(texts))).argmax(1) for texts in (triggered, filtered))
    return {"score": float((before != after).mean()), "bar": bar}
