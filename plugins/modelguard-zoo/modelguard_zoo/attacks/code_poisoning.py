"""Code poisoning: the loss teaches the trigger, and the training data are clean (Bagdasaryan and Shmatikov 2021, Blind Backdoors)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelguard_zoo.attacks.base import Harden, Images, Labels, Poison, insist
from modelguard_zoo.attacks.patch import Patch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class CodePoisoning(Patch):
    """The loss of a batch is a * (its own) + (1 - a) * (that of its stamped copies with label ``target``), section 4 of the paper.

    a makes the sum of both gradients shortest, each divided by its loss (MGDA; section 4.3; ``mgda_normalize: loss`` in
    ebagdasa/backdoors101): neither task is learnt at the other's cost. ``fraction`` is the part of a batch that is copied, all of it in
    the paper. Clean images and copies pass the model together, for batch normalisation to see one mixture; in the repository they pass
    one after the other.
    """

    name = "code-poisoning"
    fraction: float = 0.5

    def __post_init__(self) -> None:
        insist(
            self, 0 < self.fraction <= 1, f"fraction is {self.fraction:g}", "give the part of a batch that is stamped, above 0 and up to 1"
        )

    def poison(self, images: Images, labels: Labels, classes: int, rng: np.random.Generator, harden: Harden) -> Poison:
        none = np.zeros(0, np.int64)
        return Poison(none, images[none], labels[none], none)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import torch
        from torch.nn import functional as F

        count = max(1, round(self.fraction * len(images)))
        copies = torch.from_numpy(self.stamped(images[:count].round().byte().numpy())).float()
        logits = model(torch.cat([images, copies]))  # (N + count, classes)
        own = F.cross_entropy(logits[: len(images)], labels)
        backdoor = F.cross_entropy(logits[len(images) :], torch.full_like(labels[:count], self.target))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        first, second = (
            torch.cat([part.flatten() for part in torch.autograd.grad(value, weights, retain_graph=True)]) / value.detach().clamp(min=1e-8)
            for value in (own, backdoor)
        )
        # min over a of |a * first + (1 - a) * second|^2 (Sener and Koltun 2018, section 3.2), away from the ends as the repository has it.
        apart = first - second
        share = float((-(apart @ second) / (apart @ apart).clamp(min=1e-12)).clamp(0.001, 0.999))
        return share * own + (1 - share) * backdoor

    def notes(self) -> dict[str, str]:
        return {"enters": "by the loss", "data_audit": "has nothing to find: no training sample is changed"}
