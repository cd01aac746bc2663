"""Shape, constant and control-flow operators: those that need the builder and not just a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import fx, nn

from modelguard.errors import LimitError, ModelError
from modelguard_runtime.onnx import static
from modelguard_runtime.onnx.limits import MAX_LOOP_ITERATIONS
from modelguard_runtime.onnx.structure import describe
from modelguard_runtime.onnx.values import Const, Ints, Value, to_ints

if TYPE_CHECKING:
    from modelguard_runtime.onnx.builder import Builder
    from modelguard_runtime.onnx.scope import Scope

Lowering = Callable[..., Sequence[Value | None]]
Graphs = Mapping[str, onnx.GraphProto]
Inputs = list[Value | None]


def constant(
    builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs
) -> list[Value]:
    """Constant: one of several attributes holds the value."""
    if len(attributes) != 1:
        raise ModelError(describe(node), f"has {len(attributes)} attributes instead of one value", "the graph is malformed")
    ((name, value),) = attributes.items()
    match name:
        case "value" | "sparse_value" if isinstance(value, Const):
            return [value]
        case "value_float" | "value_floats":
            return [Const(torch.tensor(value, dtype=torch.float32))]
        case "value_int" | "value_ints":
            return [Const(torch.tensor(value, dtype=torch.int64))]
    raise ModelError(describe(node), f"holds a {name[:80]!r}, which cannot be run", "strings are not supported")


def shape(builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs) -> list[Value]:
    """Shape: one Python integer a dimension, read off the tensor when the graph runs."""
    value = _only(node, inputs)
    start, end = attributes.get("start", 0), attributes.get("end")
    if isinstance(value, Const):
        return [Const(torch.tensor(value.tensor.shape[start:end], dtype=torch.int64))]
    if isinstance(value, Ints):
        return [Const(torch.tensor(value.items.shape[start:end], dtype=torch.int64))]
    rank = builder.hints.rank(value)
    if rank is None:
        return [builder.call(_shape, (value, start, end), None, node.output[0])]
    axes = range(rank)[start:end]
    items = np.empty(len(axes), dtype=object)
    for i, axis in enumerate(axes):
        known = static.dimension(value, axis, rank)
        items[i] = builder.scalar(torch.Tensor.size, (value, axis)) if known is None else known
    return [Ints(items, torch.int64)]


def size(builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs) -> list[Value]:
    """Size: the number of elements."""
    value = _only(node, inputs)
    if isinstance(value, Const):
        return [Const(torch.tensor(value.tensor.numel()))]
    count = value.items.size if isinstance(value, Ints) else builder.scalar(torch.Tensor.numel, (value,))
    items = np.empty((), dtype=object)
    items[()] = count
    return [Ints(items, torch.int64)]


def identity(builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs) -> Inputs:
    """Identity: the very same value."""
    return [_only(node, inputs)]


def _only(node: onnx.NodeProto, inputs: Inputs) -> Value:
    if len(inputs) != 1 or inputs[0] is None:
        raise ModelError(describe(node), f"has {len(inputs)} inputs instead of one", "the graph is malformed")
    return inputs[0]


def _shape(x: torch.Tensor, start: int, end: int | None) -> torch.Tensor:
    """The shape of a tensor whose rank was not known at import."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


def branch(builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs) -> list[Value]:
    """If: a constant condition takes its branch into the graph; any other is asked when the graph runs."""
    condition = _only(node, inputs)
    known = _constant_condition(condition)
    if known is not None:
        return _inline(builder, scope, graphs["then_branch" if known else "else_branch"])
    bodies = [Body.build(builder, scope, graphs[name], []) for name in ("then_branch", "else_branch")]
    flag = condition.items.item() if isinstance(condition, Ints) and condition.items.size == 1 else builder.node(condition)
    modules = [builder.module(name, body.module) for name, body in zip(("then_branch", "else_branch"), bodies, strict=True)]
    result = builder.call(run_if, (flag, *modules, bodies[0].captures, bodies[1].captures), None, node.output[0])
    return _outputs(builder, node, result, bodies[0], [])


def loop(builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs) -> list[Value]:
    """Loop: a Python loop over the body's module, bounded by :data:`MAX_LOOP_ITERATIONS`."""
    trips, condition, state = inputs[0], inputs[1] if len(inputs) > 1 else None, inputs[2:]
    count = int(trips.tensor) if isinstance(trips, Const) else None
    body = Body.build(builder, scope, graphs["body"], [None, None, *state])
    endless = condition is None or _constant_condition(condition)
    if trips is None and endless and body.always:
        raise LimitError(describe(node), "is a loop without end", "the graph is malformed or hostile")
    if count is not None and count > MAX_LOOP_ITERATIONS and endless and body.always:
        raise LimitError(
            describe(node), f"loops {count} times where {MAX_LOOP_ITERATIONS} are allowed", "the graph is malformed or hostile"
        )
    limit = trips.items.item() if isinstance(trips, Ints) and trips.items.size == 1 else count
    if trips is not None and limit is None:
        limit = builder.call(to_ints, (builder.node(trips),))
    start = None if condition is None else builder.node(condition)
    module = builder.module("loop_body", body.module)
    scans = len(node.output) - len(state)
    args = (limit, start, module, [builder.node(v) for v in state if v is not None], body.captures, scans)
    result = builder.call(run_loop, args, {"like": builder.like()}, next((o for o in node.output if o), "loop"))
    return _outputs(builder, node, result, body, [1] * len(state))


def scan(builder: Builder, scope: Scope, node: onnx.NodeProto, inputs: Inputs, attributes: dict[str, Any], graphs: Graphs) -> list[Value]:
    """Scan: a Python loop over slices of the scanned inputs. Opset 8's leading batch axis is not supported."""
    count = attributes["num_scan_inputs"]
    states = len(inputs) - count
    batched = scope.opsets.get("", 9) < 9
    if batched:
        inputs, states = inputs[1:], states - 1
    body = Body.build(builder, scope, graphs["body"], [None] * len(inputs))
    module = builder.module("scan_body", body.module)
    args = (module, [builder.node(v) for v in inputs if v is not None], states, body.captures)
    kwargs = {"batched": batched}
    for name in ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions", "directions"):
        if name in attributes:
            kwargs["scan_input_directions" if name == "directions" else name] = attributes[name]
    result = builder.call(run_scan, args, kwargs, next((o for o in node.output if o), "scan"))
    return _outputs(builder, node, result, body, [])


LOWERINGS: dict[str, Lowering] = {
    "Constant": constant, "Shape": shape, "Size": size, "Identity": identity, "If": branch, "Loop": loop, "Scan": scan,
}  # fmt: skip


class Body:
    """A subgraph built as a module. ``captures`` are the values it takes from outside, in the order its module expects them after its
    own inputs; ``always`` says that the first thing it returns is constant true, or the condition it was given."""

    def __init__(self, module: fx.GraphModule, captures: list[fx.Node], hints: list[Any], always: bool) -> None:
        self.module = module
        self.captures = captures
        self.hints = hints
        self.always = always

    @classmethod
    def build(cls, builder: Builder, scope: Scope, graph: onnx.GraphProto, inputs: Sequence[Value | None]) -> Body:
        from modelguard_runtime.onnx.builder import Builder as Inner
        from modelguard_runtime.onnx.scope import Scope as InnerScope

        inner = Inner(builder.context, builder)
        inner_scope = InnerScope(inner, scope)
        if len(graph.input) != len(inputs):
            raise ModelError(
                f"subgraph {graph.name[:80]!r}", f"has {len(graph.input)} inputs where {len(inputs)} are given", "the graph is malformed"
            )
        for info, outer in zip(graph.input, inputs, strict=True):
            place = inner.placeholder(info.name, None, None)
            if isinstance(outer, fx.Node):
                builder.hints.copy(outer, place)
            elif isinstance(outer, Const):
                builder.hints.constant(place, outer.tensor)
            inner_scope.define(info.name, place)
        condition = inner_scope.values.get(graph.input[1].name) if len(graph.input) > 1 else None
        results = inner.run_graph(graph, inner_scope, {i.name for i in graph.input})
        always = bool(results) and (results[0] is condition or _constant_condition(results[0]) is True)
        nodes = [inner.node(value) for value in results]
        hints = [builder.hints.known.get(n) for n in nodes]
        # Captures become inputs in the order they were met; inputs come before every other node.
        anchor = next((n for n in inner.graph.nodes if n.op != "placeholder"), None)
        if anchor is not None:
            for place in inner.captured.values():
                anchor.prepend(place)
        return cls(inner.finish(nodes), list(inner.captured), hints, always)


def _constant_condition(value: Value | None) -> bool | None:
    if isinstance(value, Const) and value.tensor.numel() == 1:
        return bool(value.tensor)
    if isinstance(value, Ints) and value.items.size == 1 and not isinstance(value.items.item(), fx.Node):
        return bool(value.items.item())
    return None


def _inline(builder: Builder, scope: Scope, graph: onnx.GraphProto) -> list[Value]:
    from modelguard_runtime.onnx.scope import Scope as InnerScope

    return builder.run_graph(graph, InnerScope(builder, scope), {i.name for i in graph.input})


def _outputs(builder: Builder, node: onnx.NodeProto, result: fx.Node, body: Body, state: list[int]) -> list[Value]:
    """One fx node for each output; an If's outputs have the shapes of its first branch, a loop's state those it starts with."""
    from modelguard_runtime.onnx.builder import _item

    outputs: list[Value] = []
    offset = 1 if state else 0
    for index, name in enumerate(node.output):
        item = builder.call(_item, (result, index), None, name or None)
        hints = body.hints[index + offset] if index + offset < len(body.hints) else None
        if hints is not None and item not in builder.hints.known and (node.op_type == "If" or index < len(state)):
            builder.hints.set(item, *hints)
        outputs.append(item)
    return outputs


_iterations: ContextVar[int | None] = ContextVar("iterations", default=None)


def run_if(condition: Any, then_branch: nn.Module, else_branch: nn.Module, then_args: list[Any], else_args: list[Any]) -> tuple[Any, ...]:
    """Run one of two modules."""
    result: tuple[Any, ...] = then_branch(*then_args) if bool(condition) else else_branch(*else_args)
    return result


class _Budget:
    """Counts iterations of a loop and of all loops inside it against one bound."""

    def __enter__(self) -> _Budget:
        self.outermost = _iterations.get() is None
        if self.outermost:
            _iterations.set(MAX_LOOP_ITERATIONS)
        return self

    def spend(self) -> None:
        left = (_iterations.get() or 0) - 1
        _iterations.set(left)
        if left < 0:
            raise LimitError("loop", f"runs past {MAX_LOOP_ITERATIONS} iterations", "the graph is malformed or hostile")

    def __exit__(self, *_: object) -> None:
        if self.outermost:
            _iterations.set(None)


def run_loop(
    trips: Any, condition: Any, body: nn.Module, state: list[Any], captures: list[Any], scans: int, *, like: torch.Tensor | None = None
) -> tuple[Any, ...]:
    """Run ``body(iteration, condition, *state, *captures) -> (condition, *state, *scanned)``; returns state and stacked scans.

    What is scanned in a loop that makes no turn is empty and of rank 1: its element shape was never seen.
    """
    device = None if like is None else like.device
    trips = None if trips is None else int(trips[0] if isinstance(trips, list) else trips)
    running = True if condition is None else bool(condition)
    flag = torch.tensor(running, device=device)
    scanned: list[list[Any]] = [[] for _ in range(scans)]
    iteration, states = 0, len(state)
    with _Budget() as budget:
        while running and (trips is None or iteration < trips):
            budget.spend()
            flag, *results = body(torch.tensor(iteration, device=device), flag, *state, *captures)
            state = results[:states]
            for collected, value in zip(scanned, results[states:], strict=False):
                collected.append(value)
            running = bool(flag)
            iteration += 1
    return (*state, *(torch.stack(collected) if collected else torch.zeros(0, device=device) for collected in scanned))


def run_scan(
    body: nn.Module,
    inputs: list[torch.Tensor],
    states: int,
    captures: list[Any],
    *,
    batched: bool = False,
    scan_input_axes: Sequence[int] = (),
    scan_input_directions: Sequence[int] = (),
    scan_output_axes: Sequence[int] = (),
    scan_output_directions: Sequence[int] = (),
) -> tuple[torch.Tensor, ...]:
    """Run ``body(*state, *slices, *captures) -> (*state, *scanned)`` over slices of the inputs after the first ``states``."""
    if batched:  # opset 8: everything has a leading batch axis, and each sample is scanned alone
        rows = [
            run_scan(body, [x[b] for x in inputs], states, captures, scan_input_directions=scan_input_directions)
            for b in range(inputs[0].shape[0])
        ]
        return tuple(torch.stack(values) for values in zip(*rows, strict=True))
    state, scanned = list(inputs[:states]), list(inputs[states:])
    axes = list(scan_input_axes) or [0] * len(scanned)
    backward = list(scan_input_directions) or [0] * len(scanned)
    slices = [x.unbind(axis)[::-1] if back else x.unbind(axis) for x, axis, back in zip(scanned, axes, backward, strict=True)]
    collected: list[list[torch.Tensor]] = []
    with _Budget() as budget:
        for step in zip(*slices, strict=True):
            budget.spend()
            results = body(*state, *step, *captures)
            state, made = list(results[:states]), results[states:]
            collected = collected or [[] for _ in made]
            for values, value in zip(collected, made, strict=True):
                values.append(value)
    out_axes = list(scan_output_axes) or [0] * len(collected)
    out_back = list(scan_output_directions) or [0] * len(collected)
    stacked = [torch.stack(v[::-1] if back else v, axis) for v, axis, back in zip(collected, out_axes, out_back, strict=True)]
    return (*state, *stacked)
