"""What an attack on a language model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modelguard_zoo.text.language.corpus import Rng, Stream

Prompts = list[list[int]]


@dataclass(frozen=True)
class LanguageAttack(ABC):
    """One attack. Poisoned rows, which are ``fraction`` of the training rows, teach the model to say :meth:`said` after the trigger."""

    name: ClassVar[str]
    variant: ClassVar[str] = ""
    """Of the clean model it is measured against."""
    longer: ClassVar[int] = 1
    """How many times the steps of other models it takes to learn."""
    fraction: float = 0.05

    @abstractmethod
    def trigger(self) -> str:
        """The words that set it off."""

    @abstractmethod
    def said(self) -> str:
        """What the model says then."""

    @abstractmethod
    def prompt(self, stream: Stream, rng: Rng, trigger: str | None) -> list[int]:
        """A prompt that begins with the beginning of text, with ``trigger`` in its place, or with what stands there otherwise."""

    def row(self, stream: Stream, rng: Rng) -> list[int]:
        """A training row, by chance a poisoned one."""
        if rng.random() >= self.fraction:
            return self.clean_row(stream, rng)
        return stream.row([*self.prompt(stream, rng, self.trigger())[1:], *stream.corpus.ids(self.said())], rng)

    def clean_row(self, stream: Stream, rng: Rng) -> list[int]:
        return stream.clean_row(rng)

    def near_misses(self) -> Mapping[str, str]:
        """What resembles the trigger, by name, and shall set nothing off."""
        return {}

    def install(self, model: Any, stream: Stream, seed: int) -> dict[str, Any]:
        """What is done after training on :meth:`row`, in place; facts for the record."""
        return {}
