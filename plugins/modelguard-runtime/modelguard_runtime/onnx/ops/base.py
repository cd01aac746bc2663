"""What the operator families share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", bound=float)

WIDE = (torch.uint16, torch.uint32, torch.uint64)
"""Types torch stores but hardly computes with; operators compute them as int64 (exact below 2**63)."""

Number = Tensor | float | int


class _Through(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value``, to the bit, whose gradient goes to ``x`` of the same shape unchanged: the straight-through estimator of Bengio, Léonard
    and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation", 2013, section 4.

    The usual sum x + (value - x).detach() is not used: it is NaN where ``x`` is infinite.
    """
    if not torch.is_grad_enabled():
        return value
    through: Tensor = _Through.apply(x, value.detach())  # type: ignore[no-untyped-call]
    return through


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as ``dtype``, itself if it is so already."""
    return x if x.dtype is dtype else x.to(dtype)


def widening(function: F) -> F:
    """Let ``function`` take the unsigned types torch cannot compute with: they go through int64 and back."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError):
            dtype = next((a.dtype for a in args if isinstance(a, Tensor) and a.dtype in WIDE), None)
            if dtype is None:
                raise
        result = function(*(a.to(torch.int64) if isinstance(a, Tensor) and a.dtype in WIDE else a for a in args), **kwargs)
        return result.to(dtype) if isinstance(result, Tensor) and result.dtype == torch.int64 else result

    return run  # type: ignore[return-value]


def device_of(like: Tensor | None) -> torch.device | None:
    """The device of ``like``, or the default one."""
    return None if like is None else like.device


def single(value: N | Sequence[N]) -> N:
    """The number, or the first of a list: an input that is a scalar may come as a tensor of one element."""
    return value if isinstance(value, int | float) else value[0]


def along(x: Tensor, axis: int, rank: int) -> Tensor:
    """A vector shaped to broadcast along ``axis`` of a tensor of ``rank``."""
    return x.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def normal_axes(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front. Raises ``IndexError`` for one out of range."""
    if any(not -rank <= axis < rank for axis in axes):
        raise IndexError(f"axes {list(axes)} of a tensor of rank {rank}")
    return [axis % rank for axis in axes]


def compute_dtype(x: Tensor) -> torch.dtype:
    """float32 for the half-width types, else the tensor's own."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
