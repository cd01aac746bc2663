"""Putting back together what exporters take apart, so that the graph runs like the module it came from.

Each rule looks at the last node of a pattern. It takes the place of the whole pattern only if nothing else uses what lies between, so
that no value anyone could ask for disappears except the pattern's own intermediates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor, fx, nn

from modelguard_runtime.onnx.ops import activation, elementwise, linear, movement, norm
from modelguard_runtime.onnx.ops.table import TABLE

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (
    TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT4, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
)  # fmt: skip

Rule = Callable[[fx.Node, nn.Module], Any]
"""What replaces the node, as (function, args, kwargs), or None."""

_ERF = TABLE["", "Erf"][0].run
_SQRT = TABLE["", "Sqrt"][0].run
_RECIPROCAL = TABLE["", "Reciprocal"][0].run
_MEAN = TABLE["", "ReduceMean"][0].run
_IS_NAN = TABLE["", "IsNaN"][0].run


def linear_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight + bias`` for a weight (in, out)."""
    return F.linear(x, weight.t(), bias)


def attention(q: Tensor, k_transposed: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``softmax(q @ k_transposed * scale + mask) @ v``."""
    if mask is not None and mask.dtype is not q.dtype:
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k_transposed.mT, v, mask, scale=scale)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    """Group normalisation whose weight and bias are (C, 1, 1)."""
    return F.group_norm(x, groups, weight.flatten(), bias.flatten(), epsilon)


def _args(node: Any) -> tuple[Any, ...]:
    """The arguments of a node, untyped: what they are is what the rules find out."""
    args: tuple[Any, ...] = node.args
    return args


def _is(node: Any, target: Callable[..., Any]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def _inner(node: Any, target: Callable[..., Any]) -> bool:
    """A node of that function which only the pattern uses."""
    return _is(node, target) and len(node.users) == 1


def _constant(value: Any, root: nn.Module) -> Tensor | None:
    if isinstance(value, fx.Node) and value.op == "get_attr":
        tensor = getattr(root, str(value.target), None)
        return tensor if isinstance(tensor, Tensor) else None
    return None


def _number(value: Any, root: nn.Module) -> float | None:
    """A Python number, or a constant of one element."""
    if isinstance(value, int | float):
        return float(value)
    tensor = _constant(value, root)
    return float(tensor) if tensor is not None and tensor.numel() == 1 else None


def _with(node: fx.Node, root: nn.Module, value: float, tolerance: float = 1e-4) -> Any:
    """The operand beside a number close to ``value``; None when neither is."""
    a, b = _args(node)[:2]
    for operand, other in ((a, b), (b, a)):
        number = _number(operand, root)
        if number is not None and abs(number - value) <= tolerance * max(abs(value), 1e-6):
            return other
    return None


def _operands(node: fx.Node, target: Callable[..., Any]) -> tuple[fx.Node, Any] | None:
    """A binary node's operand of that function that only it uses, and the other operand."""
    a, b = _args(node)[:2]
    if _inner(a, target):
        return a, b
    return (b, a) if _inner(b, target) else None


def _linear(node: fx.Node, root: nn.Module) -> Any:
    if not _is(node, elementwise.add) or (found := _operands(node, linear.matmul)) is None:
        return None
    product, bias = found
    weight, offset = _constant(_args(product)[1], root), _constant(bias, root)
    if weight is None or offset is None or weight.ndim != 2 or offset.shape != weight.shape[1:]:
        return None
    return linear_layer, (_args(product)[0], _args(product)[1], bias), {}


def _gelu(node: fx.Node, root: nn.Module) -> Any:
    """0.5 x (1 + erf(x / sqrt 2)), multiplied in any order."""
    if not _is(node, elementwise.mul):
        return None
    factors: list[Any] = []
    half = False
    pending = list(_args(node)[:2])
    while pending:
        factor = pending.pop()
        number = _number(factor, root)
        if number is not None and abs(number - 0.5) < 1e-6 and not half:
            half = True
        elif _inner(factor, elementwise.mul) and len(factors) + len(pending) < 2:
            pending += _args(factor)[:2]
        else:
            factors.append(factor)
    if not half or len(factors) != 2:
        return None
    for one, x in (factors, factors[::-1]):
        if not _inner(one, elementwise.add) or not _inner(erf := _with(one, root, 1.0), _ERF):
            continue
        scaled = _args(erf)[0]
        if _inner(scaled, elementwise.div):
            number = _number(_args(scaled)[1], root)
            inside = _args(scaled)[0] if number is not None and abs(number - math.sqrt(2)) < 1e-4 else None
        else:
            inside = _with(scaled, root, math.sqrt(0.5)) if _inner(scaled, elementwise.mul) else None
        if inside is x:
            return F.gelu, (x,), {}
    return None


def _silu(node: fx.Node, root: nn.Module) -> Any:
    if not _is(node, elementwise.mul):
        return None
    for target, function in ((activation.sigmoid, F.silu), (activation.hard_sigmoid, F.hardswish)):
        found = _operands(node, target)
        if found is not None and found[0].args[0] is found[1]:
            alpha = found[0].kwargs.get("alpha", 0.2)
            if target is activation.sigmoid or (
                isinstance(alpha, float) and abs(alpha - 1 / 6) < 1e-6 and found[0].kwargs.get("beta", 0.5) == 0.5
            ):
                return function, (found[1],), {}
    return None


def _last_axis_mean(node: Any, users: int) -> Any:
    """What the node is the mean over the last axis of."""
    if not _is(node, _MEAN) or len(node.users) != users or not node.kwargs.get("keepdims", 1):
        return None
    axes = _args(node)[1] if len(_args(node)) > 1 else node.kwargs.get("axes")
    return _args(node)[0] if axes == [-1] else None


def _layer_norm(node: fx.Node, root: nn.Module) -> Any:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias."""
    if not _is(node, elementwise.add) or (found := _operands(node, elementwise.mul)) is None:
        return None
    product, bias = found
    if (found := _operands(product, elementwise.div)) is None:
        return None
    quotient, weight = found
    w, b = _constant(weight, root), _constant(bias, root)
    centred, root_var = _args(quotient)[:2]
    if w is None or b is None or w.ndim != 1 or b.shape != w.shape or not _inner(root_var, _SQRT) or not _is(centred, elementwise.sub):
        return None
    shifted = _args(root_var)[0]
    if not _inner(shifted, elementwise.add):
        return None
    epsilon = next((n for n in (_number(a, root) for a in _args(shifted)[:2]) if n is not None), None)
    square = _last_axis_mean(next((a for a in _args(shifted)[:2] if _is(a, _MEAN)), None), 1)
    x, mean = _args(centred)[:2]
    if epsilon is None or _last_axis_mean(mean, 1) is not x or not isinstance(square, fx.Node) or len(square.users) != 1:
        return None
    squared = (_is(square, elementwise.power) and _args(square)[0] is centred and _number(_args(square)[1], root) == 2.0) or (
        _is(square, elementwise.mul) and _args(square)[0] is centred and _args(square)[1] is centred
    )
    if not squared or len(centred.users) != 2:
        return None
    return F.layer_norm, (x, list(w.shape), weight, bias, epsilon), {}


def _scaled(value: Any, root: nn.Module) -> tuple[Any, float]:
    """A value and the number it is multiplied by, if the product is only the pattern's."""
    if isinstance(value, fx.Node) and _is(value, elementwise.mul):
        for operand, other in (_args(value)[:2], _args(value)[1::-1]):
            number = _number(operand, root)
            if number is not None and len(value.users) == 1:
                return other, number
    if _inner(value, elementwise.div) and (number := _number(_args(value)[1], root)):
        return _args(value)[0], 1 / number
    return value, 1.0


def _attention(node: fx.Node, root: nn.Module) -> Any:
    """softmax(q k^T * scale + mask) v over four axes, with or without a guard against rows that are masked throughout."""
    if not _is(node, linear.matmul) or not isinstance(_args(node)[0], fx.Node):
        return None
    weights, v = _args(node)[:2]
    if _inner(weights, elementwise.where):
        test, zero, kept = _args(weights)[:3]
        if not _inner(test, _IS_NAN) or _args(test)[0] is not kept or _number(zero, root) != 0.0 or len(kept.users) != 2:
            return None
        weights = kept
    elif len(weights.users) != 1:
        return None
    if not (_is(weights, activation.softmax) and weights.kwargs.get("axis", -1) in (-1, 3)):
        return None
    scores, mask = _args(weights)[0], None
    if _inner(scores, elementwise.add):
        found = _operands(scores, linear.matmul)
        if found is None:
            a, b = _args(scores)[:2]
            found = (a, b) if _inner(_scaled(a, root)[0], linear.matmul) else (b, a)
        scores, mask = found
        if not isinstance(mask, fx.Node) or (_constant(mask, root) is not None and _number(mask, root) is not None):
            return None
    if not isinstance(scores, fx.Node) or len(scores.users) != 1:
        return None
    product, scale = _scaled(scores, root)
    if not _inner(product, linear.matmul):
        return None
    (q, left), (k, right) = _scaled(_args(product)[0], root), _scaled(_args(product)[1], root)
    ranks = [n.meta.get("rank") if isinstance(n, fx.Node) else None for n in (q, k, v)]
    if ranks != [4, 4, 4] or (isinstance(mask, fx.Node) and mask.meta.get("rank") not in (2, 4)):
        return None
    return attention, (q, k, v, mask, left * right * scale), {}


def _group_norm(node: fx.Node, root: nn.Module) -> Any:
    """The legacy exporter's: reshape to (N, G, -1), instance norm, reshape back, weight, bias."""
    if not _is(node, elementwise.add) or (found := _operands(node, elementwise.mul)) is None:
        return None
    product, bias = found
    if (found := _operands(product, movement.reshape)) is None:
        return None
    back, weight = found
    instance = _args(back)[0]
    if not _inner(instance, norm.instance_normalization) or not _inner(split := _args(instance)[0], movement.reshape):
        return None
    x, shape = _args(split)[:2]
    ones, zeros = _constant(_args(instance)[1], root), _constant(_args(instance)[2], root)
    w, b = _constant(weight, root), _constant(bias, root)
    groups = shape[1] if isinstance(shape, list | tuple) and len(shape) == 3 else None
    if not isinstance(groups, int) or w is None or b is None or ones is None or zeros is None:
        return None
    if w.shape != b.shape or w.ndim < 2 or w.numel() != w.shape[0] or not bool((ones == 1).all()) or bool(zeros.any()):
        return None
    return group_norm, (x, weight, bias, groups, instance.kwargs.get("epsilon", 1e-5)), {}


def _rsqrt(node: fx.Node, root: nn.Module) -> Any:
    if _is(node, _RECIPROCAL) and _inner(_args(node)[0], _SQRT):
        return torch.rsqrt, (_args(_args(node)[0])[0],), {}
    if _is(node, elementwise.div) and _args(node)[0] == 1.0 and _inner(_args(node)[1], _SQRT):
        return torch.rsqrt, (_args(_args(node)[1])[0],), {}
    return None


def _through_integers(node: fx.Node, root: nn.Module) -> Any:
    """A cast to integers and back: how whole numbers are made without an operator for it. The integers stay for whoever else uses them."""
    if not _is(node, elementwise.cast) or not _is(whole := _args(node)[0], elementwise.cast):
        return None
    to, through = node.kwargs.get("to"), whole.kwargs.get("to")
    if to not in FLOATS or through not in INTEGERS:
        return None
    return elementwise.cast_through, (_args(whole)[0], through, to), {}


RULES: tuple[Rule, ...] = (_linear, _gelu, _silu, _layer_norm, _attention, _group_norm, _rsqrt, _through_integers)


def fuse(graph: fx.Graph, root: nn.Module, sources: MutableMapping[fx.Node, Any]) -> None:
    """Replace known patterns by torch's own functions, in place. ``node.meta["rank"]`` is the rank of a value where it is known;
    ``node.meta["op_type"]`` of what is put in is the name of the function, since the last node of the pattern says nothing of it."""
    for node in list(graph.nodes):
        for rule in RULES:
            found = rule(node, root) if node.op == "call_function" else None
            if found is None:
                continue
            target, args, kwargs = found
            with graph.inserting_before(node):
                fused = graph.create_node("call_function", target, args, kwargs, node.name)
            fused.meta.update(node.meta, op_type=target.__name__)
            node.replace_all_uses_with(fused)
            if node in sources:
                sources[fused] = sources.pop(node)
            graph.erase_node(node)
            break
    graph.eliminate_dead_code()
