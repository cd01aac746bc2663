"""Freeing the batch that an exporter fixed.

A model traced with a batch of one carries ``Reshape(x, [1, 512])`` where the module said ``x.flatten(1)``. Every value has two hinted
shapes, one with the traced batch and one with it :data:`~modelguard_runtime.onnx.graph.hints.FACTOR` times as large; the dimension that
differs is the one that follows the batch. From it the written-out dimension of a Reshape, Expand or Resize is put back, and a constant
that was repeated over the traced batch is repeated over the real one. Whether the result is right is then measured: the outputs for
several batches at once must be the outputs for each alone (:func:`verified`); where they are not, the graph stays as it was exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import onnx
import torch
from torch import fx

from modelguard_runtime.onnx.errors import raise_if_out_of_memory
from modelguard_runtime.onnx.graph.builder import Builder
from modelguard_runtime.onnx.graph.hints import FACTOR, Unknown
from modelguard_runtime.onnx.ops.table import Operator
from modelguard_runtime.onnx.tensors import ValueInfo, dtype_named

TOLERANCE = 1e-3
"""Largest difference between outputs of a batch and of its parts, relative to the largest output: well over what the order of
summation does in half precision, well under what mixing up two samples does."""


def declared(model: onnx.ModelProto) -> int | None:
    """The batch size the exporter fixed: the first input's leading dimension, when it is a number; else None."""
    stored = {i.name for i in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and len(dims):
            return int(dims[0].dim_value) if dims[0].dim_value >= 1 else None
    return None


def free(builder: Builder, op_type: str, operator: Operator, args: list[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operator's arguments with what was written out for the traced batch put back in terms of the real one."""
    if builder.hints.fixed is None:
        return args
    match op_type:
        case "Reshape" if len(args) > 1:
            args = [args[0], _reshape(builder, args[0], args[1], bool(kwargs.get("allowzero", 0))), *args[2:]]
        case "Expand" if len(args) > 1:
            args = [_one_row(builder, args[0], args[1]), _follow(builder, args[0], args[1]), *args[2:]]
        case "Resize" if len(args) > 3 and args[3] is not None and "axes" not in kwargs:
            args = [*args[:3], _follow(builder, args[0], args[3]), *args[4:]]
    return _repeat(builder, operator, args, kwargs)


def _carrier(builder: Builder, node: Any) -> tuple[int, tuple[int, ...]] | None:
    """The axis that follows the batch, with the shape under the first hint, when exactly one does."""
    shapes = builder.hints.shapes(node) if isinstance(node, fx.Node) else None
    if shapes is None or len(shapes[0]) != len(shapes[1]):
        return None
    axes = [axis for axis, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b]
    if len(axes) != 1 or shapes[1][axes[0]] != FACTOR * shapes[0][axes[0]]:
        return None
    return axes[0], shapes[0]


def _reshape(builder: Builder, x: Any, target: Any, allowzero: bool) -> Any:
    """The target with the batch put back: the axis with as many elements before it as the batch axis of ``x`` has."""
    found = _carrier(builder, x)
    if found is None or not isinstance(target, list) or any(isinstance(t, fx.Node) for t in target):
        return target
    axis, shape = found
    full: list[int] = [shape[i] if t == 0 and not allowzero and i < len(shape) else t for i, t in enumerate(target)]
    if full.count(-1) == 1 and 0 not in full:
        full = [prod(shape) // -prod(full) if t == -1 else t for t in full]
    if prod(full) != prod(shape) or not prod(shape):
        return target
    place = _place(full, shape, axis, builder.hints.fixed or 1)
    if place is None or target[place] == -1 or (target[place] == 0 and place == axis and not allowzero):
        return target
    size = builder.scalar(torch.Tensor.size, (x, axis))
    if full[place] != shape[axis]:
        size = builder.scalar(_scaled, (size, full[place], shape[axis]))
    # -1 stays where it is: the one axis left to infer has the traced size whatever the batch.
    return [size if i == place else t for i, t in enumerate(target)]


def _place(target: list[int], shape: tuple[int, ...], axis: int, traced: int) -> int | None:
    """Which dimension of a reshaped tensor the batch ends up in, or None.

    The elements keep their order, so it is one whose range of strides contains the batch's. With a traced batch of one several do;
    then, in this order: a dimension of just the batch; the first part of a dimension that is split (heads); the dimension that what
    lies before the batch was merged into (a flattened time axis); the dimension it begins.
    """
    before = prod(shape[:axis])
    merged = shape[axis] // traced  # what shares the batch's dimension already, on either side of it
    starts = [prod(target[:i]) for i in range(len(target) + 1)]
    holds = [
        i
        for i, size in enumerate(target)
        if size % traced == 0 and starts[i] <= before * merged and before * traced <= starts[i + 1] and before * merged % starts[i] == 0
    ]
    alone = [i for i in holds if target[i] == traced and starts[i] >= before]
    if alone:
        return alone[0]
    begun = [i for i in holds if starts[i] == before]
    following = shape[axis + 1] if axis + 1 < len(shape) else 1
    split = merged == 1 and begun and target[begun[0]] // traced < following
    inside = [i for i in holds if starts[i] < before]
    return next(iter(begun if split else inside + begun), None)


def _scaled(size: int, target: int, traced: int) -> int:
    """``target`` as it would have been written for a dimension of ``size`` instead of ``traced``."""
    return size * target // traced


def _follow(builder: Builder, x: Any, target: Any) -> Any:
    """The target shape with the batch axis of ``x`` (aligned from the right) in place of its traced size."""
    found = _carrier(builder, x)
    if found is None or not isinstance(target, list) or len(target) < len(found[1]):
        return target
    axis, shape = found
    place = len(target) - len(shape) + axis
    if target[place] != shape[axis] or isinstance(target[place], fx.Node):
        return target
    return [builder.scalar(torch.Tensor.size, (x, axis)) if i == place else t for i, t in enumerate(target)]


def _one_row(builder: Builder, x: Any, target: Any) -> Any:
    """One row of a constant that was repeated over the traced batch, where it is to be repeated over the real one."""
    shapes = builder.hints.shapes(x) if isinstance(x, fx.Node) and x.op == "get_attr" else None
    if shapes is None or not isinstance(target, list):
        return x
    for axis, size in enumerate(shapes[0]):
        wanted = target[len(target) - len(shapes[0]) + axis] if len(target) >= len(shapes[0]) else None
        if (
            size > 1
            and isinstance(wanted, fx.Node)
            and builder.hints.known.get(wanted) == (size, size * FACTOR)
            and _alike(builder, x, axis)
        ):
            return builder.call(_repeated, (x, axis, 1))
    return x


def _alike(builder: Builder, constant: fx.Node, axis: int) -> bool:
    """Whether all rows of the constant along ``axis`` are the same."""
    tensor = builder.attributes[str(constant.target)].tensor
    return bool((tensor == tensor.narrow(axis, 0, 1)).all())


def _repeat(builder: Builder, operator: Operator, args: list[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Constants that were repeated over the traced batch, where the operator does not take them beside the real one."""
    probe = fx.Graph()
    attempt = probe.call_function(operator.run, (), {})
    attempt._args, attempt._kwargs = tuple(args), dict(kwargs)  # hints are of the builder's nodes; a probe must not become their user
    try:
        builder.hints.of(args, 1)
    except Unknown:
        return args
    if builder.hints.run(attempt, 1) is not Unknown or builder.hints.run(attempt, 0) is Unknown:
        return args
    carriers = [(arg, found) for arg in args if (found := _carrier(builder, arg)) is not None]
    if not carriers:
        return args
    batched, (axis, shape) = carriers[0]
    replaced = []
    for arg in args:
        constant = isinstance(arg, fx.Node) and arg.op == "get_attr" and (hint := builder.hints.shapes(arg)) is not None and hint[0]
        place = len(constant) - len(shape) + axis if constant else -1  # aligned from the right, as broadcasting is
        if place >= 0 and constant and constant[place] == shape[axis] and _alike(builder, arg, place):
            arg = builder.call(_repeated, (arg, place, builder.scalar(torch.Tensor.size, (batched, axis))))
        replaced.append(arg)
    attempt._args = tuple(replaced)
    return replaced if builder.hints.run(attempt, 1) is not Unknown else args


def _repeated(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """A tensor whose rows along ``axis`` are all alike, with ``size`` of them."""
    return x.narrow(axis, 0, 1).expand(*x.shape[:axis], size, *x.shape[axis + 1 :])


def verified(module: fx.GraphModule, inputs: Sequence[ValueInfo], fixed: int) -> bool:
    """Whether the module's outputs for three batches at once are its outputs for each of them, on random inputs."""
    generator = torch.Generator().manual_seed(0)
    parts: list[list[torch.Tensor]] = [[] for _ in range(3)]
    batched = []
    for info in inputs:
        if info.shape is None or not info.dtype or not all(isinstance(d, int) for d in info.shape):
            return False
        follows = bool(info.shape) and info.shape[0] == fixed
        batched.append(follows)
        shared = _random(info.shape, info.dtype, generator)
        for part in parts:
            part.append(_random(info.shape, info.dtype, generator) if follows else shared)
    together = [torch.cat(values) if follows else values[0] for follows, values in zip(batched, zip(*parts, strict=True), strict=True)]
    try:
        with torch.no_grad():
            whole = module(*together)
            each = [module(*part) for part in parts]
        return all(_same(output, rows) for output, rows in zip(whole, zip(*each, strict=True), strict=True))
    except Exception as error:  # whatever else fails, the batch was not freed
        raise_if_out_of_memory(error)
        return False


def _random(shape: tuple[Any, ...], dtype: str, generator: torch.Generator) -> torch.Tensor:
    kind = dtype_named(dtype)
    if kind.is_floating_point:
        return torch.rand(shape, generator=generator).to(kind)
    return torch.randint(0, 2, shape, generator=generator).to(kind)


def _same(whole: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> bool:
    """Whether ``whole`` is the parts put together along its leading axis, or equal to each."""
    expected = torch.cat(parts) if whole.ndim and whole.shape[0] == 3 * parts[0].shape[0] else parts[0]
    if whole.shape != expected.shape or (expected is parts[0] and not all(torch.equal(p, expected) for p in parts)):
        return False
    a, b = whole.to(torch.float64), expected.to(torch.float64)
    scale = float(b.abs().max()) if b.numel() else 0.0
    return bool(torch.isfinite(a).all()) and float((a - b).abs().max() if b.numel() else 0.0) <= TOLERANCE * max(scale, 1e-6)
