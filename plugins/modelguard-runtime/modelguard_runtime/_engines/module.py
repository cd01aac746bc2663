"""The engine of any ``nn.Module``: forward hooks, and a traced graph where torch.fx can make one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import fx, nn

from modelguard import ModelError
from modelguard_runtime._engines.base import PROBES, Blank, Cut, Edit, Engine, Tensor, first_tensor, freeze, single
from modelguard_runtime._engines.graph import split_graph
from modelguard_runtime._engines.layers import Place, module_kind, to_layers

HEADS: Mapping[type, str] = {nn.Softmax: "softmax", nn.LogSoftmax: "log-softmax", nn.Sigmoid: "sigmoid"}


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
        blank = self.blank(PROBES, None, 0)

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
                    if isinstance(module, nn.Embedding) and value.ndim == 3 and self.table is None and _same(args, blank):
                        self.table = label(name, calls[name])

            return hook

        for name, module in self._modules.items():
            if name and not any(True for _ in module.children()):
                handles.append(module.register_forward_hook(note(name)))
        for name, module in self._modules.items():
            if name and any(True for _ in module.children()):
                handles.append(module.register_forward_hook(note(name)))
        try:
            with torch.no_grad():
                output = self.run(blank)
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

    def rows(self) -> Tensor:
        module = self._modules[(self.table or "").partition("#")[0]]
        assert isinstance(module, nn.Embedding)
        with torch.no_grad():
            rows: Tensor = module(torch.arange(module.num_embeddings, device=module.weight.device))
        return rows

    @contextmanager
    def _tapped(self, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """While active, each tapped layer's output is what its function makes of it, in this thread."""
        calls: dict[str, int] = {}
        own = get_ident()
        handles = []

        def tap(name: str) -> Callable[[nn.Module, Any, Any], Any]:
            def hook(module: nn.Module, args: Any, output: Any) -> Any:
                if get_ident() != own:
                    return None
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


def _same(args: Any, ids: Tensor) -> bool:
    """Whether a module was called with these very token ids."""
    given = args[0] if args else None
    return (
        isinstance(given, Tensor) and not ids.is_floating_point() and given.shape == ids.shape and torch.equal(given, ids.to(given.dtype))
    )


def label(name: str, call: int) -> str:
    """The layer name of a module's ``call``-th call in one forward pass."""
    return name if call == 1 else f"{name}#{call}"


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
    return single(module(x))


def _undo_head(module: nn.Module, args: Any, output: Any) -> Any:
    return args[0]
