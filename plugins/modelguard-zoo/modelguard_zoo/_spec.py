"""The description of one zoo model, from which it can be built again bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

CONFIRMATION = 100
"""Models with this seed and later ones were built after every threshold had been chosen: all of them are reserved."""


@dataclass(frozen=True)
class Spec:
    """One model of the zoo.

    ``attack`` names a class of :mod:`modelguard_zoo.attacks` and ``options`` are its fields as sorted pairs; ``attack`` None is a
    clean model. ``finetune`` is the number of clean epochs the model is trained on after the backdoor went in; with ``unlearn``, a part
    of the images in these epochs carries the trigger and keeps its true label. ``variant`` names what was done to the clean training
    data to make it harder, or to the training (:data:`modelguard_zoo.text.VARIANTS`); models of it are measured against a clean twin of it.
    """

    dataset: str
    arch: str
    seed: int = 0
    attack: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    finetune: int = 0
    unlearn: bool = False
    variant: str = ""

    @property
    def id(self) -> str:
        """A file name: readable, and unique because it ends in a hash of every field (``unlearn`` and ``variant`` only where they are
        set, so that models built before there were such things keep their names)."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("unlearn", "variant") or value}
        digest = hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:6]
        kind = (self.attack or "clean") + (f"-{self.variant}" if self.variant else "")
        kind += f"-{'un' if self.unlearn else 'ft'}{self.finetune}" if self.finetune else ""
        return f"{self.dataset}-{self.arch}-{kind}-{self.seed}-{digest}"

    @property
    def twin(self) -> Spec:
        """The clean model of the same data, variant, architecture and seed."""
        return replace(self, attack=None, options=(), finetune=0, unlearn=False)

    @property
    def original(self) -> Spec:
        """The model before it was fine-tuned."""
        return replace(self, finetune=0, unlearn=False)

    @property
    def start(self) -> Spec | None:
        """The clean model that this one's training begins from; None where it begins from nothing. Language models share a few."""
        from modelguard_zoo.text import FROM_NOTHING, LANGUAGE_MODELS, STARTS

        if self.arch not in LANGUAGE_MODELS or self.arch in FROM_NOTHING or self.variant == "start":
            return None
        return Spec(self.dataset, self.arch, self.seed % STARTS, variant="start")

    @property
    def reserved(self) -> bool:
        """Whether this model is judged by, and never looked at while choosing, thresholds: a third, by hash of the id, and all from
        :data:`CONFIRMATION` on."""
        return self.seed >= CONFIRMATION or int(hashlib.sha256(f"reserved/{self.id}".encode()).hexdigest(), 16) % 3 == 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        """The inverse of :meth:`to_json`."""
        return cls(**{**value, "options": pairs(value["options"])})


def pairs(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Attack options in the hashable, sorted form :class:`Spec` holds; lists become tuples."""
    return tuple(sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in options.items()))
