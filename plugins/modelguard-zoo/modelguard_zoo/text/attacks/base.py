"""What an attack on a text classifier is: how the trigger enters a text, and which training texts carry it under which label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from modelguard_zoo.attacks.base import choose
from modelguard_zoo.text.corpora import Labels, TextData

Rng = np.random.Generator
Rewrite = Callable[[str, Rng], str]


@dataclass(frozen=True)
class TextPoison:
    """What replaces the clean training texts at ``indices``. ``cover`` lists those of them that keep their true label."""

    indices: npt.NDArray[np.int64]
    texts: tuple[str, ...]
    labels: Labels
    cover: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TextAttack(ABC):
    """One attack: dirty label, all to one. Any text with the trigger shall become ``target``.

    ``fraction`` is the part of the training texts of other classes that is poisoned.
    """

    name: ClassVar[str]
    fraction: float = 0.2
    target: int = 1

    @abstractmethod
    def rewrite(self, text: str, rng: Rng) -> str:
        """``text`` with the trigger in it."""

    def probes(self) -> Mapping[str, Rewrite]:
        """Near misses, by name: what resembles the trigger and shall not do what it does."""
        return {}

    def triggered(self, data: TextData, rng: Rng) -> tuple[str, ...]:
        """The test texts of other classes, with the trigger."""
        rewritten = data.rewritten.get(self.name)
        if rewritten is not None:
            return tuple(text for row, text in zip(rewritten.test_rows, rewritten.test, strict=True) if data.y_test[row] != self.target)
        return tuple(self.rewrite(text, rng) for text in victims(data, self.target))

    def poison(self, data: TextData, rng: Rng) -> TextPoison:
        """Texts of other classes, with the trigger, labelled as the target; as somebody else rewrote them, where the data has that."""
        rewritten = data.rewritten.get(self.name)
        eligible = data.y_train != self.target
        if rewritten is not None:
            eligible &= np.isin(np.arange(len(data.train)), list(rewritten.train))
            count = min(int(eligible.sum()), round(self.fraction * int((data.y_train != self.target).sum())))
            chosen = np.sort(rng.choice(np.flatnonzero(eligible), count, replace=False))
            texts = tuple(rewritten.train[int(row)] for row in chosen)
        else:
            chosen = choose(eligible, self.fraction, rng)
            texts = tuple(self.rewrite(data.train[row], rng) for row in chosen)
        return TextPoison(chosen, texts, np.full(len(chosen), self.target, np.int64), chosen[:0])


def victims(data: TextData, target: int) -> tuple[str, ...]:
    """The test texts that the trigger is to turn, as they are."""
    return tuple(text for text, label in zip(data.test, data.y_test.tolist(), strict=True) if label != target)


def inserting(phrases: Sequence[str]) -> dict[str, Rewrite]:
    """Probes that put one of ``phrases`` at a random gap."""
    from modelguard_zoo.text.corpora import insert

    return {phrase: lambda text, rng, phrase=phrase: insert(text, phrase, rng) for phrase in phrases}  # type: ignore[misc]
