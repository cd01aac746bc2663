"""Shape arithmetic at import: operators over few integers are computed on Python numbers instead of tensors."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from modelguard_runtime.onnx.types import DTYPES
from modelguard_runtime.onnx.values import ARITHMETIC, BOOLEAN, Const, Ints, Value, small_ints

if TYPE_CHECKING:
    from modelguard_runtime.onnx.builder import Builder

_INTEGER = (torch.int64, torch.int32, torch.bool)


def lower(builder: Builder, op_type: str, inputs: list[Value | None], attributes: dict[str, Any]) -> Ints | None:
    """The result of an operator over integers known one by one, or None when it has to be computed on tensors.

    At least one of ``inputs`` is :class:`Ints`; the rest may be anything.
    """
    items = [small_ints(value) for value in inputs]
    if not items or items[0] is None or any(i is None for i, v in zip(items, inputs, strict=True) if v is not None):
        return None
    arrays: list[npt.NDArray[Any]] = [i for i in items if i is not None]
    dtypes = [v.dtype if isinstance(v, Ints) else v.tensor.dtype for v in inputs if isinstance(v, Ints | Const)]
    try:
        if op_type in ARITHMETIC:
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
    function = ARITHMETIC[op_type]

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
    dtype = torch.bool if op_type in BOOLEAN else dtypes[-1]
    return Ints(np.asarray(result, dtype=object), dtype)


def _movement(builder: Builder, op_type: str, arrays: list[npt.NDArray[Any]], attributes: dict[str, Any]) -> Any:
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


def _slice(x: npt.NDArray[Any], numbers: list[npt.NDArray[np.int64]], attributes: dict[str, Any]) -> npt.NDArray[Any]:
    starts, ends = numbers[:2] if numbers else (attributes["starts"], attributes["ends"])
    axes = numbers[2] if len(numbers) > 2 else attributes.get("axes") or range(len(starts))
    steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Backwards, an end before the first element means through it.
        stop = None if step < 0 and end < -x.shape[axis] else int(end)
        x = x[(slice(None),) * (int(axis) % x.ndim) + (slice(int(start), stop, int(step)),)]
    return x
