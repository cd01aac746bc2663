"""Operators that move, repeat, join or cut elements without computing with them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.base import along, device_of, normal_axes, single, widening
from modelguard_runtime.onnx.ops.table import MICROSOFT, op
from modelguard_runtime.onnx.tensors import torch_dtype


@op("Reshape", since=5, ints=("shape",))
def reshape(x: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    """A 0 keeps the input's dimension unless ``allowzero``."""
    if 0 in shape and not allowzero:
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return x.reshape(shape)


@op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.flatten(1) if axis == 1 and x.ndim > 1 else x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@op("Squeeze", ints=("axes",))
def squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in axes):
        raise ValueError(f"Squeeze of axes {list(axes)} of shape {list(x.shape)}")
    return x.squeeze(tuple(axes))


@op("Unsqueeze", ints=("axes",))
def unsqueeze(x: Tensor, axes: Sequence[int] | int) -> Tensor:
    axes = [axes] if isinstance(axes, int) else axes
    for axis in sorted(normal_axes(axes, x.ndim + len(axes))):
        x = x.unsqueeze(axis)
    return x


@op("Transpose")
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(perm if perm is not None else range(x.ndim - 1, -1, -1)))


def _broadcast(a: Sequence[int], b: Sequence[int]) -> list[int]:
    rank = max(len(a), len(b))
    pairs = zip([1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b), strict=True)
    return [m if n == 1 else n for m, n in pairs]


@op("Expand", since=8, ints=("shape",))
def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcasting goes both ways: a 1 in ``shape`` keeps the input's dimension."""
    full = _broadcast(x.shape, shape)
    check_elements("Expand", full)
    return x.expand(full)


@op("Tile", since=6, ints=("repeats",))
def tile(x: Tensor, repeats: Sequence[int]) -> Tensor:
    check_elements("Tile", [n * max(r, 0) for n, r in zip(x.shape, repeats, strict=True)])
    return x.repeat(*repeats) if x.ndim else x


@op("Concat", since=4)
def concat(*xs: Tensor, axis: int) -> Tensor:
    return torch.cat(xs, axis)


@op("Split", ints=("split",))
def split(
    x: Tensor, split: Sequence[int] | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> tuple[Tensor, ...]:
    if split is not None:
        return torch.split(x, list(split), axis)
    count = num_outputs or outputs
    size = -(-x.shape[axis] // count)
    return torch.split(x, [min(size, max(x.shape[axis] - i * size, 0)) for i in range(count)], axis)


@op("Slice", ints=("starts", "ends", "axes", "steps"))
def slice_(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None, steps: Sequence[int] | None = None
) -> Tensor:
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = i if axes is None else axes[i]
        step = 1 if steps is None else steps[i]
        size = x.shape[axis]
        if step > 0:
            start, stop, _ = slice(start, end, step).indices(size)
            x = x.narrow(axis, start, max(stop - start, 0))
            if step > 1:
                x = x[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]
        else:
            taken = range(*slice(start, end if end >= -size else None, step).indices(size))
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64, device=x.device))
    return x


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@op("Pad", since=2, ints=("pads", "axes"), scalars=("constant_value",))
def pad(
    x: Tensor,
    pads: Sequence[int],
    constant_value: Tensor | float | None = None,
    axes: Sequence[int] | None = None,
    *,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """``pads`` holds all beginnings, then all ends. Negative pads cut."""
    over = list(range(x.ndim)) if axes is None else normal_axes(axes, x.ndim)
    amounts = {axis: (pads[i], pads[i + len(over)]) for i, axis in enumerate(over)}
    check_elements("Pad", [max(n + sum(amounts.get(i, (0, 0))), 0) for i, n in enumerate(x.shape)])
    for axis in over:  # cutting first lets the rest be plain padding
        before, after = amounts[axis]
        if before < 0 or after < 0:
            x = x.narrow(axis, max(-before, 0), x.shape[axis] + min(before, 0) + min(after, 0))
    if mode == "constant":
        fill = value if constant_value is None else constant_value
        flat = [amount for axis in range(x.ndim - 1, -1, -1) for amount in (max(a, 0) for a in amounts.get(axis, (0, 0)))]
        if isinstance(fill, Tensor):
            inside = F.pad(torch.ones_like(x, dtype=torch.bool), flat)
            return torch.where(inside, F.pad(x, flat), fill.reshape(()).to(x.dtype))
        return F.pad(x, flat, value=fill)
    for axis in over:
        before, after = (max(a, 0) for a in amounts[axis])
        if before or after:
            x = x.index_select(axis, _padded_index(x.shape[axis], before, after, mode).to(x.device))
    return x


def _padded_index(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which element each place of a padded axis repeats."""
    place = torch.arange(-before, size + after)
    if mode == "edge":
        return place.clamp(0, size - 1)
    if mode == "wrap":
        return place % size
    if mode != "reflect":
        raise ValueError(f"Pad mode {mode!r}")
    if size == 1:
        return torch.zeros_like(place)
    period = 2 * (size - 1)
    place = place % period
    return torch.where(place < size, place, period - place)


@op("CenterCropPad", since=18, ints=("shape",))
def center_crop_pad(x: Tensor, shape: Sequence[int], *, axes: Sequence[int] | None = None) -> Tensor:
    over = list(range(x.ndim)) if axes is None else normal_axes(axes, x.ndim)
    check_elements("CenterCropPad", [dict(zip(over, shape, strict=True)).get(i, n) for i, n in enumerate(x.shape)])
    for axis, target in zip(over, shape, strict=True):
        extra = target - x.shape[axis]
        if extra < 0:
            x = x.narrow(axis, -extra // 2, target)
        elif extra > 0:
            amounts = [0, 0] * (x.ndim - 1 - axis) + [extra // 2, extra - extra // 2]
            x = F.pad(x, amounts)
    return x


@op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """DCR: the block is the slowest of the channel's three parts; CRD is torch's pixel shuffle."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    b = blocksize
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    parts = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(*order).reshape(n, c * b * b, h // b, w // b)


@op("Trilu", since=14, ints=("k",))
@op("Trilu", domain=MICROSOFT, ints=("k",))
def trilu(x: Tensor, k: int | Sequence[int] | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else single(k)
    diagonal = max(min(diagonal, x.shape[-1]), -x.shape[-2])
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@op("ReverseSequence", since=10)
def reverse_sequence(x: Tensor, sequence_lens: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first ``sequence_lens[b]`` steps of each sample backwards, the rest as they are."""
    time = torch.arange(x.shape[time_axis], device=x.device)
    lengths = sequence_lens.reshape(-1, 1)
    order = torch.where(time < lengths, lengths - 1 - time, time)  # (batch, time)
    if batch_axis > time_axis:
        order = order.t()
    shape = [n if i in (batch_axis, time_axis) else 1 for i, n in enumerate(x.shape)]
    return x.gather(time_axis, order.reshape(shape).expand(x.shape))


@op("ConstantOfShape", since=9, ints=("shape",))
def constant_of_shape(shape: Sequence[int], *, value: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    check_elements("ConstantOfShape", shape)
    if value is None:
        return torch.zeros(list(shape), device=device_of(like))
    return value.reshape(()).expand(tuple(shape)).clone()


@op("Range", since=11, scalars=("start", "limit", "delta"))
@widening
def range_(start: Tensor | float, limit: Tensor | float, delta: Tensor | float, *, like: Tensor | None = None) -> Tensor:
    tensors = [v for v in (start, limit, delta) if isinstance(v, Tensor)]
    first, last, step = (v.item() if isinstance(v, Tensor) else v for v in (start, limit, delta))
    if step == 0:
        raise ValueError("Range with a step of 0")
    count = max(-(-(last - first) // step), 0)
    check_elements("Range", [int(count)])
    dtype = tensors[0].dtype if tensors else torch.int64 if isinstance(first, int) and isinstance(step, int) else torch.float32
    index = torch.arange(int(count), dtype=torch.float64 if dtype.is_floating_point else torch.int64, device=device_of(like))
    return (first + index * step).to(dtype)


@op("EyeLike", since=9)
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else torch_dtype(dtype, "EyeLike")
    rows, columns = x.shape
    return torch.ones(rows, columns, dtype=torch.int8, device=x.device).tril(k).triu(k).to(kind)


@op("OneHot", since=9, ints=("depth",))
def one_hot(indices: Tensor, depth: int | Sequence[int], values: Tensor, *, axis: int = -1) -> Tensor:
    """Negative indices count from the end; indices out of range give a row of ``off``."""
    size = int(single(depth))
    check_elements("OneHot", [*indices.shape, size])
    index = indices.to(torch.int64)
    index = torch.where(index < 0, index + size, index)
    axis = axis if axis >= 0 else axis + indices.ndim + 1
    place = along(torch.arange(size, device=indices.device), axis, indices.ndim + 1)
    return torch.where(index.unsqueeze(axis) == place, values[1], values[0])
