"""Writing one fx graph: placeholders, constants, calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from modelguard_runtime.onnx.graph.hints import Hints
from modelguard_runtime.onnx.graph.values import Const, Ints, Value, ints_to_tensor
from modelguard_runtime.onnx.limits import GraphLimits


@dataclass
class Shared:
    """What the builders of one model's graphs share. ``elements`` are the ONNX element types of nodes, where the graph tells them;
    ``folded`` counts the elements of the constants computed so far."""

    hints: Hints
    limits: GraphLimits
    parameters: dict[Const, nn.Parameter] = field(default_factory=dict)
    elements: dict[fx.Node, int] = field(default_factory=dict)
    folded: int = 0

    def element(self, value: Value | None) -> int:
        """The ONNX element type of a value, 0 where the graph does not tell."""
        return value.element if isinstance(value, Const) else self.elements.get(value, 0) if isinstance(value, fx.Node) else 0


class Builder:
    """Builds one fx graph: the model's, or the body of an If, Loop or Scan (``parent`` then builds the graph around it)."""

    def __init__(self, shared: Shared, parent: Builder | None = None) -> None:
        self.shared = shared
        self.parent = parent
        self.hints = shared.hints
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.captured: dict[fx.Node, fx.Node] = {}
        self.attributes: dict[str, Const] = {}
        self._constants: dict[Const, fx.Node] = {}
        self._scalars: dict[Any, fx.Node] = {}
        self._like: fx.Node | None = None

    def placeholder(self, name: str, shape: Sequence[tuple[int, int]] | None, dtype: torch.dtype | None) -> fx.Node:
        """A graph input; ``shape`` has each dimension under the two hints."""
        node = self.graph.placeholder(_identifier(name, self.graph))
        if shape is not None and dtype is not None:
            self.hints.set(node, *(torch.empty([d[k] for d in shape], dtype=dtype, device="meta") for k in (0, 1)))
        if self._like is None and dtype is not None:
            self._like = node
        return node

    def capture(self, value: Value) -> Value:
        """A value of the enclosing graph, for use in this one."""
        if isinstance(value, Const):
            return value
        if isinstance(value, Ints):
            items = np.frompyfunc(lambda item: self._capture(item) if isinstance(item, fx.Node) else item, 1, 1)(value.items)
            return Ints(np.asarray(items, dtype=object), value.dtype)
        return self._capture(value)

    def _capture(self, node: fx.Node) -> fx.Node:
        if node not in self.captured:
            self.captured[node] = self.graph.placeholder(_identifier(f"outer_{node.name}", self.graph))
            self.hints.copy(node, self.captured[node])
        return self.captured[node]

    def captures_first(self) -> list[fx.Node]:
        """The captured values of the enclosing graph, whose placeholders are put before every other node, in the order they were met."""
        anchor = next((node for node in self.graph.nodes if node.op != "placeholder"), None)
        if anchor is not None:
            for place in self.captured.values():
                anchor.prepend(place)
        return list(self.captured)

    def like(self) -> fx.Node | None:
        """A tensor whose device tells where new tensors are made."""
        if self._like is None and self.parent is not None:
            outer = self.parent.like()
            self._like = None if outer is None else self._capture(outer)
        return self._like

    def node(self, value: Value) -> fx.Node:
        """The value as an fx node that yields a tensor."""
        if isinstance(value, fx.Node):
            return value
        if isinstance(value, Ints):
            return self.call(ints_to_tensor, (value.items.tolist(), value.dtype, self.like()))
        if value not in self._constants:
            name = self._attribute_name(value.name or "constant")
            if value.weight and value.tensor.is_floating_point():
                parameter = self.shared.parameters.get(value)
                if parameter is None:
                    parameter = self.shared.parameters[value] = nn.Parameter(value.tensor, requires_grad=False)
                self.root.register_parameter(name, parameter)
            else:
                self.root.register_buffer(name, value.tensor)
            self.attributes[name] = value
            self._constants[value] = self.graph.get_attr(name)
            self.hints.constant(self._constants[value], value.tensor)
        return self._constants[value]

    def _attribute_name(self, name: str) -> str:
        base = re.sub(r"\W+", "_", name, flags=re.ASCII)[:80].strip("_")
        base = base if base and not base[0].isdigit() and not hasattr(nn.Module, base) else f"w_{base}"
        name, count = base, 1
        while hasattr(self.root, name):
            name, count = f"{base}_{count}", count + 1
        return name

    def module(self, name: str, module: nn.Module) -> fx.Node:
        """A submodule, as an fx node that yields it."""
        name = self._attribute_name(name)
        self.root.add_module(name, module)
        return self.graph.get_attr(name)

    def call(
        self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, name: str | None = None
    ) -> fx.Node:
        """One function call in the graph. Raises :class:`GraphLimitError` when its result would be too big."""
        node = self.graph.create_node("call_function", target, tuple(args), dict(kwargs or {}), name and name[:80])
        self.hints.infer(node)
        return node

    def scalar(self, target: Callable[..., Any], args: Sequence[Any]) -> fx.Node:
        """A function call that yields a Python number; the same call is made only once."""
        key = (target, tuple(args))
        if key not in self._scalars:
            self._scalars[key] = self.call(target, args)
        return self._scalars[key]

    def end(self, results: Sequence[Any]) -> None:
        """Let the graph return ``results`` as a tuple, drop what they do not need, and note the rank of each value where it is known."""
        self.graph.output(tuple(results))
        self.graph.eliminate_dead_code()
        for node in self.graph.nodes:
            node.meta["rank"] = self.hints.rank(node)


def _identifier(name: str, graph: fx.Graph) -> str:
    """A name that is safe as a Python parameter and not taken: placeholder names enter the generated code as they are."""
    return graph._graph_namespace.create_name("in_" + re.sub(r"\W+", "_", name, flags=re.ASCII)[:80], None)
