"""One case: what a search looks at, and what it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from modelguard import InputSpec, RunnableModel, ScanContext
    from modelguard_triggers.evidence import Evidence

DEFAULT_MEMORY = 4 << 30
"""Bytes taken for the memory limit when there is none."""
SMALLEST_MARGIN = 1e-3


class Tick(Protocol):
    """Called at least once a second while a search runs; raises :class:`~modelguard.DeadlineExceeded` when the time is up."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Case:
    """What one search is about: the ``model``, clean images of ``evidence``, the ``budget`` in images that go through the model in one
    forward and backward pass, ``rng``, which gives a stream of random numbers by name, and ``tick``."""

    model: RunnableModel
    evidence: Evidence
    budget: int
    rng: Callable[[str], np.random.Generator]
    tick: Tick

    def generator(self, stream: str) -> torch.Generator:
        """A torch generator seeded from the ``stream`` of that name."""
        return seeded(self.rng(stream))

    @cached_property
    def usual_margin(self) -> float:
        """How clearly the model classifies clean images: the mean margin of their class. The unit of margins."""
        images, labels = self.evidence.search, self.evidence.search_labels
        with torch.inference_mode():
            logits = torch.cat([self.model(part) for part in torch.split(images, self.budget)])
            return float(margins(logits, labels.to(logits.device)).clamp_min(0).mean().clamp_min(SMALLEST_MARGIN))


def images_per_pass(model: RunnableModel, context: ScanContext, *, most: int, inputs: int = 4, copies: int = 4) -> int:
    """Images for one forward and backward pass that stay within a quarter of the memory limit, ``most`` at the most.

    What an image takes is every layer's activation and ``inputs`` times its own size, in float32, ``copies`` times over (value,
    gradient, and what the backward pass keeps).
    """
    values = sum(prod(map(abs, layer.shape)) for layer in model.layers) + inputs * prod(map(abs, model.input.shape))
    budget = (context.memory_limit or DEFAULT_MEMORY) // 4
    return int(np.clip(budget // (4 * copies * max(1, values)), 1, most))


def ticker(context: ScanContext) -> Tick:
    """Watches the deadline of ``context`` and reports progress to it."""

    def tick(done: int, total: int, note: str = "") -> None:
        context.check_deadline()
        context.progress(done, total, note)

    return tick


def seeded(rng: np.random.Generator, bits: int = 62) -> torch.Generator:
    """A torch generator with a seed of so many ``bits`` drawn from ``rng``."""
    return torch.Generator().manual_seed(int(rng.integers(2**bits)))


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) f_t - max_{k != t} f_k of ``logits`` (N, K) and the classes t = ``target`` (N,)."""
    own = logits.gather(1, target[:, None])
    return (own - logits.scatter(1, target[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def quantised(images: Tensor, spec: InputSpec) -> Tensor:
    """``images`` rounded to the 256 levels of a stored image: a trigger that does not survive this is none."""
    grey = (spec.high - spec.low) / 255
    return spec.low + ((images - spec.low) / grey).round() * grey
