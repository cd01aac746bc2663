"""What a model ends in, told by its values, and how logits are made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

Tensor = torch.Tensor


def head_of(output: Tensor) -> Any:
    """What a graph seems to end in, by its values (N, K): rows of a softmax sum to one, those of a log-softmax do so exponentiated.

    The values of a sigmoid look like logits, so it is only found where the graph shows it.
    """
    values = output.detach().float()
    if values.ndim != 2 or values.shape[1] < 2:
        return "logits"
    ones = torch.ones(len(values), device=values.device)
    if bool((values >= 0).all()) and torch.allclose(values.sum(1), ones, atol=1e-3):
        return "softmax"
    if bool((values <= 0).all()) and torch.allclose(values.exp().sum(1), ones, atol=1e-3):
        return "log-softmax"
    return "logits"


def _log(probabilities: Tensor) -> Tensor:
    # log p is a vector of logits whose softmax is p; the smallest normal float keeps a saturated class finite.
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()


def _logit(probabilities: Tensor) -> Tensor:
    logits: Tensor = torch.special.logit(probabilities, eps=1e-7)
    return logits


UNDO: Mapping[str, Callable[[Tensor], Tensor]] = {"softmax": _log, "sigmoid": _logit}
"""What makes logits of the values behind each head. Those of a log-softmax are logits already."""
