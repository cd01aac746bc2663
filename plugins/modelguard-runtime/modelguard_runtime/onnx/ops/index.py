"""Gathering, scattering, sorting and selecting."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.base import WIDE, single, widening
from modelguard_runtime.onnx.ops.table import op


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the front, as int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@op("Gather", scalars=("indices",))
def gather(data: Tensor, indices: Tensor | int, *, axis: int = 0) -> Tensor:
    if not isinstance(indices, Tensor):
        return data.select(axis, indices)
    check_elements("Gather", [*data.shape[:axis], *indices.shape, *data.shape[axis:][1:]] if axis >= 0 else indices.shape)
    indices = _wrapped(indices, data.shape[axis])
    if axis == 0 and data.ndim == 2 and data.is_floating_point():
        return F.embedding(indices, data)
    if indices.ndim == 1:
        return data.index_select(axis, indices)
    axis = axis % data.ndim
    return data.index_select(axis, indices.flatten()).reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])


@op("GatherElements", since=11)
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return data.gather(axis, _wrapped(indices, data.shape[axis]))


def _pointers(indices: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """The last axis of ``indices`` as one index tensor a dimension."""
    return tuple(_wrapped(part, size) for part, size in zip(indices.unbind(-1), shape, strict=False))


@op("GatherND", since=11)
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims == 0:
        return data[_pointers(indices, data.shape)]
    flat = data.flatten(0, batch_dims - 1) if batch_dims > 1 else data
    rows = indices.flatten(0, batch_dims - 1) if batch_dims > 1 else indices
    batch = torch.arange(flat.shape[0], device=data.device).reshape(-1, *[1] * (rows.ndim - 2))
    result = flat[(batch, *_pointers(rows, flat.shape[1:]))]
    return result.reshape(*data.shape[:batch_dims], *result.shape[1:])


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("ScatterElements", "Scatter", since=9)
def scatter_elements(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    indices = _wrapped(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, indices, updates)
    return data.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


@op("ScatterND", since=11)
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Rows of ``data`` named by the last axis of ``indices`` are replaced by, or combined with, the updates."""
    depth = indices.shape[-1]
    if depth == 0:
        return updates.reshape(data.shape)
    flat = data.reshape(prod(data.shape[:depth]), -1)
    index = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for pointer, size in zip(_pointers(indices, data.shape), data.shape, strict=False):
        index = index * size + pointer
    source = updates.reshape(-1, flat.shape[1])
    if reduction == "none":
        return flat.index_copy(0, index.flatten(), source).reshape(data.shape)
    where = index.reshape(-1, 1).expand(source.shape)
    return flat.scatter_reduce(0, where, source, _REDUCTIONS[reduction]).reshape(data.shape)


@op("TensorScatter", since=24)
def tensor_scatter(cache: Tensor, update: Tensor, write_indices: Tensor | None = None, *, axis: int = -2, mode: str = "linear") -> Tensor:
    """Writes ``update`` into each sample's cache from ``write_indices[sample]`` on."""
    axis = axis % cache.ndim
    steps = torch.arange(update.shape[axis], device=cache.device)
    start = torch.zeros(cache.shape[0], dtype=torch.int64, device=cache.device) if write_indices is None else write_indices.to(torch.int64)
    place = start.reshape(-1, 1) + steps  # (batch, steps)
    if mode == "circular":
        place = place % cache.shape[axis]
    shape = [1] * cache.ndim
    shape[0], shape[axis] = place.shape
    return cache.scatter(axis, place.reshape(shape).expand(update.shape), update)


@op("TopK", ints=("k",))
@widening
def top_k(x: Tensor, k: int | Sequence[int], *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """Ties go to the lower index."""
    count = single(k)
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    if count > x.shape[axis]:
        raise ValueError(f"TopK of {count} out of {x.shape[axis]}")
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@op("NonZero", since=9)
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x if x.dtype not in WIDE else x.to(torch.int64)).t() if x.ndim else torch.nonzero(x.reshape(1)).t()


@op("Compress", since=9)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    if axis is None:
        x, axis = x.flatten(), 0
    return x.index_select(axis, torch.nonzero(condition[: x.shape[axis]]).flatten())


@op("Unique", since=11)
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values, the index each is first met at, the value's place of each element, and counts."""
    along = 0 if axis is None else axis
    flat = x.flatten() if axis is None else x
    values, inverse, counts = torch.unique(flat, sorted=True, return_inverse=True, return_counts=True, dim=along)
    inverse = inverse.flatten()
    first = torch.full((counts.numel(),), inverse.numel(), dtype=torch.int64, device=x.device)
    first = first.scatter_reduce(0, inverse, torch.arange(inverse.numel(), device=x.device), "amin")
    if not sorted:
        order = first.argsort()
        rank = torch.empty_like(order).scatter(0, order, torch.arange(order.numel(), device=x.device))
        values, first, counts, inverse = values.index_select(along, order), first[order], counts[order], rank[inverse]
    return values, first, inverse, counts
