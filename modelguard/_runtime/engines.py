"""Running a torch module from its own input to its own output, with named places to capture, patch and cut.

Two engines do the same five things: :class:`GraphEngine` for a ``torch.fx.GraphModule`` (what an ONNX file becomes), by rewriting
the graph; :class:`ModuleEngine` for any other ``nn.Module``, with forward hooks. Both work in the domain of the graph itself;
:class:`~modelguard._runtime.torch_model.TorchModel` adds the raw input domain and the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from modelguard._runtime.layers import Place, module_kind, node_kind, to_layers
from modelguard.errors import ModelError
from modelguard.model import Layer

Tensor = torch.Tensor
Edit = Callable[[Tensor], Tensor]
Blank = Callable[[int, Tensor | None, int], Tensor]
Cut = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

PROBES = 3
"""Batch size of the run that finds the layers: a size that few inner dimensions have, so that a batch axis can be told."""


class Engine(ABC):
    """A frozen module behind one signature: graph input tensor -> graph output tensor.

    ``blank(n, activation, seed)`` makes a random graph input of batch size ``n``: to probe with, and for the parts of a back half
    that ask for the input's shape (``activation`` tells its free dimensions).
    """

    blank: Blank
    module: nn.Module
    layers: tuple[Layer, ...]

    @abstractmethod
    def run(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def capture(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...

    @abstractmethod
    def patch(self, x: Tensor, edits: Mapping[str, Edit]) -> Tensor: ...

    @abstractmethod
    def split(self, name: str) -> Cut: ...

    def move(self, device: torch.device) -> None:
        """Move the module, in place."""
        self.module.to(device)

    def require(self, names: Sequence[str]) -> None:
        """Raise :class:`ModelError` naming the first of ``names`` that is no layer."""
        known = {layer.name for layer in self.layers}
        for name in names:
            if name not in known:
                raise ModelError(f"layer {name}", "the model has no such layer", "see `modelguard model` for the layers it has")

    def check_cut(self, name: str, front: Callable[[Tensor], Tensor], back: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Raise :class:`ModelError` unless ``back`` depends on the input only through the activation at ``name``.

        With the activation held, two different inputs must give the same output: a path around the layer would show.
        """
        with torch.no_grad():
            first, second = self.blank(2, None, 0), self.blank(2, None, 1)
            activation = front(first)
            held, other, whole = back(activation, first), back(activation, second), self.run(first)
        if not torch.allclose(held, other, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ModelError(f"layer {name}", "is no cut: another path leads around it", "cut at the end of its block instead")
        if not torch.allclose(held, whole, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ModelError(f"layer {name}", "the two halves do not make the whole", "cut at another layer")


class ModuleEngine(Engine):
    """Any ``nn.Module``, through forward hooks.

    ``call(module, x)`` returns the output tensor. A module called more than once in a forward pass has one layer a call:
    ``relu``, ``relu#2`` and so on. The cut of a module that ``torch.fx`` can trace is made on the graph; otherwise the back half
    runs the whole module on a blank input with the layer's output replaced, which costs the front half a second time.
    """

    def __init__(self, module: nn.Module, blank: Blank, call: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        self.module = freeze(module)
        self.blank = blank
        self.head: str | None = None
        self._traceable = call is None
        self._call = call if call is not None else _plain_call
        for part in module.modules():
            # An in-place activation would overwrite what was captured of the layer before it.
            if getattr(part, "inplace", None) is True:
                part.inplace = False  # type: ignore[assignment]
        self._modules = dict(module.named_modules())
        self.layers = to_layers(self._probe())

    def run(self, x: Tensor) -> Tensor:
        return self._call(self.module, x)

    def _probe(self) -> list[Place]:
        """One forward pass that notes every module's output, and undoes a softmax or sigmoid module at the very end."""
        places: list[Place] = []
        last: dict[str, Any] = {}
        calls: dict[str, int] = {}
        handles = []

        def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                calls[name] = calls.get(name, 0) + 1
                value = first_tensor(output)
                if value is None:
                    return
                last.update(module=module, output=value)
                kind = module_kind(self.module, name, module)
                if kind is not None and value.ndim > 1 and value.shape[0] == PROBES:
                    places.append(Place(label(name, calls[name]), kind, tuple(value.shape[1:])))

            return hook

        for name, module in self._modules.items():
            if name and not any(True for _ in module.children()):
                handles.append(module.register_forward_hook(note(name)))
        for name, module in self._modules.items():
            if name and any(True for _ in module.children()):
                handles.append(module.register_forward_hook(note(name)))
        try:
            with torch.no_grad():
                output = self.run(self.blank(PROBES, None, 0))
        finally:
            for handle in handles:
                handle.remove()
        final = next((name for name, module in self._modules.items() if module is last.get("module")), None)
        head = HEADS.get(type(last.get("module")))
        if head is not None and last["output"] is output and final is not None and calls[final] == 1:
            self.head = head
            last["module"].register_forward_hook(_undo_head)
            places = [place for place in places if place.name != final]
        return places

    @contextmanager
    def _tapped(self, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """While active, each tapped layer's output is what its function makes of it."""
        calls: dict[str, int] = {}
        handles = []

        def tap(name: str) -> Callable[[nn.Module, Any, Any], Any]:
            def hook(module: nn.Module, args: Any, output: Any) -> Any:
                calls[name] = calls.get(name, 0) + 1
                function = taps.get(label(name, calls[name]))
                return None if function is None else replace_first_tensor(output, function)

            return hook

        for name in sorted({layer.partition("#")[0] for layer in taps}):
            handles.append(self._modules[name].register_forward_hook(tap(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def capture(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.require(names)
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[Tensor], Tensor]:
            def tap(value: Tensor) -> Tensor:
                found[name] = value
                return value.clone()  # what comes after may write in place

            return tap

        with self._tapped({name: keep(name) for name in names}):
            output = self.run(x)
        return output, {name: found[name] for name in names}

    def patch(self, x: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        self.require(list(edits))
        with self._tapped(edits):
            return self.run(x)

    def split(self, name: str) -> Cut:
        self.require([name])
        if self._traceable and "#" not in name:
            graph = _trace(self.module, self._modules[name])
            if graph is not None:
                node = next((node for node in graph.graph.nodes if node.op == "call_module" and node.target == name), None)
                if node is not None:
                    return split_graph(self, name, graph, node)

        def front(x: Tensor) -> Tensor:
            def stop(value: Tensor) -> Tensor:
                raise _Reached(value)

            try:
                with self._tapped({name: stop}):
                    self.run(x)
            except _Reached as reached:
                return reached.value
            raise ModelError(f"layer {name}", "was not reached by this input", "cut at another layer")

        def rest(activation: Tensor, x: Tensor) -> Tensor:
            with self._tapped({name: lambda _: activation}):
                return self.run(x)

        self.check_cut(name, front, rest)
        return front, lambda activation: rest(activation, self.blank(activation.shape[0], activation, 0))


class GraphEngine(Engine):
    """A ``torch.fx.GraphModule`` with one input, through rewritten copies of its graph that share its parameters."""

    def __init__(self, module: fx.GraphModule, blank: Blank) -> None:
        self.module: fx.GraphModule = module
        freeze(module)
        self.blank = blank
        self._variants: dict[tuple[str, tuple[str, ...]], fx.GraphModule] = {}
        self._nodes: dict[str, fx.Node] = {}
        self.layers = to_layers(self._probe())

    def run(self, x: Tensor) -> Tensor:
        return _single(self.module(x))

    def _probe(self) -> list[Place]:
        shapes = _Shapes(self.module)
        with torch.no_grad():
            shapes.run(self.blank(PROBES, None, 0))
        places = []
        for node in self.module.graph.nodes:
            kind = node_kind(self.module, node)
            shape = shapes.found.get(node)
            if kind is not None and shape is not None and len(shape) > 1 and shape[0] == PROBES:
                name = str(node.meta.get("name", node.target if node.op == "call_module" else node.name))
                name = name if name not in self._nodes else node.name
                self._nodes[name] = node
                places.append(Place(name, kind, tuple(shape[1:])))
        return places

    def _variant(self, purpose: str, names: tuple[str, ...]) -> fx.GraphModule:
        """A copy of the graph that also returns (``capture``) or replaces (``patch``) the named activations."""
        key = (purpose, names)
        if key not in self._variants:
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
            self._variants[key] = fx.GraphModule(self.module, graph)
        return self._variants[key]

    def move(self, device: torch.device) -> None:
        super().move(device)
        self._variants.clear()  # they hold the old device's buffers

    def capture(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        self.require(names)
        output, values = self._variant("capture", tuple(names))(x)
        return _single(output), dict(zip(names, values, strict=True))

    def patch(self, x: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        self.require(list(edits))
        return _single(self._variant("patch", tuple(edits))(tuple(edits.values()), x))

    def split(self, name: str) -> Cut:
        self.require([name])
        return split_graph(self, name, self.module, self._nodes[name])


def split_graph(engine: Engine, name: str, module: fx.GraphModule, at: fx.Node) -> Cut:
    """The halves of a graph before and after node ``at``, sharing its parameters.

    The back half keeps the input only where something after the cut asks for its shape, and is then given a blank one.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda arg: copies[arg])
    graph.output(copies[at])
    front = _pruned(module, graph)

    graph = fx.Graph()
    copies = {}
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], lambda arg: copies[arg]))
        elif node is at:
            copies[node] = graph.placeholder("activation")
        else:
            copies[node] = graph.node_copy(node, lambda arg: copies[arg])
    back = _pruned(module, graph)
    needs_input = bool(next(node for node in back.graph.nodes if node.op == "placeholder").users)

    engine.check_cut(name, front, lambda activation, x: _single(back(x, activation)))

    def rest(activation: Tensor) -> Tensor:
        x = engine.blank(activation.shape[0], activation, 0) if needs_input else None
        return _single(back(x, activation))

    return front, rest


def _pruned(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """The graph over ``module``'s parameters, without the nodes its output does not need."""
    result = fx.GraphModule(module, graph)
    result.graph.eliminate_dead_code()
    result.recompile()
    return result


HEADS: Mapping[type, str] = {nn.Softmax: "softmax", nn.LogSoftmax: "log-softmax", nn.Sigmoid: "sigmoid"}


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode (batch-norm uses its running statistics) and no gradients for parameters."""
    return module.eval().requires_grad_(False)


def label(name: str, call: int) -> str:
    """The layer name of a module's ``call``-th call in one forward pass."""
    return name if call == 1 else f"{name}#{call}"


def first_tensor(output: Any) -> Tensor | None:
    """A module's main output: itself, or the first tensor of a tuple or of a transformers model output."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)) and output:
        return first_tensor(output[0])
    return None


def replace_first_tensor(output: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The output with its main tensor replaced, of the same structure."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, Mapping):
        key = next(iter(output))
        output[key] = replace_first_tensor(output[key], function)  # type: ignore[index]
        return output
    return type(output)((replace_first_tensor(output[0], function), *output[1:]))


class _Reached(Exception):
    """Carries an activation out of a forward pass that need not go on."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


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


class _Tracer(fx.Tracer):
    """Traces with ``layer`` as a leaf, so that it is one node however much is inside."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is self._layer or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module, layer: nn.Module) -> fx.GraphModule | None:
    """``module`` as a graph in which ``layer`` is one node, or None when torch.fx cannot trace it (control flow on values)."""
    try:
        return fx.GraphModule(module, _Tracer(layer).trace(module))
    except Exception:  # fx raises whatever the traced code raises on a proxy
        return None


def _plain_call(module: nn.Module, x: Tensor) -> Tensor:
    return _single(module(x))


def _single(output: Any) -> Tensor:
    value = first_tensor(output)
    if value is None:
        raise ModelError("model", f"returns {type(output).__name__}, not a tensor", "wrap it so that it returns its logits")
    return value


def _edit(edits: Sequence[Edit], position: int, value: Tensor) -> Tensor:
    return edits[position](value)


def _undo_head(module: nn.Module, args: Any, output: Any) -> Any:
    return args[0]
