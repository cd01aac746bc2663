"""Dimensions that are the same whatever the input, found by following a value back to where a number was written down."""

from __future__ import annotations

from typing import Any

from torch import fx

from modelguard_runtime.onnx.ops import activation, elementwise, linear, movement, norm

_SAME = {
    activation.relu, activation.sigmoid, activation.tanh, activation.gelu, activation.softmax, activation.leaky_relu, elementwise.neg,
    elementwise.clip, elementwise.cast, norm.layer_normalization, norm.rms_normalization,
}  # fmt: skip
_BINARY = {elementwise.add, elementwise.sub, elementwise.mul, elementwise.div}


def dimension(node: Any, axis: int, rank: int, depth: int = 8) -> int | None:
    """The size of ``axis`` of a value of ``rank``, or None where it is not certain."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or depth == 0:
        return None
    if node.target is movement.reshape:
        target = node.args[1]
        size = target[axis] if isinstance(target, list | tuple) and len(target) == rank else None
        return size if isinstance(size, int) and size > 0 else None
    if node.target is movement.transpose:
        perm = node.kwargs.get("perm")
        return dimension(node.args[0], perm[axis], rank, depth - 1) if isinstance(perm, list | tuple) else None
    if node.target in _SAME:
        return dimension(node.args[0], axis, rank, depth - 1)
    if node.target in _BINARY:
        # A dimension over 1 of one operand is the result's: the other's is the same, or 1.
        sizes = [dimension(a, axis, rank, depth - 1) for a in node.args[:2] if isinstance(a, fx.Node) and a.op == "call_function"]
        return next((s for s in sizes if s is not None and s > 1), None) if len(sizes) == 1 else None
    if node.target is linear.matmul and axis == rank - 2:
        return dimension(node.args[0], axis, rank, depth - 1)
    return None
