"""Constant, Shape, Size and Identity: operators whose result is known at import, or is a matter of shapes alone."""

from __future__ import annotations

import numpy as np
import torch

from modelguard_runtime.onnx.errors import GraphError, UnsupportedError
from modelguard_runtime.onnx.graph.values import Const, Ints, Value
from modelguard_runtime.onnx.lower import static
from modelguard_runtime.onnx.lower.call import Call
from modelguard_runtime.onnx.structure import describe


def constant(call: Call) -> list[Value]:
    """Constant: one of several attributes holds the value."""
    if len(call.attributes) != 1:
        raise call.malformed(f"has {len(call.attributes)} attributes instead of one value")
    ((name, value),) = call.attributes.items()
    match name:
        case "value" | "sparse_value" if isinstance(value, Const):
            return [value]
        case "value_float" | "value_floats":
            return [Const(torch.tensor(value, dtype=torch.float32))]
        case "value_int" | "value_ints":
            return [Const(torch.tensor(value, dtype=torch.int64))]
    if name in ("value_string", "value_strings"):
        raise UnsupportedError(describe(call.node), "holds text, which is not supported")
    raise GraphError(describe(call.node), f"holds a {name[:80]!r}, which cannot be run")


def shape(call: Call) -> list[Value]:
    """Shape: one Python integer a dimension, read off the tensor when the graph runs."""
    value = call.only()
    start, end = call.attr("start", 0), call.attr("end")
    if isinstance(value, Const | Ints):
        known = value.tensor.shape if isinstance(value, Const) else value.items.shape
        return [Const(torch.tensor(known[start:end], dtype=torch.int64))]
    rank = call.builder.hints.rank(value)
    if rank is None:
        return [call.builder.call(_shape, (value, start, end), None, call.node.output[0])]
    axes = range(rank)[start:end]
    items = np.empty(len(axes), dtype=object)
    for i, axis in enumerate(axes):
        size = static.dimension(value, axis, rank)
        items[i] = call.builder.scalar(torch.Tensor.size, (value, axis)) if size is None else size
    return [Ints(items, torch.int64)]


def size(call: Call) -> list[Value]:
    """Size: the number of elements."""
    value = call.only()
    if isinstance(value, Const):
        return [Const(torch.tensor(value.tensor.numel()))]
    return [Ints.number(value.items.size if isinstance(value, Ints) else call.builder.scalar(torch.Tensor.numel, (value,)))]


def identity(call: Call) -> list[Value]:
    """Identity: the very same value."""
    return [call.only()]


def _shape(x: torch.Tensor, start: int, end: int | None) -> torch.Tensor:
    """The shape of a tensor whose rank was not known at import."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)
