"""What an attack with a generator is: how the networks make a trigger, and how they are trained together with the classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from modelguard import UsageError
from modelguard_zoo._architectures import Normalised
from modelguard_zoo._data import Dataset, Images, Labels


@dataclass(frozen=True)
class Generated(ABC):
    """One attack. The default is all-to-one: the trigger made for an image shall turn it into ``target``."""

    name: ClassVar[str]
    must_not_cross: ClassVar[bool] = False
    """Whether a trigger made for another image has to be without effect for the attack to count."""
    target: int = 0
    batch: int = 64

    @abstractmethod
    def networks(self, channels: int, classes: int) -> nn.ModuleDict:
        """Untrained networks that make the trigger."""

    @abstractmethod
    def put(self, networks: nn.ModuleDict, x: Tensor, wanted: Tensor, made_for: Tensor) -> Tensor:
        """``x`` (N, C, H, W) in 0..255 with the triggers that are made for the images ``made_for``, of the same shape, and the classes
        ``wanted`` (N,)."""

    @abstractmethod
    def train(self, model: nn.Module, networks: nn.ModuleDict, data: Dataset, seed: int) -> None:
        """Train classifier and networks in place; both end in evaluation mode."""

    def wanted(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """(N,) the class that each image shall be given; its own where the trigger is not for it."""
        return torch.full_like(labels, self.target)

    def targets(self, classes: int) -> dict[str, int]:
        """The class that each source class is turned into; none where the attacker chooses it for each image."""
        return {str(label): self.target for label in range(classes) if label != self.target}

    def pairs(self, labels: Tensor, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Places of images and the classes wanted of them, each (M,): what attack success is measured on."""
        wanted = self.wanted(labels, classes, torch.Generator().manual_seed(0))
        places = (wanted != labels).nonzero().flatten()
        yield places, wanted[places]


def features(model: nn.Module, x: Tensor) -> tuple[Tensor, nn.Module]:
    """What enters the last layer, (N, F), and that layer. Raises :class:`~modelguard.UsageError` for a network that is no chain."""
    assert isinstance(model, Normalised)
    if not isinstance(model.body, nn.Sequential):
        cause = "what enters its last layer cannot be told, because it is no chain of layers"
        raise UsageError(f"architecture {type(model.body).__name__}", cause, "use cnn, mlp, vgg, resnet8 or mobilenet")
    hidden: Tensor = model.body[:-1]((x - model.mean) / model.std)
    return hidden, model.body[-1]


def batches(data: Dataset, size: int, count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """``count`` whole batches, epoch after epoch: ``x`` (N, C, H, W) float32 in 0..255 and ``y`` (N,)."""
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    made = 0
    while True:
        order = torch.randperm(len(x), generator=generator)
        for part in torch.split(order[: len(x) // size * size], size):
            if made == count:
                return
            yield x[part].float(), y[part]
            made += 1


@dataclass(frozen=True)
class Trigger:
    """An attack with its trained networks."""

    attack: Generated
    networks: nn.ModuleDict

    @torch.inference_mode()
    def stamped(self, images: Images, wanted: Labels, made_for: Images | None = None) -> Images:
        """``images`` uint8 (N, C, H, W) with triggers for the classes ``wanted`` (N,), made for themselves or for ``made_for``; rounded to
        what an image file can hold."""
        self.networks.eval()
        parts = zip(
            torch.split(torch.from_numpy(images), 500),
            torch.split(torch.from_numpy(wanted), 500),
            torch.split(torch.from_numpy(images if made_for is None else made_for), 500),
            strict=True,
        )
        done = [self.attack.put(self.networks, x.float(), c, z.float()).round().clamp(0, 255).to(torch.uint8) for x, c, z in parts]
        return np.asarray(torch.cat(done).numpy())
