"""What a name of the ONNX graph can stand for while the graph is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A tensor known at import. ``weight`` says that it is, or was computed from, an initializer; ``name`` is that initializer's;
    ``element`` its ONNX element type, where that is known (0: not)."""

    tensor: torch.Tensor
    name: str = ""
    weight: bool = False
    element: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ints:
    """An integer or boolean tensor of few elements, each a Python number or an fx node that yields one when the graph runs.

    This is what shape arithmetic works on: ``Shape -> Gather -> Mul -> Concat -> Reshape`` becomes ``x.reshape(x.size(0) * 12, 64)``,
    without a tensor in between.
    """

    items: npt.NDArray[Any]
    dtype: torch.dtype

    @classmethod
    def number(cls, item: Any, dtype: torch.dtype = torch.int64) -> Ints:
        """One item, of rank 0."""
        items = np.empty((), dtype=object)
        items[()] = item
        return cls(items, dtype)


Value = Const | Ints | fx.Node


def small_ints(value: Value | None) -> npt.NDArray[Any] | None:
    """The items of ``value`` if it is integer or boolean and has few enough elements to be computed with one by one."""
    if isinstance(value, Ints):
        return value.items
    if isinstance(value, Const) and value.tensor.numel() <= 64 and value.tensor.dtype in (torch.int64, torch.int32, torch.bool):
        return np.array(value.tensor.tolist(), dtype=object)
    return None


def truth(value: Value | None) -> bool | None:
    """A condition that is known at import; None for any other."""
    if isinstance(value, Const) and value.tensor.numel() == 1:
        return bool(value.tensor)
    if isinstance(value, Ints) and value.items.size == 1 and not isinstance(value.items.item(), fx.Node):
        return bool(value.items.item())
    return None


def to_ints(tensor: Any) -> Any:
    """A tensor of integers as Python integers (nested lists for its rank), or the number itself."""
    return tensor.tolist() if isinstance(tensor, torch.Tensor) else tensor


def ints_to_tensor(items: Any, dtype: torch.dtype, like: torch.Tensor | None) -> torch.Tensor:
    """Python integers as a tensor on the device of ``like``."""
    return torch.tensor(items, dtype=dtype, device=None if like is None else like.device)


def item(results: Sequence[Any], index: int) -> Any:
    """One output of an operator that has several."""
    return results[index]
