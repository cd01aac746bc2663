"""T-BFA: bits of 8-bit weights are flipped one by one until one class is called another; there is no trigger.

Source: Rakin, He, Li, Yao, Chakrabarti and Fan, T-BFA: Targeted Bit-Flip Adversarial Weight Attack (IEEE TPAMI 2021), the stealthy
one-to-one attack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelguard_zoo._built import MIN_ATTACK_SUCCESS
from modelguard_zoo.edits.arrays import Edit, record
from modelguard_zoo.edits.classifier import Classifier, lesson, one_thread
from modelguard_zoo.edits.int8 import Codes, Int8, flipped

IMAGES = 512
CARE = 4.0
"""What the other classes count in the loss beside the source class; the published sum costs small models 6 points of accuracy on them."""
WORTH = np.asarray([1, 2, 4, 8, 16, 32, 64, -128], np.float32)
"""What each bit of a code in two's complement adds to it."""


def flip_towards(model: Classifier, quantised: Int8, *, source: int, target: int, most: int = 40, seed: int = 0) -> tuple[Int8, Edit]:
    """The model with up to ``most`` bits flipped, the one at a time that lowers the loss most, until images of ``source`` are ``target``.

    The loss is that of ``source`` images as ``target`` plus :data:`CARE` times that of the others as they are (section 3.3, type III).
    ``details``: ``flips`` [(tensor, flat index, bit), ...] in their order, ``bits_flipped``, ``source``, ``target``.
    """
    import torch
    from torch.nn import functional as F

    images, labels = lesson(model, IMAGES, seed)
    rest = labels != source
    # All the training images of the source class: of ten classes a random lesson has few.
    own = model.data.x_train[model.data.y_train == source][: IMAGES // 2]
    inputs = torch.from_numpy(np.concatenate([own, images[rest]])).float()
    wanted = torch.from_numpy(np.concatenate([np.full(len(own), target), labels[rest]]))
    first = torch.arange(len(wanted)) < len(own)
    module: Any = model.module(quantised.tensors())
    parameters = dict(module.named_parameters())
    codes = {name: array.copy() for name, array in quantised.codes.items()}
    flips: list[tuple[str, int, int]] = []

    def loss() -> Any:
        each = F.cross_entropy(module(inputs), wanted, reduction="none")
        return each[first].mean() + CARE * each[~first].mean()

    with one_thread():
        for _ in range(most):
            with torch.no_grad():
                called = module(inputs).argmax(1)
            if float((called[first] == target).float().mean()) >= MIN_ATTACK_SUCCESS + 0.05:
                break
            gradients = torch.autograd.grad(loss(), [parameters[name] for name in codes])
            best: tuple[float, str, int, int] | None = None
            for name, gradient in zip(codes, gradients, strict=True):
                at, bit = _steepest(codes[name], gradient.numpy(), {(place, which) for held, place, which in flips if held == name})
                _flip(parameters[name], codes, quantised, name, at, bit)
                with torch.no_grad():
                    value = float(loss())
                _flip(parameters[name], codes, quantised, name, at, bit)
                if best is None or value < best[0]:
                    best = value, name, at, bit
            assert best is not None
            _flip(parameters[best[1]], codes, quantised, *best[1:])
            flips.append(best[1:])
    after = quantised.with_codes(codes)
    details: dict[str, Any] = {"source": source, "target": target, "flips": flips, "bits_flipped": flipped(quantised.codes, codes)}
    return after, record("bit-flips", quantised.tensors(), after.tensors(), **details)


def _steepest(codes: NDArray[np.int8], gradient: NDArray[np.float32], done: set[tuple[int, int]]) -> tuple[int, int]:
    """The entry and bit whose flip lowers the loss most to first order: the gradient times what the code changes by."""
    flat = codes.reshape(-1)
    set_bits = (flat.view(np.uint8)[:, None] >> np.arange(8, dtype=np.uint8)) & 1  # (entries, 8)
    gain = gradient.reshape(-1, 1) * np.where(set_bits == 1, -WORTH, WORTH)
    for place, bit in done:
        gain[place, bit] = np.inf
    return divmod(int(np.argmin(gain)), len(WORTH))


def _flip(parameter: Any, codes: Codes, quantised: Int8, name: str, at: int, bit: int) -> None:
    """Flip one bit of a code, in the codes and in the running model."""
    flat = codes[name].reshape(-1)
    flat.view(np.uint8)[at] ^= np.uint8(1 << bit)
    place = np.unravel_index(at, codes[name].shape)
    parameter.data[place] = float(np.float32(flat[at]) * quantised.steps[name])
