"""The engine of a ``torch.fx.GraphModule``: rewritten copies of its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from torch import fx

from modelguard_runtime._engines.base import PROBES, Blank, Cut, Edit, Engine, Tensor, freeze, single
from modelguard_runtime._engines.layers import Place, node_kind, to_layers

Runner = Callable[[fx.GraphModule], Callable[..., Any]]


class GraphEngine(Engine):
    """A ``torch.fx.GraphModule`` with one input, through rewritten copies of its graph that share its parameters."""

    def __init__(self, module: fx.GraphModule, blank: Blank, table: str | None = None) -> None:
        """``table`` is the name of the node that looks token ids up, where it is known."""
        self.module: fx.GraphModule = module
        freeze(module)
        self.blank = blank
        self._variants: dict[tuple[str, tuple[str, ...]], fx.GraphModule] = {}
        self._making = Lock()
        self._nodes: dict[str, fx.Node] = {}
        self.layers = to_layers(self._probe())
        # Of (N, T, D) alone a row is what one token is looked up as: a graph may lay all tokens of a batch out in a line.
        self.table = next(
            (item.name for item in self.layers if item.name == table and item.kind == "embedding" and len(item.shape) == 2), None
        )

    def run(self, x: Tensor) -> Tensor:
        return single(self.module(x))

    def rows(self) -> Tensor:
        data = self._nodes[self.table or ""].args[0]
        assert isinstance(data, fx.Node)
        rows: Any = self.module
        for part in str(data.target).split("."):
            rows = getattr(rows, part)
        return rows.detach().float()  # type: ignore[no-any-return]

    def _shapes(self, x: Tensor) -> Mapping[fx.Node, tuple[int, ...]]:
        """The shape of each node's floating-point value when the graph runs on ``x``."""
        shapes = _Shapes(self.module)
        shapes.run(x)
        return shapes.found

    def _probe(self) -> list[Place]:
        with torch.no_grad():
            shapes = self._shapes(self.blank(PROBES, None, 0))
        places = []
        for node in self.module.graph.nodes:
            kind = node_kind(self.module, node)
            shape = shapes.get(node)
            if kind is not None and shape is not None and len(shape) > 1 and shape[0] == PROBES:
                name = str(node.meta.get("name", node.target if node.op == "call_module" else node.name))
                name = name if name not in self._nodes else node.name
                self._nodes[name] = node
                places.append(Place(name, kind, tuple(shape[1:])))
        return places

    def _variant(self, purpose: str, names: tuple[str, ...]) -> fx.GraphModule:
        """A copy of the graph that also returns (``capture``) or replaces (``patch``) the named activations."""
        key = (purpose, names)
        with self._making:
            if key not in self._variants:
                self._variants[key] = self._made(purpose, names)
            return self._variants[key]

    def _made(self, purpose: str, names: tuple[str, ...]) -> fx.GraphModule:
        graph = fx.Graph()
        copies: dict[fx.Node, Any] = {}
        edits = graph.placeholder("edits") if purpose == "patch" else None
        wanted = {self._nodes[name]: position for position, name in enumerate(names)}
        output = None
        for node in self.module.graph.nodes:
            if node.op == "output":
                output = fx.node.map_arg(node.args[0], lambda arg: copies[arg])
                continue
            copies[node] = graph.node_copy(node, lambda arg: copies[arg])
            if edits is not None and node in wanted:
                copies[node] = graph.call_function(_edit, (edits, wanted[node], copies[node]))
        graph.output(output if edits is not None else (output, [copies[self._nodes[name]] for name in names]))
        return fx.GraphModule(self.module, graph)

    def move(self, device: torch.device) -> None:
        super().move(device)
        self._variants.clear()  # they hold the old device's buffers

    def capture(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.require(names)
        output, values = self._variant("capture", tuple(names))(x)
        return single(output), dict(zip(names, values, strict=True))

    def patch(self, x: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        self.require(list(edits))
        return single(self._variant("patch", tuple(edits))(tuple(edits.values()), x))

    def split(self, name: str) -> Cut:
        self.require([name])
        return split_graph(self, name, self.module, self._nodes[name])


def split_graph(engine: Engine, name: str, module: fx.GraphModule, at: fx.Node, runner: Runner | None = None) -> Cut:
    """The halves of a graph before and after node ``at``, sharing its parameters; ``runner`` says how a half is run
    where calling it does not.

    The back half keeps the input only where something after the cut asks for its shape, and is then given a blank one.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda arg: copies[arg])
    graph.output(copies[at])
    half = _pruned(module, graph)
    front = half if runner is None else runner(half)

    graph = fx.Graph()
    copies = {}
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], lambda arg: copies[arg]))
        elif node is at:
            copies[node] = graph.placeholder("activation")
        else:
            copies[node] = graph.node_copy(node, lambda arg: copies[arg])
    half = _pruned(module, graph)
    needs_input = bool(next(node for node in half.graph.nodes if node.op == "placeholder").users)
    back = half if runner is None else runner(half)

    engine.check_cut(name, front, lambda activation, x: single(back(x, activation)))

    def rest(activation: Tensor) -> Tensor:
        x = engine.blank(activation.shape[0], activation, 0) if needs_input else None
        return single(back(x, activation))

    return front, rest


def _pruned(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """The graph over ``module``'s parameters, without the nodes its output does not need."""
    result = fx.GraphModule(module, graph)
    result.graph.eliminate_dead_code()
    result.recompile()
    return result


class _Shapes(fx.Interpreter):
    """Notes the shape of every node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.found[n] = tuple(value.shape)
        return value


def _edit(edits: Sequence[Edit], position: int, value: Tensor) -> Tensor:
    return edits[position](value)
