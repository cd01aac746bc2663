"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.conv import CONV, pad_last_first, resolve_pads
from modelguard_runtime.onnx.ops.table import op

Ints = Sequence[int]

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Windows(NamedTuple):
    """Where windows lie: ``pads`` are all beginnings, then all ends; with ``exact`` (negative: cuts) windows cover the padded input
    exactly."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    pads: list[int]
    exact: list[int]

    @property
    def native(self) -> bool:
        """Whether torch's own padding does it: the same before and behind, at most half a window, nothing left to add or cut."""
        rank = len(self.kernel)
        return self.pads[:rank] == self.pads[rank:] and all(2 * p <= k for p, k in zip(self.pads[:rank], self.kernel, strict=True))


def _windows(
    x: Tensor, kernel: Ints, strides: Ints | None, dilations: Ints | None, pads: Ints | None, auto_pad: str, ceil_mode: int
) -> _Windows:
    """With ``ceil_mode`` a window that would start in the padding behind the input is left out."""
    rank = len(kernel)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = resolve_pads(x, kernel, strides, dilations, pads, auto_pad)
    exact = list(pads)
    for i, n in enumerate(x.shape[2:]):
        reach = (kernel[i] - 1) * dilations[i] + 1
        span = n + pads[i] + pads[i + rank] - reach
        out = (-(-span // strides[i]) if ceil_mode else span // strides[i]) + 1
        if ceil_mode and (out - 1) * strides[i] >= n + pads[i]:
            out -= 1
        exact[i + rank] = (out - 1) * strides[i] + reach - n - pads[i]
    check_elements("pooling", [*x.shape[:2], *(n + p + max(q, 0) for n, p, q in zip(x.shape[2:], pads[:rank], exact[rank:], strict=True))])
    return _Windows(kernel, strides, dilations, pads, exact)


@op("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    outputs: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """Indices, when asked for, count through the whole unpadded (N, C, ...) tensor."""
    rank = len(kernel_shape)
    at = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if not x.is_floating_point():
        y, index = _integer_max(x, at, outputs)
    elif at.native and (not ceil_mode or at.exact == at.pads):
        result = _MAX[rank](x, kernel_shape, at.strides, at.pads[:rank], at.dilations, False, outputs > 1)
        y, index = result if outputs > 1 else (result, None)
    else:
        padded = F.pad(x, pad_last_first(at.exact), value=-torch.inf)
        result = _MAX[rank](padded, kernel_shape, at.strides, 0, at.dilations, False, outputs > 1)
        y, index = result if outputs > 1 else (result, None)
        index = None if index is None else _unpadded(index, padded.shape[2:], x.shape[2:], at.exact)
    if index is None:
        return y, None
    if storage_order:  # column-major: the order of the spatial axes is turned round
        place, spatial = index, list(x.shape[2:])
        parts = []
        for size in reversed(spatial):
            parts.append(place % size)
            place = place // size
        index = torch.zeros_like(index)
        for part, size in zip(parts, reversed(spatial), strict=True):
            index = index * size + part
    base = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * rank) * prod(x.shape[2:])
    return y, index + base


def _integer_max(x: Tensor, at: _Windows, outputs: int) -> tuple[Tensor, Tensor | None]:
    y, index = max_pool(
        x.to(torch.float64), kernel_shape=at.kernel, strides=at.strides, dilations=at.dilations, pads=at.pads, outputs=outputs
    )
    return y.to(x.dtype), index


def _unpadded(index: Tensor, padded: Ints, shape: Ints, pads: Ints) -> Tensor:
    """Places in the padded spatial plane as places in the plain one."""
    parts = []
    for size in reversed(padded):
        parts.append(index % size)
        index = index // size
    result = torch.zeros_like(index)
    for part, size, before in zip(reversed(parts), shape, pads, strict=False):
        result = result * size + (part - before)
    return result


def _window_sum(x: Tensor, at: _Windows, pads: Ints) -> Tensor:
    """Sum over each window of ``x`` padded by ``pads``; channels stay apart."""
    rank = len(at.kernel)
    planes = F.pad(x, pad_last_first(pads)).flatten(0, 1).unsqueeze(1)  # (N * C, 1, ...)
    summed = CONV[rank](planes, x.new_ones(1, 1, *at.kernel), None, at.strides, 0, at.dilations)
    result: Tensor = summed.reshape(*x.shape[:2], *summed.shape[2:])
    return result


@op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Padding counts with ``count_include_pad``; what ``ceil_mode`` adds behind it never does."""
    rank = len(kernel_shape)
    at = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if at.native and set(at.dilations) == {1} and (not ceil_mode or at.exact == at.pads):
        result: Tensor = _AVERAGE[rank](x, kernel_shape, at.strides, at.pads[:rank], False, bool(count_include_pad))
        return result
    counted = x.new_ones(1, 1, *x.shape[2:])
    behind = at.exact
    if count_include_pad:
        counted = F.pad(counted, pad_last_first(at.pads), value=1.0)
        behind = [0] * rank + [e - p for e, p in zip(at.exact[rank:], at.pads[rank:], strict=True)]
    return _window_sum(x, at, at.exact) / _window_sum(counted, at, behind)


@op("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    at = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return _window_sum(x.abs() ** p, at, at.exact) ** (1.0 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


@op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


@op("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)
    return norm


@op("MaxUnpool", since=9, ints=("output_shape",))
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Ints | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Puts each value at its index in zeros. Indices count through the (N, C, ...) tensor that was pooled."""
    rank = len(kernel_shape)
    strides, pads = strides or [1] * rank, pads or [0] * 2 * rank
    size = [(n - 1) * s + k - pads[i] - pads[i + rank] for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel_shape, strict=True))]
    shape = list(output_shape) if output_shape is not None else [*x.shape[:2], *size]
    check_elements("MaxUnpool", shape)
    # The indices are those of the inferred size, which output_shape may exceed.
    flat = x.new_zeros(prod([*x.shape[:2], *size])).scatter(0, indices.flatten(), x.flatten())
    plain = flat.reshape(*x.shape[:2], *size)
    return F.pad(plain, pad_last_first([0] * rank + [t - n for t, n in zip(shape[2:], size, strict=True)]))
