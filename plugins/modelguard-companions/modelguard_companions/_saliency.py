"""What explains each class, and how trigger-like it is: small, smooth, and the same in every image.

Huang, Alzantot, Srivastava, "NeuronInspect: Detecting Backdoors in Neural Networks via Output Explanations", 2019, section 3: the
heat map of a class is the gradient of its logit with respect to the image. On clean images a backdoored target's map keeps
pointing at the place where the trigger would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from modelguard_triggers.case import Tick
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from modelguard import RunnableModel


@dataclass(frozen=True, slots=True)
class Features:
    """Of the heat maps of each class (K,): ``spread`` is the part of the image a map covers, ``roughness`` its mean absolute Laplacian
    relative to its mean, ``agreement`` how much of the hottest tenth of the pixels two images share."""

    spread: Tensor
    roughness: Tensor
    agreement: Tensor


def features(model: RunnableModel, classes: Sequence[int], images: Tensor, batch: int, tick: Tick) -> Features:
    """The features of ``classes`` (K) over clean ``images`` (N, C, H, W), canonical and raw."""
    count, _, height, width = images.shape
    rows: list[Tensor] = []
    for done, k in enumerate(classes):
        maps = torch.empty(count, height, width)  # of one class at a time: those of a thousand are gigabytes
        for begin in range(0, count, batch):
            tick(done * count + begin, len(classes) * count)
            x = images[begin : begin + batch].clone(memory_format=torch.channels_last).requires_grad_(True)
            (gradient,) = torch.autograd.grad(model(x)[:, k].sum(), x)
            maps[begin : begin + batch] = gradient.abs().amax(1).cpu()  # (B, H, W)
        rows.append(_of_class(maps))
    spread, roughness, agreement = torch.stack(rows, 1)  # (K,) each
    return Features(spread, roughness, agreement)


def _of_class(maps: Tensor) -> Tensor:
    """(3,): spread, roughness and agreement of one class's heat maps (N, H, W)."""
    count, height, width = maps.shape
    maps = maps / maps.flatten(1).mean(1).clamp_min(1e-20)[:, None, None]  # mean 1
    # Participation ratio: the part of the pixels over which the map would be even.
    spread = 1 / maps.square().flatten(1).mean(1)  # (N,)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    laplacian = F.conv2d(maps[:, None], kernel).abs().flatten(1).mean(1)  # (N,)
    hottest = max(1, height * width // 10)
    hot = torch.zeros(count, height * width)
    hot.scatter_(1, maps.flatten(1).topk(hottest, dim=1).indices, 1.0)
    share = hot.mean(0)  # (H*W,): in how many images each pixel is hot
    return torch.stack([spread.mean(), laplacian.mean(), share.square().sum() / hottest])
