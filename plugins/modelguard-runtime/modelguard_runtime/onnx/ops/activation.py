"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.ops.table import MICROSOFT, op


@op("Relu", since=6)
def relu(x: Tensor) -> Tensor:
    return F.relu(x)


@op("Sigmoid", since=6)
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@op("Tanh", since=6)
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@op("LeakyRelu", since=6)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """The slope broadcasts to ``x``; the usual (C, 1, ..., 1) takes torch's own function."""
    if slope.numel() == 1 or (x.ndim == slope.ndim + 1 and slope.shape[0] == x.shape[1] == slope.numel()):
        return F.prelu(x, slope.flatten()) if x.is_floating_point() else torch.where(x > 0, x, slope * x)
    return torch.where(x > 0, x, slope * x)


@op("Elu", since=6)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@op("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@op("Selu", since=6)
def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    if abs(alpha - 1.6732632423543772) < 1e-6 and abs(gamma - 1.0507009873554805) < 1e-6:
        return F.selu(x)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@op("Gelu", since=20)
@op("Gelu", domain=MICROSOFT)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@op("HardSigmoid", since=6)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return (alpha * x + beta).clamp(0, 1)


@op("HardSwish", since=14)
def hard_swish(x: Tensor) -> Tensor:
    return F.hardswish(x)


@op("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@op("SwiGLU", since=28)
def swiglu(a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(a, alpha=alpha) * b


@op("Mish", since=18)
def mish(x: Tensor) -> Tensor:
    return F.mish(x)


@op("Softplus")
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@op("Softsign")
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@op("Shrink", since=9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, (x + bias).to(x.dtype), torch.where(x > lambd, (x - bias).to(x.dtype), zero))


@op("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def _flat(x: Tensor, axis: int) -> Tensor:
    """Two-dimensional, split at ``axis``: what softmax meant before opset 13."""
    return x.reshape(prod(x.shape[: axis % x.ndim if x.ndim else 0]), -1)


def _as_before_13(function: Callable[[Tensor, int], Tensor], x: Tensor, axis: int) -> Tensor:
    return function(x, -1) if axis in (-1, x.ndim - 1) else function(_flat(x, axis), 1).reshape(x.shape)


@op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@op("Softmax", since=1)
def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return _as_before_13(torch.softmax, x, axis)


@op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


@op("LogSoftmax", since=1)
def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return _as_before_13(torch.log_softmax, x, axis)


@op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    index = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, index, 1.0)


@op("Hardmax", since=1)
def hardmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return hardmax(_flat(x, axis), axis=1).reshape(x.shape)
