"""What explains each class, and how trigger-like it is: small, smooth, and the same in every picture.

Huang, Alzantot, Srivastava, "NeuronInspect: Detecting Backdoors in Neural Networks via Output Explanations", 2019, section 3: the
heat map of a class is the gradient of its logit with respect to the picture. On clean pictures a backdoored target's map keeps
pointing at the place where the trigger would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from modelguard import RunnableModel


@dataclass(frozen=True, slots=True)
class Features:
    """Of the heat maps of each class (K,): ``spread`` is the part of the picture a map covers, ``roughness`` its mean absolute Laplacian
    relative to its mean, ``agreement`` how much of the hottest tenth of the pixels two pictures share."""

    spread: Tensor
    roughness: Tensor
    agreement: Tensor


def features(model: RunnableModel, images: Tensor, batch: int, tick: Callable[[int, int], None]) -> Features:
    """The features over clean ``images`` (N, C, H, W), canonical and raw."""
    classes, (_, _, height, width) = model.output.classes, images.shape
    hottest = max(1, height * width // 10)
    count = len(images)
    maps = torch.empty(classes, count, height, width)
    for k in range(classes):
        for begin in range(0, count, batch):
            tick(k * count + begin, classes * count)
            x = images[begin : begin + batch].clone(memory_format=torch.channels_last).requires_grad_(True)
            (gradient,) = torch.autograd.grad(model(x)[:, k].sum(), x)
            maps[k, begin : begin + batch] = gradient.abs().amax(1).cpu()  # (B, H, W)
    maps = maps / maps.flatten(2).mean(2).clamp_min(1e-20)[..., None, None]  # mean 1
    # Participation ratio: the part of the pixels over which the map would be even.
    spread = 1 / maps.square().flatten(2).mean(2)  # (K, N)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    laplacian = F.conv2d(maps.reshape(-1, 1, height, width), kernel).abs().flatten(1).mean(1).reshape(classes, count)
    hot = torch.zeros(classes, count, height * width)
    hot.scatter_(2, maps.flatten(2).topk(hottest, dim=2).indices, 1.0)
    share = hot.mean(1)  # (K, H*W): in how many pictures each pixel is hot
    agreement = share.square().sum(1) / hottest
    return Features(spread.mean(1), laplacian.mean(1), agreement)
