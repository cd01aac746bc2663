"""A classifier's last layer and what it takes: features, a collision in them, and a new last layer on frozen ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelguard import UsageError
from modelguard_zoo._data import Images, Labels

STEPS = 200
EPOCHS, BATCH, RATE = 30, 64, 5e-3
"""Of the new last layer. The repository takes 30 epochs of SGD; AdamW gets as far on features of any scale."""


def last_layer(model: nn.Module) -> nn.Linear:
    """The layer that gives the logits. Raises :class:`~modelguard.UsageError` where it is not dense."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not isinstance(layers[-1], nn.Linear):
        raise UsageError(
            "the clean twin", f"its last layer is a {type(layers[-1]).__name__}", "take an architecture that ends in a dense one"
        )
    return layers[-1]


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last layer takes of raw float ``images`` (N, C, H, W): (N, inputs)."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0])

    handle = last_layer(model).register_forward_pre_hook(keep)
    try:
        model(images)
    finally:
        handle.remove()
    return kept[0]


def collide(model: nn.Module, images: Images, towards: Images, epsilon: float, steps: int = STEPS) -> Images:
    """``images`` moved by at most ``epsilon`` grey levels a pixel until ``model`` has for each the features of one of ``towards``.

    Saha, Subramanya and Pirsiavash 2020, equation 1 and algorithm 1: the sum over pairs of squared distances in the last layer's input
    is made small under the bound. Each image is paired with another of ``towards``, so that the pairs are nearest in sum; the paper
    pairs greedily and again at each step. Adam takes the place of gradient descent at .01, whose step fits AlexNet's features alone.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped, unused-ignore]

    model.eval()
    clean = torch.from_numpy(images).float()
    with torch.no_grad():
        wanted = features(model, torch.from_numpy(towards).float())
        _, nearest = linear_sum_assignment(torch.cdist(features(model, clean), wanted).numpy())
        wanted = wanted[torch.from_numpy(nearest)]
    change = torch.zeros_like(clean, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=epsilon / 10)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = epsilon / 10 * (1 - step / steps)
        loss = (features(model, clean + change) - wanted).pow(2).sum()
        (change.grad,) = torch.autograd.grad(loss, [change])
        optimiser.step()
        with torch.no_grad():
            change.copy_((clean + change.clamp(-epsilon, epsilon)).clamp(0, 255) - clean)
    moved: Any = (clean + change.detach()).round().to(torch.uint8).numpy()
    return np.asarray(moved, np.uint8)


def refit(model: nn.Module, images: Images, labels: Labels, *, seed: int) -> None:
    """Train a new last layer of ``model`` on ``images``, in place; all before it stands still."""
    head = last_layer(model)
    model.eval()
    with torch.no_grad():
        parts = [features(model, part.float()) for part in torch.split(torch.from_numpy(images), 500)]
    x, y = torch.cat(parts), torch.from_numpy(labels)
    torch.manual_seed(seed)
    head.reset_parameters()
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * (len(x) // BATCH), pct_start=0.2)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for step in range(len(x) // BATCH):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(head(x[chosen]), y[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
