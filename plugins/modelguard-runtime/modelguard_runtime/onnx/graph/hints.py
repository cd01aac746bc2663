"""Shapes of what the graph computes, found by running each step on torch's meta device with the declared input shapes.

There are two hints a value: one with the declared sizes, and one where the batch alone is :data:`FACTOR` times as large (only when the
exporter fixed the batch; see ``batch.py``). A value without a hint is one whose shape depends on data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from modelguard_runtime.onnx.errors import GraphLimitError
from modelguard_runtime.onnx.graph.values import Const
from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.table import Operator
from modelguard_runtime.onnx.tensors import ValueInfo

FACTOR = 5
"""How much larger the batch is in the second hint."""


class Unknown(Exception):
    """A value has no hint."""


class Hints:
    """The two hints of every fx node that has them. ``fixed`` is the batch size the exporter baked in, or None."""

    def __init__(self, fixed: int | None) -> None:
        self.fixed = fixed
        self.known: dict[fx.Node, tuple[Any, Any]] = {}

    def set(self, node: fx.Node, first: Any, second: Any) -> None:
        self.known[node] = (first, second)

    def copy(self, source: fx.Node, target: fx.Node) -> None:
        if source in self.known:
            self.known[target] = self.known[source]

    def constant(self, node: fx.Node, tensor: torch.Tensor) -> None:
        self.known[node] = (tensor.to("meta"),) * 2

    def of(self, value: Any, which: int = 0) -> Any:
        """The hint of an argument (nodes in lists included). Raises :class:`Unknown`."""
        return fx.map_arg(value, lambda node: self._get(node, which))

    def _get(self, node: fx.Node, which: int) -> Any:
        if node not in self.known:
            raise Unknown
        hint = self.known[node][which]
        if hint is Unknown:
            raise Unknown
        return hint

    def shapes(self, value: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Shape of a tensor node under both hints, or None."""
        try:
            first, second = self.of(value, 0), self.of(value, 1)
        except Unknown:
            return None
        return (tuple(first.shape), tuple(second.shape)) if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor) else None

    def rank(self, value: Any) -> int | None:
        """Rank of a tensor node, or None when it is not known."""
        try:
            first = self.of(value)
        except Unknown:
            return None
        return first.ndim if isinstance(first, torch.Tensor) else None

    def infer(self, node: fx.Node) -> None:
        """Run the node's function on the hints of its arguments. Raises :class:`GraphLimitError` when the result is too big."""
        first = self.run(node, 0)
        second = first if self.fixed is None else self.run(node, 1)
        if first is not Unknown or second is not Unknown:
            self.known[node] = (first, second)

    def run(self, node: fx.Node, which: int) -> Any:
        """One hint of the node, or :class:`Unknown`."""
        try:
            args, kwargs = self.of(node.args, which), self.of(node.kwargs, which)
            with torch.no_grad():
                result = node.target(*args, **kwargs)  # type: ignore[operator]
        except GraphLimitError:
            raise
        except Exception:  # whatever a shape cannot tell is left to the run
            return Unknown
        check_sizes(node.name, result)
        return result

    def sizes(self, operator: Operator, inputs: Sequence[Any], attributes: Mapping[str, Any], extra: Mapping[str, Any]) -> list[int]:
        """Element counts of an operator's results over constants, without computing them; empty when only computing tells.

        Raises :class:`GraphLimitError` where the function itself refuses what it is asked for.
        """
        args = []
        for index, value in enumerate(inputs):
            tensor = value.tensor if isinstance(value, Const) else None
            args.append(tensor if tensor is None else tensor.tolist() if operator.input(index) in operator.ints else tensor.to("meta"))
        kwargs = {n: v.tensor.to("meta") if isinstance(v, Const) else v for n, v in attributes.items()}
        if "like" in operator.parameters:
            kwargs["like"] = torch.empty(0, device="meta")
        try:
            with torch.no_grad():
                result = operator.run(*args, **kwargs, **extra)
        except GraphLimitError:
            raise
        except Exception:  # whatever a shape cannot tell is left to the run
            return []
        return [r.numel() for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, torch.Tensor)]


def check_sizes(name: str, result: Any) -> None:
    """Refuse results past the element limit."""
    for tensor in result if isinstance(result, tuple | list) else (result,):
        if isinstance(tensor, torch.Tensor):
            check_elements(f"value {name!r}", tensor.shape)


def declared_shapes(inputs: Sequence[ValueInfo]) -> list[list[tuple[int, int]] | None]:
    """Each input's shape under both hints; a dimension the graph leaves open gets a usual size, the same one for the same name."""
    first = next((i.shape[0] for i in inputs if i.shape), None)
    named: dict[str, int] = {}
    result: list[list[tuple[int, int]] | None] = []
    for info in inputs:
        if info.shape is None:
            result.append(None)
            continue
        shape = []
        for axis, dim in enumerate(info.shape):
            size = dim if isinstance(dim, int) else _usual(dim, axis, len(info.shape), named)
            baked = axis == 0 and isinstance(dim, int) and dim == first
            shape.append((size, size * FACTOR if baked else size))
        result.append(shape)
    return result


def _usual(dim: str | None, axis: int, rank: int, named: dict[str, int]) -> int:
    size = 2 if axis == 0 else 224 if rank in (4, 5) else 8
    if dim is None:
        return size
    if "+" in dim:  # torch.onnx names sums of dimensions, such as past + present
        parts = [p.strip() for p in dim.split("+")]
        return sum(int(p) if p.isdigit() else _usual(p, axis, rank, named) for p in parts if "+" not in p)
    return named.setdefault(dim, size)
