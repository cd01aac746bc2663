"""The engine of a graph that takes a fixed number of inputs: any number of them, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from modelguard_runtime._engines.base import Blank, Cut, Edit, Tensor, single
from modelguard_runtime._engines.graph import GraphEngine, split_graph


class ChunkedEngine(GraphEngine):
    """A graph whose exporter fixed the batch to ``batch`` inputs."""

    def __init__(self, module: fx.GraphModule, blank: Blank, batch: int, table: str | None = None) -> None:
        self._batch = batch
        super().__init__(module, blank, table)

    def run(self, x: Tensor) -> Tensor:
        return single(InChunks(self.module, self._batch).run(x))

    def _shapes(self, x: Tensor) -> Mapping[fx.Node, tuple[int, ...]]:
        found: dict[fx.Node, tuple[int, ...]] = {}

        def note(node: fx.Node) -> Edit:
            def tap(value: Tensor) -> Tensor:
                if value.is_floating_point():
                    found[node] = tuple(value.shape)
                return value

            return tap

        InChunks(self.module, self._batch, {node: note(node) for node in self.module.graph.nodes}).run(x)
        return found

    def capture(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.require(names)
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Edit:
            def tap(value: Tensor) -> Tensor:
                found[name] = value
                return value

            return tap

        output = InChunks(self.module, self._batch, {self._nodes[name]: keep(name) for name in names}).run(x)
        return single(output), {name: found[name] for name in names}

    def patch(self, x: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        self.require(list(edits))
        return single(InChunks(self.module, self._batch, {self._nodes[name]: edit for name, edit in edits.items()}).run(x))

    def split(self, name: str) -> Cut:
        self.require([name])

        def runner(half: fx.GraphModule) -> Callable[..., Any]:
            return lambda *args: InChunks(half, self._batch).run(*args)  # a run of its own for each call, which may be side by side

        return split_graph(self, name, self.module, self._nodes[name], runner)


@dataclass(frozen=True, slots=True)
class Chunks:
    """A node's value for each chunk of the batch."""

    parts: tuple[Any, ...]


class InChunks(fx.Interpreter):
    """Runs a graph made for ``batch`` inputs node by node, over all chunks side by side, so that ``taps`` can see, and replace, what a
    node makes of the whole batch. The last chunk is filled up with copies of its last row, which are dropped again.
    """

    def __init__(self, module: fx.GraphModule, batch: int, taps: Mapping[fx.Node, Edit] | None = None) -> None:
        super().__init__(module)
        self._batch, self._taps, self._rows = batch, taps or {}, 0

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return fx.node.map_aggregate(args[0], self._join)
        if n.op == "placeholder":
            return self._cut(self.placeholder(str(n.target), args, kwargs))
        chunked = [value for value in map(self.env.get, n.all_input_nodes) if isinstance(value, Chunks)]
        run: Callable[..., Any] = getattr(self, n.op)
        if not chunked:
            return run(n.target, args, kwargs)

        def part(index: int) -> Any:
            def mine(value: Any) -> Any:
                return value.parts[index] if isinstance(value, Chunks) else value

            return run(n.target, fx.node.map_aggregate(args, mine), fx.node.map_aggregate(kwargs, mine))

        value = Chunks(tuple(part(index) for index in range(len(chunked[0].parts))))
        tap = self._taps.get(n)
        return value if tap is None or not self._batched(value) else self._cut(tap(self._join(value)))

    def _batched(self, value: Chunks) -> bool:
        return all(isinstance(part, Tensor) and part.ndim and part.shape[0] == self._batch for part in value.parts)

    def _cut(self, x: Any) -> Any:
        """(N, ...) as chunks of the fixed size."""
        if not isinstance(x, Tensor):
            return x
        self._rows = len(x)
        short = -len(x) % self._batch
        whole = torch.cat((x, x[-1:].expand(short, *x.shape[1:]))) if short else x
        return Chunks(torch.split(whole, self._batch))

    def _join(self, value: Any) -> Any:
        """Chunks as (N, ...), without what filled up the last of them."""
        return torch.cat(value.parts)[: self._rows] if isinstance(value, Chunks) else value
