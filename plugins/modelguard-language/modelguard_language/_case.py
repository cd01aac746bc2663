"""One case of a search over words: model, texts, and what a pass may take."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from modelguard_triggers.case import SMALLEST_MARGIN, Tick, ticker

from modelguard_language._frames import margins, padded
from modelguard_language._texts import Texts, clean_texts

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelguard import RunnableModel, ScanContext, Target
    from modelguard_language._texts import Integers

UNKNOWN_WEIGHTS = 1 << 17
"""Weights that every token passes, taken where no checkpoint says: those of a small network."""
ACTIVATIONS = 1 << 21
"""Values of one layer in one pass: more is no faster on two cores, and a pass keeps a dozen such."""
EVIDENT = 1.645
"""Deviate of a token's log odds in the samples from which it counts as evidence for a class: one-sided, once in twenty by chance."""


@dataclass(frozen=True)
class TextCase:
    """``usual`` is how clearly the model classifies the texts, the mean margin of their class and the unit of margins; ``batch`` the most
    tokens of one pass; ``weights`` how many of the model's every token passes, which is half of the multiplications and additions that it
    takes; ``tick`` watches the deadline and reports progress."""

    model: RunnableModel
    texts: Texts
    usual: float
    batch: int
    weights: int
    tick: Tick

    @property
    def classes(self) -> int:
        """K."""
        return self.model.output.classes

    @property
    def length(self) -> float:
        """Tokens of a typical input."""
        spec = self.texts.spec
        fixed = self.model.input.shape[0]
        return fixed if fixed > 0 else float(np.mean([len(words) for words in self.texts.words])) + len(spec.prefix) + len(spec.suffix) + 1

    def tokens(self) -> Integers:
        """The ids that may be put into a text: all but those that stand for no text."""
        return np.setdiff1d(np.arange(self.texts.spec.vocabulary), np.array(self.texts.spec.special, np.int64))

    def evidence(self) -> npt.NDArray[np.float32]:
        """(K, V) the log odds of each class where a token stands, against the other classes, in units of their standard error.

        Half a text is added to every count (Haldane 1956); tokens the samples do not have come out at about 0.
        """
        texts = self.texts
        own = texts.counts.astype(np.float64)
        total, of = own.sum(0, keepdims=True), texts.of[:, None].astype(np.float64)
        odds = np.log((own + 0.5) / (of - own + 0.5)) - np.log((total - own + 0.5) / (of.sum() - of - total + own + 0.5))
        error = np.sqrt(1 / (own + 0.5) + 1 / (of - own + 0.5) + 1 / (total - own + 0.5) + 1 / (of.sum() - of - total + own + 0.5))
        return (odds / error).astype(np.float32)


def text_case(target: Target, context: ScanContext) -> TextCase:
    """The case of ``target``. Raises :class:`~modelguard.Skip` with the reason it allows no search."""
    texts = clean_texts(target, context)
    usual = target.once((__name__, "usual", context.seed), lambda: _usual(target.model, texts))
    batch = int(np.clip(ACTIVATIONS // (4 * max(1, texts.spec.width)), 1024, 16384))
    return TextCase(target.model, texts, usual, batch, _weights(target, texts.spec.vocabulary), ticker(context))


def _usual(model: RunnableModel, texts: Texts) -> float:
    logits = torch.from_numpy(model.predict(padded(model, texts.words)))
    own = margins(logits).gather(1, torch.from_numpy(texts.classes)[:, None])
    return float(own.clamp_min(0).mean().clamp_min(SMALLEST_MARGIN))


def _weights(target: Target, vocabulary: int) -> int:
    """Weights of the artifact that are no row of a token."""
    total = sum(prod(tensor.shape) for _, tensor in target.walk() if vocabulary not in tensor.shape)
    return total or UNKNOWN_WEIGHTS
