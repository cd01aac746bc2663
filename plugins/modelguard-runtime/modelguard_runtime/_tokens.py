"""Padding of token ids (N, T), and rows turned so that it stands behind the text.

A language model looks back only, so that what follows a text changes nothing of it. Padding before a text would have to be masked, and
positions counted without it: not every graph takes either.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def lead(ids: Tensor, pad: int) -> Tensor:
    """(N,) how many ``pad`` each row of (N, T) begins with, its last token never counted."""
    return (ids[:, :-1] == pad).long().cumprod(1).sum(1)


def tail_mask(ids: Tensor, pad: int | None) -> Tensor:
    """(N, T) 1 for tokens and 0 for the padding behind them; the first token of a row is none."""
    if pad is None:
        return torch.ones_like(ids)
    real = (ids != pad).long().flip(1).cumsum(1).flip(1) > 0
    real[:, 0] = True
    return real.long()


def arrange(values: Tensor, leading: Tensor) -> Tensor:
    """(N, T, ...) with the ``leading`` (N,) positions of each row moved behind its others."""
    return _turned(values, leading)


def back(values: Tensor, leading: Tensor) -> Tensor:
    """The reverse of :func:`arrange`."""
    return _turned(values, -leading)


def _turned(values: Tensor, by: Tensor) -> Tensor:
    if not bool(by.any()):
        return values
    length = values.shape[1]
    index = (torch.arange(length, device=values.device) + by.to(values.device)[:, None]) % length
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, index]
