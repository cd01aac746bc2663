"""Operators of the table: computed at once where their inputs are constants, else one call of their torch function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from modelguard_runtime.onnx.errors import HOSTILE, GraphLimitError, UnsupportedError
from modelguard_runtime.onnx.graph.values import Const, Ints, Value, item, to_ints
from modelguard_runtime.onnx.limits import MAX_ELEMENTS, check_elements
from modelguard_runtime.onnx.lower.call import Call
from modelguard_runtime.onnx.ops.table import Operator
from modelguard_runtime.onnx.rewrite import batch
from modelguard_runtime.onnx.structure import describe

MAX_LISTED = 1 << 16
"""Integers an input may list that an operator takes as Python numbers (a shape, axes, pads)."""

_VIEWS = ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten")
"""Operators whose result shares its input's memory: computing them costs nothing, whatever the size."""


def lower(call: Call, operator: Operator) -> Sequence[Value | None]:
    """The node's outputs. Raises :class:`UnsupportedError` for an attribute the function does not take."""
    extra: dict[str, Any] = {}
    if "outputs" in operator.parameters:
        extra["outputs"] = len(call.node.output)
    if operator.typed and len(call.inputs) > (place := operator.inputs.index(operator.typed)):
        extra["element"] = call.builder.shared.element(call.inputs[place])
    for name in call.attributes:
        if name not in operator.parameters:
            raise UnsupportedError(
                f"attribute {name[:80]!r} of operator {call.op_type}", f"is not supported; first used by {describe(call.node)}"
            )
    if not operator.variadic and len(call.inputs) > len(operator.inputs):
        raise call.malformed(f"has {len(call.inputs)} inputs, more than the operator")
    inputs = list(call.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    if operator.pure and all(value is None or isinstance(value, Const) for value in inputs):
        folded = _fold(call, operator, inputs, extra)
        if folded is not None:
            return folded
    return _emit(call, operator, inputs, extra)


def _emit(call: Call, operator: Operator, inputs: Sequence[Value | None], extra: dict[str, Any]) -> Sequence[Value | None]:
    builder = call.builder
    args = [_argument(call, operator, index, value) for index, value in enumerate(inputs)]
    kwargs = {n: builder.node(v) if isinstance(v, Const) else v for n, v in call.attributes.items()} | extra
    if "like" in operator.parameters:
        kwargs["like"] = builder.like()
    args = batch.free(builder, call.op_type, operator, args, kwargs)
    try:
        result = builder.call(operator.run, args, kwargs, call.label)
    except GraphLimitError as error:
        raise GraphLimitError(describe(call.node), error.cause, error.remedy) from None
    if not operator.many:
        return [result]
    return [builder.call(item, (result, index), None, name) if name else None for index, name in enumerate(call.node.output)]


def _argument(call: Call, operator: Operator, index: int, value: Value | None) -> Any:
    if value is None:
        return None
    name = operator.input(index)
    if name in operator.ints:
        if isinstance(value, Ints):
            return value.items.tolist()
        if isinstance(value, Const):
            if value.tensor.numel() > MAX_LISTED:
                raise GraphLimitError(f"input {name!r}", f"lists {value.tensor.numel()} integers where {MAX_LISTED} are allowed")
            return value.tensor.tolist()
        return call.builder.call(to_ints, (value,))
    if name in operator.scalars:
        if isinstance(value, Const) and value.tensor.ndim == 0 and value.tensor.dtype != torch.bool:
            return value.tensor.item()
        if isinstance(value, Ints) and value.items.ndim == 0:
            return value.items.item()
    return call.builder.node(value)


def _fold(call: Call, operator: Operator, inputs: Sequence[Value | None], extra: dict[str, Any]) -> Sequence[Value | None] | None:
    """The operator's results computed now, or None when they have to be computed each time the graph runs."""
    shared = call.builder.shared
    consts = [value for value in inputs if isinstance(value, Const)]
    sizes = shared.hints.sizes(operator, inputs, call.attributes, extra)
    largest = max((c.tensor.numel() for c in consts), default=0)
    budget = shared.limits.folded - shared.folded
    if any(size > max(4096, 2 * largest) and size > budget for size in sizes):
        check_elements(describe(call.node), (max(sizes),), budget)
    if sum(sizes) > budget and operator.name not in _VIEWS:
        return None
    args = [_plain(operator, index, value) for index, value in enumerate(inputs)]
    kwargs = {n: v.tensor if isinstance(v, Const) else v for n, v in call.attributes.items()} | extra
    with torch.no_grad():
        result = operator.run(*args, **kwargs)
    results = result if operator.many else (result,)
    if not all(r is None or isinstance(r, torch.Tensor) for r in results):
        return None
    storages = {c.tensor.untyped_storage().data_ptr() for c in consts}
    shared.folded += sum(r.numel() for r in results if r is not None and r.untyped_storage().data_ptr() not in storages)
    if shared.folded > max(shared.limits.folded, MAX_ELEMENTS >> 1):
        raise GraphLimitError(describe(call.node), "brings the constants computed at import past the limit", HOSTILE)
    is_weight = any(c.weight for c in consts)
    source = consts[0].name if len(consts) == 1 and operator.name == "Identity" else ""
    return [None if r is None else Const(r, source, is_weight) for r in results]


def _plain(operator: Operator, index: int, value: Value | None) -> Any:
    """A constant as the function takes it while it is computed at import."""
    if not isinstance(value, Const):
        return None
    name = operator.input(index)
    if name in operator.ints:
        return value.tensor.tolist()
    # The first input stays a tensor, so that the result is one.
    number = name in operator.scalars and value.tensor.ndim == 0 and value.tensor.dtype != torch.bool and index > 0
    return value.tensor.item() if number else value.tensor
