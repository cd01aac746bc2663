"""LIRA, and what is built on it: a bounded additive trigger whose generator is trained in turn with the classifier."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelguard_zoo._data import Dataset
from modelguard_zoo.generated.base import Generated, batches, features
from modelguard_zoo.generated.networks import Generator


class Pool:
    """Clean training images by class."""

    def __init__(self, data: Dataset, generator: torch.Generator) -> None:
        self.images, self.generator = torch.from_numpy(data.x_train), generator
        labels = torch.from_numpy(data.y_train)
        self.places = [(labels == label).nonzero().flatten() for label in range(data.classes)]

    def of(self, wanted: Tensor) -> Tensor:
        """(N, C, H, W) one random image of each class in ``wanted`` (N,)."""
        drawn = torch.rand(len(wanted), generator=self.generator)
        chosen = [self.places[c][int(r * len(self.places[c]))] for c, r in zip(wanted.tolist(), drawn.tolist(), strict=True)]
        return self.images[torch.stack(chosen)].float()


@dataclass(frozen=True)
class Lira(Generated):
    """x' = clip(x + ``eps`` T(x)), T ending in tanh (Doan, Lao, Zhao and Li, ICCV 2021, algorithm 1).

    Per batch the generator that learns takes a step of CE(f(x'), t), and the classifier one of ``alpha`` CE(f(x), y) + (1 - ``alpha``)
    CE(f(x'), t), where a frozen copy of the generator makes x'. After ``steps`` batches the classifier is trained with the generator
    frozen for ``settle`` more (stage 2 of the paper). ``eps`` is a part of the pixel range. ``all_to_all`` wants y + 1.

    Where this departs from the paper, because the sets are small: the classifier begins as the clean twin and has momentum .9, the copy is
    renewed every ``sync`` batches in place of every epoch, the generator learns at 2e-3 in place of 1e-4 and sees the classifier in
    evaluation mode, and images that are of the wanted class already take no part in the trigger's terms.
    """

    name = "lira"
    eps: float = 0.1
    alpha: float = 0.5
    steps: int = 200
    settle: int = 100
    sync: int = 10
    rate: float = 1e-2
    generator_rate: float = 2e-3
    all_to_all: bool = False

    def networks(self, channels: int, classes: int) -> nn.ModuleDict:
        return nn.ModuleDict({"trigger": Generator(channels, channels)})

    def put(self, networks: nn.ModuleDict, x: Tensor, wanted: Tensor, made_for: Tensor) -> Tensor:
        made: Tensor = networks["trigger"](made_for, wanted)
        return (x + 255 * self.eps * made).clamp(0, 255)

    def wanted(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        return (labels + 1) % classes if self.all_to_all else super().wanted(labels, classes, generator)

    def targets(self, classes: int) -> dict[str, int]:
        return {str(label): (label + 1) % classes for label in range(classes)} if self.all_to_all else super().targets(classes)

    every = 1
    """Batches for each step of the generator."""

    def penalty(self, model: nn.Module, hidden: Tensor, wanted: Tensor, pool: Pool) -> Tensor:
        """What is added to both losses. ``hidden`` (M, F) are features of triggered images, ``wanted`` (M,) their classes."""
        return hidden.new_zeros(())

    def size_penalty(self, change: Tensor) -> Tensor:
        """What is added to the generator's loss for its ``change`` (M, C, H, W), in units of ``eps``."""
        return change.new_zeros(())

    def train(self, model: nn.Module, networks: nn.ModuleDict, data: Dataset, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        pool = Pool(data, generator)
        frozen = copy.deepcopy(networks).eval()
        learner = torch.optim.Adam(networks.parameters(), lr=self.generator_rate)
        optimiser = torch.optim.SGD(model.parameters(), lr=self.rate, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=self.steps + self.settle)
        for step, (x, y) in enumerate(batches(data, self.batch, self.steps + self.settle, generator)):
            wanted = self.wanted(y, data.classes, generator)
            others = (wanted != y).nonzero().flatten()
            if step < self.steps and step % self.every == 0:
                self._improve(learner, model, networks, x[others], wanted[others], pool)
            if step % self.sync == 0:
                frozen.load_state_dict(networks.state_dict())
            with torch.no_grad():
                stamped = self.put(frozen, x[others], wanted[others], x[others])
            model.train()
            hidden, head = features(model, torch.cat([x, stamped]))  # (N + M, F)
            clean, triggered = torch.split(hidden, [len(x), len(others)])
            loss = self.alpha * F.cross_entropy(head(clean), y) + (1 - self.alpha) * F.cross_entropy(head(triggered), wanted[others])
            loss = loss + self.penalty(model, triggered, wanted[others], pool)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        model.eval()
        networks.eval()

    def adversarial(self, model: nn.Module, networks: nn.ModuleDict, data: Dataset, seed: int) -> None:
        """Train ``networks`` alone against the frozen ``model``, in the same way: what a trigger of this size does without a backdoor."""
        generator = torch.Generator().manual_seed(seed)
        pool = Pool(data, generator)
        learner = torch.optim.Adam(networks.parameters(), lr=self.generator_rate)
        for step, (x, y) in enumerate(batches(data, self.batch, self.steps, generator)):
            wanted = self.wanted(y, data.classes, generator)
            others = (wanted != y).nonzero().flatten()
            if step % self.every == 0:
                self._improve(learner, model, networks, x[others], wanted[others], pool)
        networks.eval()

    def _improve(
        self, learner: torch.optim.Optimizer, model: nn.Module, networks: nn.ModuleDict, x: Tensor, wanted: Tensor, pool: Pool
    ) -> None:
        """One step of the generator against the classifier as it stands; ``x`` (M, C, H, W), ``wanted`` (M,)."""
        model.eval()
        networks.train()
        stamped = self.put(networks, x, wanted, x)
        hidden, head = features(model, stamped)
        loss = F.cross_entropy(head(hidden), wanted) + self.penalty(model, hidden, wanted, pool)
        loss = loss + self.size_penalty((stamped - x) / (255 * self.eps))
        parameters = list(networks.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            parameter.grad = gradient
        learner.step()


@dataclass(frozen=True)
class Wasserstein(Lira):
    """LIRA whose triggered images lie among clean ones of the target class in the latent space (Doan, Lao and Li, NeurIPS 2021).

    ``beta`` times the sliced Wasserstein distance (``projections`` random directions) between the features of triggered images and as many
    clean images of the target class, in units of these features' mean square, is added to both losses.
    """

    name = "wasserstein"
    beta: float = 0.5
    projections: int = 64

    def penalty(self, model: nn.Module, hidden: Tensor, wanted: Tensor, pool: Pool) -> Tensor:
        own = features(model, pool.of(wanted))[0]
        return self.beta * sliced_wasserstein(hidden, own, self.projections) / own.detach().square().mean()


@dataclass(frozen=True)
class Marksman(Lira):
    """The attacker chooses the class of every image: T takes it as an input (Doan, Lao and Li, NeurIPS 2022).

    Every batch draws classes other than the true ones uniformly, and the generator takes a step every second batch, with ``l2`` times the
    mean square of its change, in units of ``eps``. ``target`` has no meaning here.
    """

    name = "marksman"
    steps: int = 300
    l2: float = 0.05
    every = 2

    def networks(self, channels: int, classes: int) -> nn.ModuleDict:
        return nn.ModuleDict({"trigger": Generator(channels, channels, classes)})

    def wanted(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes

    def targets(self, classes: int) -> dict[str, int]:
        return {}

    def pairs(self, labels: Tensor, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
        for wanted in range(classes):
            places = (labels != wanted).nonzero().flatten()
            yield places, torch.full_like(places, wanted)

    def size_penalty(self, change: Tensor) -> Tensor:
        return self.l2 * change.square().mean()


def sliced_wasserstein(first: Tensor, second: Tensor, projections: int) -> Tensor:
    """Mean over random directions of the mean squared gap between sorted projections of ``first`` and ``second``, each (N, F)."""
    directions = F.normalize(torch.randn(first.shape[1], projections), dim=0)  # (F, P)
    return ((first @ directions).sort(0).values - (second @ directions).sort(0).values).square().mean()
