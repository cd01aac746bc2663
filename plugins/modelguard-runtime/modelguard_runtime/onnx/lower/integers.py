"""Shape arithmetic at import: operators over few integers are computed on Python numbers instead of tensors."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from modelguard_runtime.onnx.graph.builder import Builder
from modelguard_runtime.onnx.graph.values import Const, Ints, small_ints
from modelguard_runtime.onnx.lower.call import Call
from modelguard_runtime.onnx.tensors import DTYPES


def quotient(a: int, b: int) -> int:
    """Integer division that truncates towards zero, as ONNX's Div does."""
    return int(a // b) if (a < 0) == (b < 0) else -(-a // b)


def choose(condition: bool, a: Any, b: Any) -> Any:
    """``a if condition else b``, as a function a graph can call."""
    return a if condition else b


def remainder(a: int, b: int) -> int:
    """Mod with the divisor's sign (ONNX ``fmod=0``)."""
    return a % b


def both(a: bool, b: bool) -> bool:
    """Logical and."""
    return a and b


def either(a: bool, b: bool) -> bool:
    """Logical or."""
    return a or b


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": quotient, "Mod": remainder, "Min": min, "Max": max,
    "Equal": operator.eq, "Less": operator.lt, "Greater": operator.gt, "LessOrEqual": operator.le, "GreaterOrEqual": operator.ge,
    "And": both, "Or": either, "Not": operator.not_, "Neg": operator.neg, "Abs": abs, "Where": choose,
}  # fmt: skip
_BOOLEAN = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not"}

_INTEGER = (torch.int64, torch.int32, torch.bool)


def lower(call: Call) -> Ints | None:
    """The result of an operator over integers known one by one, or None when it has to be computed on tensors.

    At least one of the inputs is :class:`Ints`; the rest may be anything.
    """
    op_type, inputs, attributes, builder = call.op_type, call.inputs, call.attributes, call.builder
    items = [small_ints(value) for value in inputs]
    if not items or items[0] is None or any(i is None for i, v in zip(items, inputs, strict=True) if v is not None):
        return None
    arrays: list[npt.NDArray[Any]] = [i for i in items if i is not None]
    dtypes = [v.dtype if isinstance(v, Ints) else v.tensor.dtype for v in inputs if isinstance(v, Ints | Const)]
    try:
        if op_type in _ARITHMETIC:
            return _arithmetic(builder, op_type, arrays, dtypes)
        result = _movement(builder, op_type, arrays, attributes)
    except (ValueError, IndexError, TypeError):
        return None  # the tensor path raises the error, naming the node
    if result is None:
        return None
    if op_type == "Cast":
        dtype = DTYPES.get(attributes["to"])
        return Ints(result, dtype) if dtype in _INTEGER[:2] and dtypes[0] in _INTEGER[:2] else None
    return Ints(np.asarray(result, dtype=object), dtypes[0])


def _arithmetic(builder: Builder, op_type: str, arrays: list[npt.NDArray[Any]], dtypes: list[torch.dtype]) -> Ints:
    function = _ARITHMETIC[op_type]

    def apply(*args: Any) -> Any:
        if not any(isinstance(a, fx.Node) for a in args):
            return function(*args)
        if op_type in ("Mul", "Div") and isinstance(args[1], int) and args[1] == 1:
            return args[0]
        if op_type == "Mul" and isinstance(args[0], int) and args[0] == 1:
            return args[1]
        return builder.scalar(function, args)

    if op_type in ("Min", "Max"):
        result = functools.reduce(lambda a, b: np.frompyfunc(apply, 2, 1)(a, b), arrays)
    else:
        result = np.frompyfunc(apply, len(arrays), 1)(*arrays)
    dtype = torch.bool if op_type in _BOOLEAN else dtypes[-1]
    return Ints(np.asarray(result, dtype=object), dtype)


def _movement(builder: Builder, op_type: str, arrays: list[npt.NDArray[Any]], attributes: Mapping[str, Any]) -> Any:
    x = arrays[0]
    plain = [a for a in arrays[1:] if not any(isinstance(i, fx.Node) for i in a.flat)]
    if op_type == "Concat":
        return np.concatenate(arrays, attributes["axis"])
    if len(plain) != len(arrays) - 1:
        return None
    numbers = [np.asarray(a, dtype=np.int64) for a in plain]
    axes = attributes.get("axes") if len(numbers) == 0 else numbers[0].flatten().tolist()
    match op_type:
        case "Identity" | "Cast":
            return x
        case "Gather":
            return np.take(x, numbers[0], attributes.get("axis", 0))
        case "Squeeze":
            return np.squeeze(x, None if axes is None else tuple(axes))
        case "Unsqueeze":
            return np.expand_dims(x, tuple(axes)) if axes is not None else None
        case "Reshape":
            return x.reshape(numbers[0].tolist()) if 0 not in numbers[0] else None
        case "Transpose":
            return x.transpose(attributes.get("perm"))
        case "Slice":
            return _slice(x, numbers, attributes)
        case "ReduceProd" if attributes.get("keepdims", 1) == 0 and x.ndim == 1:
            return functools.reduce(lambda a, b: _times(builder, a, b), x.tolist(), 1)
    return None


def _times(builder: Builder, a: Any, b: Any) -> Any:
    return a * b if isinstance(a, int) and isinstance(b, int) else builder.scalar(operator.mul, (a, b))


def _slice(x: npt.NDArray[Any], numbers: Sequence[npt.NDArray[np.int64]], attributes: Mapping[str, Any]) -> npt.NDArray[Any]:
    starts, ends = numbers[:2] if numbers else (attributes["starts"], attributes["ends"])
    axes = numbers[2] if len(numbers) > 2 else attributes.get("axes") or range(len(starts))
    steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Backwards, an end before the first element means through it.
        stop = None if step < 0 and end < -x.shape[axis] else int(end)
        x = x[(slice(None),) * (int(axis) % x.ndim) + (slice(int(start), stop, int(step)),)]
    return x
