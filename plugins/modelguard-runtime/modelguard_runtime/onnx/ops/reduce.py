"""Reductions, and the index of the largest or smallest element."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modelguard_runtime.onnx.ops.base import WIDE, normal_axes, single, widening
from modelguard_runtime.onnx.ops.table import op

Axes = Sequence[int] | None


def _reduced(x: Tensor, axes: Axes, noop: int) -> list[int] | None:
    """The axes to reduce; None when there is nothing to do."""
    if not axes:
        return None if noop else list(range(x.ndim))
    return normal_axes(axes, x.ndim)


def _register(name: str, reduce: Callable[[Tensor, list[int], bool], Tensor], each: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    """A reduction; ``each`` is what it does to an element when there is no axis to reduce."""

    def run(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        over = _reduced(x, axes, noop_with_empty_axes)
        if over is None:
            return each(x)
        return reduce(x, over, bool(keepdims)) if over else reduce(x.unsqueeze(0), [0], False)

    run.__name__ = run.__qualname__ = name.lower()
    op(name, ints=("axes",))(widening(run))


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype if x.dtype not in WIDE else torch.int64)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return x.to(torch.float64).mean(axes, keep).to(x.dtype)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _lowest(dtype: torch.dtype) -> float:
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    return torch.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def _max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if any(x.shape[axis] == 0 for axis in axes):
        return _empty(x, axes, keep, False if x.dtype == torch.bool else _lowest(x.dtype))
    return x.amax(axes, keep)


def _min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if any(x.shape[axis] == 0 for axis in axes):
        return _empty(x, axes, keep, True if x.dtype == torch.bool else _highest(x.dtype))
    return x.amin(axes, keep)


def _empty(x: Tensor, axes: list[int], keep: bool, fill: float) -> Tensor:
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
    return torch.full(shape, fill, dtype=x.dtype, device=x.device)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
        return norm
    return _sum_square(x, axes, keep).to(torch.float64).sqrt().to(x.dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x, axes, keep).log()


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if any(x.shape[axis] == 0 for axis in axes):
        return _empty(x, axes, keep, -torch.inf)
    return torch.logsumexp(x, axes, keep)


_register("ReduceSum", _sum)
_register("ReduceMean", _mean)
_register("ReduceProd", _prod)
_register("ReduceMax", _max)
_register("ReduceMin", _min)
_register("ReduceL1", _l1, torch.abs)
_register("ReduceL2", _l2, torch.abs)
_register("ReduceSumSquare", _sum_square, torch.square)
_register("ReduceLogSum", _log_sum, torch.log)
_register("ReduceLogSumExp", _log_sum_exp)


def _arg(x: Tensor, axis: int, keepdims: int, last: int, largest: bool) -> Tensor:
    if last:
        x = x.flip(axis)
    index = x.argmax(axis, bool(keepdims)) if largest else x.argmin(axis, bool(keepdims))
    return x.shape[axis] - 1 - index if last else index


@op("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(x, axis, keepdims, select_last_index, True)


@op("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(x, axis, keepdims, select_last_index, False)


def _cumulate(x: Tensor, axis: int, exclusive: int, reverse: int, start: float, run: Callable[..., Tensor]) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        head = torch.full_like(x.narrow(axis, 0, 1), start) if x.shape[axis] else x
        x = torch.cat([head, x.narrow(axis, 0, max(x.shape[axis] - 1, 0))], axis)
    result = run(x, axis, dtype=x.dtype)
    return result.flip(axis) if reverse else result


@op("CumSum", since=11, ints=("axis",))
def cum_sum(x: Tensor, axis: int | Sequence[int], *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulate(x, single(axis), exclusive, reverse, 0, torch.cumsum)


@op("CumProd", since=26, ints=("axis",))
def cum_prod(x: Tensor, axis: int | Sequence[int], *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulate(x, single(axis), exclusive, reverse, 1, torch.cumprod)
