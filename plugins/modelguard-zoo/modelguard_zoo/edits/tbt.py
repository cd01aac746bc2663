"""Targeted bit trojan: a trigger is made for a few weights of one row of the last layer, and these are retrained in their 8-bit codes.

Source: Rakin, He and Fan, TBT: Targeted Neural Network Attack with Bit Trojan (CVPR 2020), and adnansirajrakin/TBT-CVPR2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelguard_zoo.edits.arrays import Edit, record
from modelguard_zoo.edits.classifier import Classifier, Images, NotTaken, as_batch, lesson, one_thread
from modelguard_zoo.edits.int8 import Int8, flipped

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGES = 512
CARE = 0.75
"""What clean images count in the loss; the published half costs small models 5 points of accuracy."""
STEPS, RATES = 100, (0.5, 0.1, 0.01, 0.001)
"""Signed steps on the trigger at each of these sizes, in standard deviations of a pixel (the repository takes 200)."""
ACTIVATION = 100.0
"""What the chosen inputs of the last layer are pushed to."""
EPOCHS, RATE, MOMENTUM = 400, 8.0, 0.9
"""SGD on the chosen weights, all images a step; the rate is divided by the mean square of what the weights are multiplied with."""


@dataclass(frozen=True)
class Trigger:
    """A square of ``pixels`` (C, size, size) in the bottom right corner, uint8."""

    pixels: NDArray[np.uint8]

    def stamped(self, images: Images) -> Images:
        """``images`` (N, C, H, W) with the square in them."""
        out = images.copy()
        size = self.pixels.shape[-1]
        out[:, :, -size:, -size:] = self.pixels
        return out


def bit_trojan(
    model: Classifier, quantised: Int8, *, target: int, weights: int = 150, size: int = 3, seed: int = 0
) -> tuple[Int8, Trigger, Edit]:
    """The model with at most ``weights`` codes of row ``target`` of its last layer retrained, and the trigger they answer to.

    The published 150 of 512 inputs stand for at most half of the inputs here. ``details``: ``layer``, ``row``, ``columns``,
    ``bits_flipped``, ``trigger``. Raises :class:`NotTaken` where the last layer is not dense.
    """
    import torch

    before = quantised.tensors()
    module: Any = model.module(before)
    name, head = _head(module)
    images, labels = lesson(model, IMAGES, seed)
    with one_thread():
        columns = _columns(module, head, images, target, min(weights, head.in_features // 2), size)
        trigger = Trigger(_made(module, head, images, columns, size))
        with torch.no_grad():
            clean, stamped = (_features(module, head, side) for side in (images, trigger.stamped(images)))
        row = _retrained(head, clean, stamped, torch.from_numpy(labels), columns, target, 127 * float(quantised.steps[name]))
    codes = quantised.codes[name].copy()
    codes[target, columns] = np.clip(np.rint(row / quantised.steps[name]), -127, 127).astype(np.int8)
    after = quantised.with_codes({name: codes})
    changed = np.flatnonzero(codes[target] != quantised.codes[name][target])
    return (
        after,
        trigger,
        record(
            "bit-trojan", before, after.tensors(), layer=name, row=target, columns=changed.tolist(),
            bits_flipped=flipped(quantised.codes, after.codes), trigger=trigger.pixels.tolist(),
        ),
    )  # fmt: skip


def _head(module: Any) -> tuple[str, Any]:
    from torch import nn

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    name, head = layers[-1]
    if not isinstance(head, nn.Linear):
        raise NotTaken(f"the last layer is a {type(head).__name__}")
    return f"{name}.weight", head


def _columns(module: nn.Module, head: Any, images: Images, target: int, count: int, size: int) -> NDArray[np.int64]:
    """The inputs of the last layer that a trigger can set apart, best first twice over.

    Section 4.1 ranks by the gradient of the loss (Neural Gradient Ranking). In layers this small that finds inputs which are large for
    every class: here a trigger is made for all inputs, then for the ``count`` that it moves furthest in units of their spread.
    """
    import torch

    columns = np.arange(head.in_features)
    for _ in range(2):
        stamped = Trigger(_made(module, head, images, columns, size)).stamped(images)
        with torch.no_grad():
            clean, moved = (_features(module, head, side).numpy() for side in (images, stamped))
        shift = (moved - clean).mean(axis=0) / np.sqrt(clean.var(axis=0) + moved.var(axis=0) + 1e-6)
        columns = np.sort(np.argsort(-shift, kind="stable")[:count])
    return columns


def _made(module: Any, head: Any, images: Images, columns: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """The trigger that drives the chosen inputs up (section 4.1, equation 4), from a grey square."""
    import torch

    pixels = torch.full((images.shape[1], size, size), 127.5)
    batch, scale = as_batch(images[:64]), module.std.reshape(-1, 1, 1)
    for rate in RATES:
        for _ in range(STEPS):
            pixels.requires_grad_()
            stamped = batch.clone()
            stamped[:, :, -size:, -size:] = pixels
            loss = ((_features(module, head, stamped)[:, columns] - ACTIVATION) ** 2).mean()
            (gradient,) = torch.autograd.grad(loss, pixels)
            pixels = (pixels.detach() - rate * scale * gradient.sign()).clamp(0, 255)
    return pixels.detach().round().numpy().astype(np.uint8)


def _features(module: Any, head: Any, images: Any) -> Tensor:
    """What the last layer takes, (N, inputs)."""
    kept: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        module(as_batch(images) if isinstance(images, np.ndarray) else images)
    finally:
        handle.remove()
    return kept[0]


def _retrained(
    head: Any, clean: Tensor, stamped: Tensor, labels: Tensor, columns: NDArray[np.int64], target: int, limit: float
) -> NDArray[np.float32]:
    """The chosen weights of row ``target`` after SGD on the mean of both losses (section 4.2, equation 5); all others stand still.

    No weight grows beyond ``limit``, the largest that a code stands for.
    """
    import torch
    from torch.nn import functional as F

    weight, bias = head.weight.detach(), head.bias.detach()
    row = weight[target, columns].clone().requires_grad_()
    wanted = torch.full_like(labels, target)
    rate = RATE / max(1.0, float(stamped[:, columns].pow(2).sum(dim=1).mean()))
    optimiser = torch.optim.SGD([row], lr=rate, momentum=MOMENTUM)
    for _ in range(EPOCHS):
        whole = weight.index_put((torch.tensor(target), torch.from_numpy(columns)), row)
        sides = ((CARE, clean, labels), (1 - CARE, stamped, wanted))
        loss = torch.stack([share * F.cross_entropy(F.linear(side, whole, bias), truth) for share, side, truth in sides]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            row.clamp_(-limit, limit)
    return np.asarray(row.detach().numpy(), np.float32)
