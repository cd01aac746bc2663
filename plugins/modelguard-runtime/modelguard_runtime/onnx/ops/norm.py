"""Normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.ops.base import compute_dtype
from modelguard_runtime.onnx.ops.table import op


@op("BatchNormalization", since=7)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    outputs: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Training mode normalises by the batch and moves the running statistics, which it returns."""
    if not training_mode:
        if scale.dtype is not x.dtype and x.dtype != torch.float64:
            scale, bias, mean, var = (t.to(x.dtype) for t in (scale, bias, mean, var))
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon), mean, var
    over = [i for i in range(x.ndim) if i != 1]
    batch_mean, batch_var = x.mean(over), x.var(over, unbiased=False)
    shape = [1, -1] + [1] * (x.ndim - 2)
    factor = scale * torch.rsqrt(batch_var + epsilon)
    y = (x - batch_mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)
    return y, mean * momentum + batch_mean * (1 - momentum), var * momentum + batch_var * (1 - momentum)


@op("InstanceNormalization", since=6)
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("GroupNormalization", since=21)
def group_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@op("GroupNormalization", since=18)
def group_normalization_18(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Scale and bias are one a group."""
    repeat = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(repeat), bias.repeat_interleave(repeat), epsilon)


@op("LayerNormalization")
def layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, outputs: int = 1
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Also returns mean and reciprocal standard deviation when they are named."""
    axis = axis % x.ndim
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        y = y if bias is None else y + bias
    if outputs == 1:
        return y, None, None
    over = list(range(axis, x.ndim))
    wide = x.to(compute_dtype(x))
    var, mean = torch.var_mean(wide, over, correction=0, keepdim=True)
    return y, mean, torch.rsqrt(var + epsilon)


@op("RMSNormalization", since=23)
def rms_normalization(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    shape = x.shape[axis % x.ndim :]
    if scale.shape == shape:
        return F.rms_norm(x, shape, scale, epsilon)
    return F.rms_norm(x, shape, None, epsilon) * scale


@op("LRN")
def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divides by the energy of ``size`` neighbouring channels, the odd one out being after."""
    before = (size - 1) // 2
    square = F.pad((x * x).transpose(1, -1), (before, size - 1 - before))  # channels last
    energy = square.unfold(-1, size, 1).sum(-1).transpose(1, -1)
    return x / (bias + alpha / size * energy) ** beta


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)


@op("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """A slice whose norm is 0 stays 0."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)
