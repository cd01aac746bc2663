"""Input-aware dynamic backdoor: pattern and mask are made for each image, and work on no other (Nguyen and Tran, NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelguard_zoo._data import Dataset
from modelguard_zoo.generated.base import Generated, batches, features
from modelguard_zoo.generated.networks import Generator

SMALL = 1e-7


@dataclass(frozen=True)
class InputAware(Generated):
    """x' = x + (p(x) - x) m(x), with m = tanh(20 M(x) - 10) / 2 + 1/2 of a mask network and p in the whole pixel range (section 3.2).

    First the mask network is trained alone for ``mask_steps`` batches: 100 times what its values exceed ``density`` by, plus the
    diversity term mean d(x1, x2) / d(m1, m2). Then classifier and pattern network together for ``steps`` more: a part ``attacked`` of
    every batch carries its own trigger and shall become ``target``, a part ``crossed`` that of another image and keeps its label, the rest
    is clean; the loss is CE plus ``diversity`` times mean d(x1, x2) / d(p1, p2), d the root mean square difference.

    Where this departs from the paper, because the sets are small: the classifier begins as the clean twin and has momentum .9, a few
    hundred batches stand for hundreds of epochs, and a quarter of a batch in place of a tenth is attacked, and crossed.
    """

    name = "input-aware"
    must_not_cross = True
    density: float = 0.032
    diversity: float = 1.0
    attacked: float = 0.25
    crossed: float = 0.25
    mask_steps: int = 100
    steps: int = 400
    rate: float = 1e-2
    generator_rate: float = 5e-3

    def networks(self, channels: int, classes: int) -> nn.ModuleDict:
        return nn.ModuleDict({"pattern": Generator(channels, channels), "mask": Generator(channels, 1)})

    def put(self, networks: nn.ModuleDict, x: Tensor, wanted: Tensor, made_for: Tensor) -> Tensor:
        pattern: Tensor = 127.5 * (networks["pattern"](made_for) + 1)
        return x + (pattern - x) * _mask(networks, made_for)

    def train(self, model: nn.Module, networks: nn.ModuleDict, data: Dataset, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        networks.train()
        learner = torch.optim.Adam(networks["mask"].parameters(), lr=self.generator_rate)
        for x, _ in batches(data, self.batch, self.mask_steps, generator):
            mask = _mask(networks, x)
            loss = 100 * F.relu(mask - self.density).mean() + _diversity(x, mask)
            learner.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            learner.step()
        networks["mask"].eval().requires_grad_(False)
        learner = torch.optim.Adam(networks["pattern"].parameters(), lr=self.generator_rate, betas=(0.5, 0.9))
        optimiser = torch.optim.SGD(model.parameters(), lr=self.rate, momentum=0.9, weight_decay=5e-4)
        schedules = [
            torch.optim.lr_scheduler.OneCycleLR(each, each.param_groups[0]["lr"], total_steps=self.steps) for each in (optimiser, learner)
        ]
        model.train()
        first, second = round(self.attacked * self.batch), round((self.attacked + self.crossed) * self.batch)
        for x, y in batches(data, self.batch, self.steps, generator):
            wanted = self.wanted(y, data.classes, generator)
            other = x.roll(1, 0)
            attacked = self.put(networks, x[:first], wanted[:first], x[:first])
            crossed = self.put(networks, x[first:second], y[first:second], other[first:second])
            hidden, head = features(model, torch.cat([attacked, crossed, x[second:]]))
            loss = F.cross_entropy(head(hidden), torch.cat([wanted[:first], y[first:]]))
            loss = loss + self.diversity * _diversity(x[:first], networks["pattern"](x[:first]))
            optimiser.zero_grad()
            learner.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            learner.step()
            for schedule in schedules:
                schedule.step()
        model.eval()
        networks.eval()


def _mask(networks: nn.ModuleDict, x: Tensor) -> Tensor:
    """(N, 1, H, W) in 0..1."""
    mask: Tensor = torch.tanh(20 * networks["mask"](x) - 10) / 2 + 0.5
    return mask


def _diversity(x: Tensor, made: Tensor) -> Tensor:
    """Mean of d(x1, x2) / d(made1, made2) over neighbours in the batch, x (N, C, H, W) in 0..255 and made (N, C', H, W)."""
    between = ((x - x.roll(1, 0)) / 127.5).square().mean((1, 2, 3)).sqrt()
    # The small number is inside the root as well: its slope at zero is infinite.
    return (between / ((made - made.roll(1, 0)).square().mean((1, 2, 3)) + SMALL).sqrt()).mean()
