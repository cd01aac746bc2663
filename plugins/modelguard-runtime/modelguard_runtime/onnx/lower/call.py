"""What a lowering is given: one node of the ONNX graph, and the torch graph it is to be written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx
import torch
from torch import fx

from modelguard_runtime.onnx.errors import MALFORMED, GraphError
from modelguard_runtime.onnx.graph.builder import Builder
from modelguard_runtime.onnx.graph.values import Const, Ints, Value
from modelguard_runtime.onnx.structure import describe


@dataclass(frozen=True, slots=True)
class Body:
    """A subgraph built as a module. ``captures`` are the values it takes from outside, in the order its module expects them after its
    own inputs; ``hints`` has those of its outputs; ``always`` says that the first thing it returns is constant true, or the condition it
    was given."""

    module: fx.GraphModule
    captures: list[fx.Node]
    hints: list[tuple[Any, Any] | None]
    always: bool


class Subgraph(Protocol):
    """A graph in a node's attribute, not built yet."""

    def inline(self) -> list[Value]:
        """Build it into the graph around it; returns its outputs."""

    def body(self, inputs: Sequence[Value | None]) -> Body:
        """Build it as a module of its own that takes as many inputs; what is known of them may be None."""


@dataclass(frozen=True, slots=True)
class Call:
    """One node. ``inputs`` are None where an optional one is left out; ``attributes`` hold Python values, and tensors as
    :class:`Const`; the graphs among the attributes are in ``subgraphs``."""

    node: onnx.NodeProto
    domain: str
    opset: int
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    subgraphs: Mapping[str, Subgraph]
    builder: Builder

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def label(self) -> str:
        """The name of the first output that has one, else the operator's."""
        return next((name for name in self.node.output if name), self.op_type)

    def input(self, place: int) -> Value | None:
        """The input at ``place``, None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def const(self, place: int) -> torch.Tensor | None:
        """The tensor of the input at ``place`` where it is known at import."""
        value = self.input(place)
        return value.tensor if isinstance(value, Const) else None

    def number(self, place: int) -> Any:
        """The one integer of the input at ``place``, as a Python number or the fx node that yields it; None where it is not known."""
        value = self.input(place)
        return value.items.item() if isinstance(value, Ints) and value.items.size == 1 else None

    def only(self) -> Value:
        """The node's single input. Raises :class:`GraphError` when it has another number of them."""
        if len(self.inputs) != 1 or self.inputs[0] is None:
            raise self.malformed(f"has {len(self.inputs)} inputs instead of one")
        return self.inputs[0]

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value, or ``default``."""
        return self.attributes.get(name, default)

    def malformed(self, cause: str) -> GraphError:
        """The error that says what is wrong with this node."""
        return GraphError(describe(self.node), cause, MALFORMED)


Lowering = Callable[[Call], Sequence[Value | None]]
"""Writes a node to the graph; returns its outputs, in order."""
