"""What a repair method is, what it may use, and the training that several share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from modelguard_repair._weights import Weights

if TYPE_CHECKING:
    from modelguard_evaluate import Inputs

    from modelguard_repair._measure import Named

BATCH = 32
Loss = Callable[[Tensor, Tensor], Tensor]
"""Inputs of a batch, and their places among all (N,) -> the loss."""


@dataclass(frozen=True)
class Material:
    """What a method repairs with: the suspect's ``weights``, which it changes in place, clean ``inputs`` with labels, and the ``triggers``
    that are known or were recovered, each for a class. ``max_drop`` is the share of accuracy that may be lost. ``tick`` is told how far it
    is."""

    weights: Weights
    inputs: Inputs
    triggers: tuple[Named, ...]
    max_drop: float
    seed: int
    tick: Callable[[str], None]

    @property
    def x(self) -> Tensor:
        """(N, ...) canonical and raw, on the model's device."""
        return self.encoded(self.inputs.samples)

    @property
    def y(self) -> Tensor:
        """(N,) classes, on the model's device."""
        return torch.from_numpy(self.inputs.labels).to(self.weights.model.device)

    def encoded(self, samples: Any) -> Tensor:
        """Images or texts as the model takes them."""
        model = self.weights.model
        return torch.from_numpy(model.encode(samples) if isinstance(samples, list) else samples).to(model.device)

    def accuracy(self, x: Tensor) -> float:
        """The share of ``x`` (N, ...), the clean inputs, that the model as it is now gives its class."""
        return float((logits(self.weights, x).argmax(1) == self.y).float().mean())

    def generator(self) -> torch.Generator:
        """A source of random numbers, the same for the same seed."""
        return torch.Generator().manual_seed(self.seed % 2**63)


class Method(ABC):
    """One way to take a backdoor out of a model. ``cost`` orders the methods: passes over the samples, about."""

    name: ClassVar[str]
    cost: ClassVar[int]

    @abstractmethod
    def repair(self, given: Material) -> dict[str, Any]:
        """Change the weights in place; returns JSON-safe facts. Raises :class:`~modelguard.Skip` with the reason it cannot be used."""


@torch.no_grad()
def logits(weights: Weights, x: Tensor) -> Tensor:
    """(N, classes) by the weights as they are: ``predict`` may run a session that was made of the file."""
    return torch.cat([weights.model.forward(part) for part in torch.split(x, 256)])


def train(
    given: Material,
    x: Tensor,
    loss: Loss,
    *,
    epochs: int,
    rate: float,
    decay: float = 0.0,
    after: Callable[[], None] | None = None,
    what: str = "training",
) -> None:
    """AdamW over ``epochs`` of ``x``, the learning rate rising to ``rate`` in a fifth of the steps and falling to zero along a cosine.
    ``after`` is called behind every step. Gradients are clipped at norm 1, so that one odd batch of so few samples undoes nothing."""
    generator = given.generator()
    per_epoch = math.ceil(len(x) / BATCH)
    with given.weights.trainable() as parameters:
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * per_epoch, pct_start=0.2)
        for epoch in range(epochs):
            if epoch % 10 == 0:
                given.tick(f"{what}, epoch {epoch + 1} of {epochs}")
            for places in batches(len(x), generator):
                value = loss(x[places.to(x.device)], places)
                optimiser.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                schedule.step()
                if after is not None:
                    after()


def batches(count: int, generator: torch.Generator, size: int = BATCH) -> Iterator[Tensor]:
    """Places (N,) in random order, ``size`` at a time."""
    yield from torch.split(torch.randperm(count, generator=generator), size)


def labelled_loss(given: Material) -> Loss:
    """Cross-entropy with the labels."""
    y = given.y

    def loss(x: Tensor, places: Tensor) -> Tensor:
        return F.cross_entropy(given.weights.model.forward(x), y[places.to(y.device)])

    return loss
