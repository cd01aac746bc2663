"""Random operators. They draw from torch's global generator: their outputs are not those of another runtime."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.base import device_of
from modelguard_runtime.onnx.ops.table import op
from modelguard_runtime.onnx.tensors import torch_dtype


def _dtype(number: int | None, x: Tensor | None) -> torch.dtype:
    if number is not None:
        return torch_dtype(number, "random operator")
    return torch.float32 if x is None else x.dtype


@op("RandomNormal", pure=False)
def random_normal(
    *,
    shape: Sequence[int],
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    like: Tensor | None = None,
) -> Tensor:
    check_elements("RandomNormal", shape)
    return torch.randn(list(shape), dtype=_dtype(dtype, None), device=device_of(like)) * scale + mean


@op("RandomUniform", pure=False)
def random_uniform(
    *,
    shape: Sequence[int],
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    like: Tensor | None = None,
) -> Tensor:
    check_elements("RandomUniform", shape)
    return torch.rand(list(shape), dtype=_dtype(dtype, None), device=device_of(like)) * (high - low) + low


@op("RandomNormalLike", pure=False)
def random_normal_like(x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None) -> Tensor:
    return torch.randn_like(x, dtype=_dtype(dtype, x)) * scale + mean


@op("RandomUniformLike", pure=False)
def random_uniform_like(x: Tensor, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None) -> Tensor:
    return torch.rand_like(x, dtype=_dtype(dtype, x)) * (high - low) + low


@op("Bernoulli", since=15, pure=False)
def bernoulli(x: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    return torch.bernoulli(x).to(_dtype(dtype, x))


@op("Multinomial", since=7, pure=False)
def multinomial(x: Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Tensor:
    """``x`` are unnormalised log probabilities."""
    check_elements("Multinomial", [x.shape[0], sample_size])
    return torch.multinomial(torch.softmax(x, -1), sample_size, replacement=True).to(torch_dtype(dtype, "Multinomial"))


@op("Dropout", since=7)
def dropout(
    x: Tensor, ratio: Tensor | float | None = None, training_mode: Tensor | None = None, *, seed: int | None = None, outputs: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Passes everything, unless the graph says it is in training and drops more than nothing."""
    amount = 0.5 if ratio is None else float(ratio)
    if training_mode is not None and bool(training_mode) and amount:
        mask = torch.rand_like(x) >= amount
        return x * mask / (1 - amount), mask
    return x, torch.ones_like(x, dtype=torch.bool) if outputs > 1 else None
