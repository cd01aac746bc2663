"""One network that makes a trigger for every image and every wanted class, within less and less room.

The network is Marksman's conditional generator (Doan, Lao and Li, NeurIPS 2022, section 3), here trained against the frozen model under
test: what an attacker trained together with the model, a search has to find again. One network serves all classes; BTI-DBF and UNICORN too
invert by a network because no fixed pattern is the trigger of an input-aware model (Xu et al., ICLR 2024; Wang et al., ICLR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from modelguard_triggers.case import Case, margins
from torch import Tensor, nn
from torch.nn import functional as F

Floats = npt.NDArray[np.float64]

LADDER = (0.5, 0.35, 0.25, 0.18, 0.125)
"""How much an image may change: root mean square, as a part of the distance to the nearest real image of another class. The first step
is where clean models begin to give way to every class, the last where hardly any class of one does (benchmarks/generator.py)."""
FIRST, THEN = 8, 3
"""Training steps for each class on the first step of the ladder, and on each that follows, where the network goes on as it is."""
LEAST_STEPS = 40
BATCH = 64
RATE = 3e-3
WIDTH = 16
TINY = 1e-12
"""Keeps the slope of a root finite where nothing is changed."""
MOST_SIDE = 32
"""Larger images are made this small for the network, and what it makes as large as they are."""
PENALTY = 1e-3
"""Weight of the squared outputs before the tanh, so that it does not saturate."""


class Generator(nn.Module):
    """Images (N, C, H, W) in -1..1 and wanted classes (N,) -> changes (N, C, H, W) in -1..1."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(_stage(channels, WIDTH, 2), _stage(WIDTH, 2 * WIDTH, 2))
        self.wanted = nn.Embedding(classes, 2 * WIDTH)
        self.middle, self.up = _stage(2 * WIDTH, 2 * WIDTH, 1), _stage(2 * WIDTH, WIDTH, 1)
        self.last = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, x: Tensor, wanted: Tensor) -> Tensor:
        height, width = size = x.shape[2:]
        if max(size) > MOST_SIDE:
            x = F.adaptive_avg_pool2d(x, (min(height, MOST_SIDE), min(width, MOST_SIDE)))
        half = self.down[0](x)  # (N, WIDTH, H / 2, W / 2), rounded up
        hidden = self.middle(self.down[1](half) + self.wanted(wanted)[:, :, None, None])  # (N, 2 * WIDTH, H / 4, W / 4)
        hidden = self.up(F.interpolate(hidden, size=half.shape[2:]))
        made: Tensor = self.last(F.interpolate(hidden, size=x.shape[2:]))
        return made if made.shape[2:] == size else F.interpolate(made, size=size, mode="bilinear")


def _stage(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.GroupNorm(4, outer), nn.ReLU())


@dataclass(frozen=True)
class Climbed:
    """What the generator achieved on images it was not trained on.

    ``success`` (R, K, K): at each step of :data:`LADDER`, the share of images of a class (rows) that it turns into a class (columns). NaN
    where there are no images, on the diagonal, and for classes that were not looked at. ``guided`` says whether the model ever gave a
    gradient. ``unit`` is the distance to the nearest image of another class, root mean square, in raw pixel values. ``network`` is what it
    ended as.
    """

    success: Floats
    guided: bool
    unit: float
    network: Generator


def steps(classes: int) -> tuple[int, int]:
    """Training steps on the first step of the ladder and on each that follows."""
    return max(LEAST_STEPS, FIRST * classes), max(LEAST_STEPS // 2, THEN * classes)


def passes(classes: int, checked: int) -> float:
    """Images that go through the model in :func:`climb`, forward and backward; forward alone counts a third."""
    first, then = steps(classes)
    return (first + then * (len(LADDER) - 1)) * BATCH + len(LADDER) * classes * checked / 3


def natural_distance(images: Tensor, labels: Tensor) -> float:
    """The median, over ``images`` (N, C, H, W), of the root mean square difference to the nearest image of another class."""
    flat = images.flatten(1)
    distance = torch.cdist(flat, flat) / flat.shape[1] ** 0.5  # (N, N)
    labels = labels.to(images.device)
    distance.masked_fill_(labels[:, None] == labels[None], torch.inf)
    nearest = distance.amin(1)
    return float(nearest[nearest.isfinite()].median())


def climb(case: Case, classes: npt.NDArray[np.int64], stream: str) -> Climbed:
    """Train a generator for the wanted ``classes`` (n,), and measure it at every step of the ladder. ``stream`` names its randomness."""
    evidence, spec = case.evidence, case.model.input
    generator = case.generator(stream)
    unit = natural_distance(evidence.search, evidence.search_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed() % 2**62)
        network = Generator(evidence.shape[0], evidence.classes).to(case.model.device)
    learner = torch.optim.Adam(network.parameters(), lr=RATE)
    chosen = torch.from_numpy(classes)
    first, then = steps(len(classes))
    total, done, guided = first + then * (len(LADDER) - 1), 0, False
    table = np.full((len(LADDER), evidence.classes, evidence.classes), np.nan)
    batch = min(BATCH, case.batch)
    for rung, part in enumerate(LADDER):
        for _ in range(first if rung == 0 else then):
            case.tick(done, total, "generator")
            at = torch.randint(len(evidence.search), (batch,), generator=generator)
            wanted = chosen[torch.randint(len(chosen), (batch,), generator=generator)]
            other = wanted != evidence.search_labels[at]
            x, c = evidence.search[at[other]], wanted[other].to(case.model.device)
            if len(x):
                stamped, raw = changed(network, x, c, part * unit, spec.low, spec.high)
                # The margin, cut off at the usual one: an image that is turned already asks for no more.
                loss = (
                    F.relu(case.usual_margin - margins(case.model(stamped), c)).mean() / case.usual_margin + PENALTY * raw.square().mean()
                )
                stamped.retain_grad()
                learner.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                guided = guided or (stamped.grad is not None and bool((stamped.grad != 0).any()))
                learner.step()
            done += 1
        table[rung] = _measure(case, network, classes, part * unit)
    return Climbed(table, guided, unit, network)


def changed(network: Generator, x: Tensor, wanted: Tensor, budget: float, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Images ``x`` (N, C, H, W) changed towards ``wanted`` (N,) by a root mean square of ``budget`` at the most, and what the network
    returned, both (N, C, H, W)."""
    raw = network((x - low) / (high - low) * 2 - 1, wanted)
    change = raw.tanh() * (high - low)
    size = (change.square().mean((1, 2, 3), keepdim=True) + TINY).sqrt()
    return (x + change * (budget / size.clamp(min=budget))).clamp(low, high), raw


@torch.no_grad()
def _measure(case: Case, network: Generator, classes: npt.NDArray[np.int64], budget: float) -> Floats:
    """(K, K) the share of check images of each class that are turned into each of ``classes``; NaN elsewhere."""
    evidence, spec = case.evidence, case.model.input
    table = np.full((evidence.classes, evidence.classes), np.nan)
    labels = evidence.check_labels.numpy()
    for wanted in classes.tolist():
        case.tick(0, 1, "checking")
        said = []
        for x in torch.split(evidence.check, case.batch):
            stamped, _ = changed(network, x, torch.full((len(x),), wanted, device=x.device), budget, spec.low, spec.high)
            said.append(case.model(stamped).argmax(1).cpu())
        hit = (torch.cat(said) == wanted).numpy()
        for label in np.unique(labels):
            if label != wanted:
                table[label, wanted] = hit[labels == label].mean()
    return table
