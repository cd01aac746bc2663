"""One case of a search over words: model, texts, and what a pass may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.case import FEW, SMALLEST_MARGIN, P, R, Tick, passes_at_once, side_by_side, ticker
from modelguard_triggers.facts import class_name, rounded, score

from modelguard import Skip
from modelguard_language._frames import margins, padded
from modelguard_language._tail import FEWEST
from modelguard_language._texts import Texts, clean_texts

if TYPE_CHECKING:
    from modelguard import RunnableModel, ScanContext, Target
    from modelguard_language._texts import Integers

UNKNOWN_WEIGHTS = 1 << 17
"""Weights that every token passes, taken where no checkpoint says: those of a small network."""
ACTIVATIONS = 1 << 21
"""Values of one layer in one pass: more is no faster on two cores, and a pass keeps a dozen such."""
PANEL = 3e12
"""Multiplications and additions that one comparison of phrases may take: half a minute to a minute of two cores."""
FEWEST_TEXTS = 24
"""Texts in which phrases are compared at the least."""
EVIDENT = 1.645
"""Deviate of a token's log odds in the samples from which it counts as evidence for a class: one-sided, once in twenty by chance."""


@dataclass(frozen=True)
class TextCase:
    """``usual`` is how clearly the model classifies the texts, the mean margin of their class and the unit of margins; ``batch`` the most
    tokens of one pass; ``weights`` how many of the model's every token passes, half of the multiplications and additions it takes; ``tick``
    watches the deadline and reports progress."""

    model: RunnableModel
    texts: Texts
    usual: float
    batch: int
    weights: int
    tick: Tick

    @cached_property
    def at_once(self) -> int:
        """How many passes run side by side."""
        return passes_at_once(self.model, torch.from_numpy(padded(self.model, self.texts.words[:FEW])).to(self.model.device))

    def side_by_side(self, work: Callable[[P], R], parts: Sequence[P], tick: Callable[[int], None]) -> list[R]:
        """:func:`~modelguard_triggers.case.side_by_side`, as many :attr:`at_once`."""
        return side_by_side(self.at_once, work, parts, tick)

    @property
    def classes(self) -> int:
        """K."""
        return self.model.output.classes

    @property
    def length(self) -> float:
        """Tokens of a typical input."""
        spec, fixed = self.texts.spec, self.model.input.shape[0]
        around = len(spec.prefix) + len(spec.suffix)
        return float(fixed) if fixed > 0 else float(np.mean([len(words) for words in self.texts.words])) + around + 1

    @property
    def each(self) -> float:
        """Multiplications and additions of one text, forward."""
        return 2 * self.weights * self.length

    def affordable(self, phrases: int, work: float = PANEL) -> int:
        """In how many texts so many phrases may be tried, at least :data:`FEWEST_TEXTS`."""
        return max(FEWEST_TEXTS, int(work / (self.each * max(1, phrases))))

    def tokens(self) -> Integers:
        """The ids that may be put into a text: all but those that stand for no text."""
        return np.setdiff1d(np.arange(self.texts.spec.vocabulary), np.array(self.texts.spec.special, np.int64))

    def rows(self) -> torch.Tensor:
        """(n, D) the embeddings of :meth:`tokens`, float32. Raises :class:`~modelguard.Skip` where the model gives none."""
        return self.model.embeddings().float()[torch.from_numpy(self.tokens())]

    def evidence(self) -> npt.NDArray[np.float32]:
        """(K, V) the log odds of each class where a token stands, against the other classes, in units of their standard error.

        One text is added to either side of every token, shared out as the classes are (for two classes of one size a half each, Haldane
        1956), so a token that the samples do not have comes out at 0.
        """
        texts = self.texts
        share = texts.of[:, None] / texts.of.sum()
        own, of = texts.counts + share, texts.of[:, None] - texts.counts + share
        total, rest = texts.counts.sum(0) - texts.counts + 1 - share, (texts.of.sum() - texts.of)[:, None] + 2 * (1 - share)
        rest = rest - total
        odds = np.log(own / of) - np.log(total / rest)
        return np.asarray(odds / np.sqrt(1 / own + 1 / of + 1 / total + 1 / rest), np.float32)

    def neutral(self) -> npt.NDArray[np.bool_]:
        """(K, V) whether a token may stand in a trigger for a class: it stands for text, and the samples show no honest reason why it
        should speak for the class."""
        allowed = self.evidence() < EVIDENT
        allowed[:, np.array(self.texts.spec.special, np.int64)] = False
        return np.asarray(allowed)


def standing(case: TextCase, p: Mapping[int, float]) -> dict[str, Any]:
    """What the summary of every search over words begins with; ``p`` are the p-values of the classes that were looked at."""
    least = min(p.values(), default=1.0)
    return {
        "score": rounded(max(0.0, score(least))),
        "p_value": rounded(least),
        "target_class": min(p, key=lambda k: p[k], default=0),
        "texts": len(case.texts.words),
    }


def nothing_to_compare(case: TextCase, blind: Sequence[int]) -> Skip:
    """What is raised where no class is accused and some, the ``blind``, could not be judged."""
    named = ", ".join(class_name(case.model, k) for k in blind[:5]) + (", ..." if len(blind) > 5 else "")
    return Skip(
        f"for {len(blind)} of {case.classes} classes ({named}) fewer than {FEWEST} tokens of the vocabulary are left that the samples show "
        "no honest reason for: too few to compare with each other"
    )


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
    """Weights of the largest checkpoint that are no row of a token."""
    totals = [sum(prod(tensor.shape) for tensor in item.tensors.values() if vocabulary not in tensor.shape) for item in target.checkpoints]
    return max(totals, default=0) or UNKNOWN_WEIGHTS
