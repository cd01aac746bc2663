"""Targeted bit trojan: a trigger and the 8-bit codes of one row of the last layer, made for each other in turn.

Source: Rakin, He and Fan, TBT: Targeted Neural Network Attack with Bit Trojan (CVPR 2020), and adnansirajrakin/TBT-CVPR2020.
"""

from __future__ import annotations

from collections.abc import Iterator
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
SHARE = 0.8
"""Of the inputs of the last layer, what may be used: the published 150 are of 512, small models have 64."""
CARE = 0.8
"""What clean images count in the loss; the published half costs small models 5 points of accuracy."""
ROUNDS, MAX_LOSS = 4, 0.012
"""Rounds from each first trigger, and the accuracy on their own lesson images that a round may cost. These and what stands above were
chosen on models of seeds 0 to 7; benchmarks/tampering.py judges others."""
STEPS, RATES = 100, (0.5, 0.1, 0.01, 0.001)
"""Signed steps on the trigger at each of these sizes, in standard deviations of a pixel (the repository takes 200)."""
ACTIVATION = 100.0
"""What the chosen inputs of the last layer are pushed to."""
DRIVEN, DRIVES, DRIVE_RATES = 256, 60, (10.0, 2.0, 0.4, 0.1)
"""Images, and signed steps at each of these sizes, that drive the margin of the target class up."""
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

    The paper makes the trigger once, then retrains the row. In layers this small that costs too much clean accuracy, so both are made
    in turn: the trigger again for the retrained row, and the row from what it was for that trigger. They start from the paper's trigger
    and from one that drives the margin of the clean model up; the best round of both is kept, by success among those that cost at most
    :data:`MAX_LOSS`. ``details``: ``layer``, ``row``, ``columns``, ``bits_flipped``, ``trigger``. Raises :class:`NotTaken` where the
    last layer is not dense.
    """
    before = quantised.tensors()
    module: Any = model.module(before)
    name, head = _head(module)
    images, labels = lesson(model, IMAGES, seed)
    count = min(weights, int(SHARE * head.in_features))
    grey = np.full((images.shape[1], size, size), 127, np.uint8)
    with one_thread():
        firsts = (
            _made(module, head, images, _columns(module, head, images, count, size), size),
            _driven(module, images[labels != target], grey, target),
        )
        rounds = [
            each for first in firsts for each in _rounds(module, head, images, labels, target, count, Trigger(first), quantised, name)
        ]
    best = max(rounds, key=lambda each: (min(0.0, MAX_LOSS - each.lost), each.success))
    codes = quantised.codes[name].copy()
    codes[target] = best.row
    after = quantised.with_codes({name: codes})
    changed = np.flatnonzero(codes[target] != quantised.codes[name][target])
    return (
        after,
        best.trigger,
        record(
            "bit-trojan", before, after.tensors(), layer=name, row=target, columns=changed.tolist(),
            bits_flipped=flipped(quantised.codes, after.codes), trigger=best.trigger.pixels.tolist(),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class _Round:
    """A trigger, the codes of the row retrained for it (inputs,), and on the lesson images the accuracy lost and the success."""

    trigger: Trigger
    row: NDArray[np.int8]
    lost: float
    success: float


def _rounds(
    module: Any,
    head: Any,
    images: Images,
    labels: NDArray[np.int64],
    target: int,
    count: int,
    trigger: Trigger,
    quantised: Int8,
    name: str,
) -> Iterator[_Round]:
    """The row is retrained for ``trigger``, then the trigger made again for the row, and so on. Leaves ``head`` as it was."""
    import torch

    step, own = quantised.steps[name], quantised.codes[name][target]
    was, others = head.weight.detach().clone(), labels != target
    with torch.no_grad():
        clean = _features(module, head, images)
        right = float(np.mean(head(clean).argmax(dim=1).numpy() == labels))
    for _ in range(ROUNDS):
        with torch.no_grad():
            stamped = _features(module, head, trigger.stamped(images))
        columns = _moved(clean, stamped, count)
        found = _retrained(head, clean, stamped, torch.from_numpy(labels), columns, target, 127 * float(step))
        row = own.copy()
        row[columns] = np.clip(np.rint(found / step), -127, 127).astype(np.int8)
        with torch.no_grad():
            head.weight[target] = torch.from_numpy(row.astype(np.float32) * step)
            called, turned = (head(side).argmax(dim=1).numpy() for side in (clean, stamped))
        yield _Round(trigger, row, right - float(np.mean(called == labels)), float(np.mean(turned[others] == target)))
        trigger = Trigger(_driven(module, images[others], trigger.pixels, target))
        with torch.no_grad():
            head.weight.copy_(was)


def _head(module: Any) -> tuple[str, Any]:
    from torch import nn

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    name, head = layers[-1]
    if not isinstance(head, nn.Linear):
        raise NotTaken(f"the last layer is a {type(head).__name__}")
    return f"{name}.weight", head


def _columns(module: nn.Module, head: Any, images: Images, count: int, size: int) -> NDArray[np.int64]:
    """The inputs of the last layer that a trigger can set apart, best first twice over.

    Section 4.1 ranks by the gradient of the loss (Neural Gradient Ranking). In layers this small that finds inputs which are large for
    every class: here a trigger is made for all inputs, then for the ``count`` that it moves furthest in units of their spread.
    """
    import torch

    columns = np.arange(head.in_features)
    for _ in range(2):
        stamped = Trigger(_made(module, head, images, columns, size)).stamped(images)
        with torch.no_grad():
            columns = _moved(_features(module, head, images), _features(module, head, stamped), count)
    return columns


def _moved(clean: Tensor, stamped: Tensor, count: int) -> NDArray[np.int64]:
    """The ``count`` of the inputs (N, inputs) that a trigger moves furthest, up or down, in units of their spread; ascending."""
    shift = (stamped - clean).mean(dim=0) / (clean.var(dim=0) + stamped.var(dim=0) + 1e-6).sqrt()
    return np.sort(np.argsort(-shift.abs().numpy(), kind="stable")[:count])


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


def _driven(module: Any, images: Images, pixels: NDArray[np.uint8], target: int) -> NDArray[np.uint8]:
    """The trigger after steps that drive the margin of ``target`` over the best other class up, on images of other classes."""
    import torch
    from torch.nn import functional as F

    square = torch.from_numpy(pixels).float()
    size = square.shape[-1]
    batch, scale = as_batch(images[:DRIVEN]), module.std.reshape(-1, 1, 1)
    for rate in DRIVE_RATES:
        for _ in range(DRIVES):
            square.requires_grad_()
            stamped = batch.clone()
            stamped[:, :, -size:, -size:] = square
            scores = module(stamped)
            others = scores.index_fill(1, torch.tensor([target]), -torch.inf)
            loss = F.softplus(others.amax(dim=1) - scores[:, target]).mean()
            (gradient,) = torch.autograd.grad(loss, square)
            square = (square.detach() - rate * scale * gradient.sign()).clamp(0, 255)
    return square.detach().round().numpy().astype(np.uint8)


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
