"""If, Loop and Scan: a subgraph becomes a module that a call of :mod:`~modelguard_runtime.onnx.lower.loops` runs."""

from __future__ import annotations

from typing import Any

from torch import fx

from modelguard_runtime.onnx.errors import HOSTILE, GraphLimitError
from modelguard_runtime.onnx.graph.values import Ints, Value, item, to_ints, truth
from modelguard_runtime.onnx.limits import MAX_LOOP_ITERATIONS
from modelguard_runtime.onnx.lower.call import Body, Call
from modelguard_runtime.onnx.lower.loops import run_if, run_loop, run_scan
from modelguard_runtime.onnx.structure import describe

_BRANCHES = ("then_branch", "else_branch")


def branch(call: Call) -> list[Value]:
    """If: a constant condition takes its branch into the graph; any other is asked when the graph runs."""
    condition = call.only()
    known = truth(condition)
    if known is not None:
        return call.subgraphs[_BRANCHES[0 if known else 1]].inline()
    builder = call.builder
    bodies = [call.subgraphs[name].body([]) for name in _BRANCHES]
    flag = condition.items.item() if isinstance(condition, Ints) and condition.items.size == 1 else builder.node(condition)
    modules = [builder.module(name, body.module) for name, body in zip(_BRANCHES, bodies, strict=True)]
    result = builder.call(run_if, (flag, *modules, bodies[0].captures, bodies[1].captures), None, call.node.output[0])
    return _outputs(call, result, bodies[0], carried=None)


def loop(call: Call) -> list[Value]:
    """Loop: a Python loop over the body's module, bounded by :data:`MAX_LOOP_ITERATIONS`."""
    builder = call.builder
    trips, condition, state = call.inputs[0], call.input(1), call.inputs[2:]
    fixed = call.const(0)
    count = None if fixed is None else int(fixed)
    body = call.subgraphs["body"].body([None, None, *state])
    endless = (condition is None or truth(condition)) and body.always
    if trips is None and endless:
        raise GraphLimitError(describe(call.node), "is a loop without end", HOSTILE)
    if count is not None and count > MAX_LOOP_ITERATIONS and endless:
        raise GraphLimitError(describe(call.node), f"loops {count} times where {MAX_LOOP_ITERATIONS} are allowed", HOSTILE)
    number = call.number(0)
    limit = count if number is None else number
    if trips is not None and limit is None:
        limit = builder.call(to_ints, (builder.node(trips),))
    start = None if condition is None else builder.node(condition)
    module = builder.module("loop_body", body.module)
    scans = len(call.node.output) - len(state)
    args = (limit, start, module, [builder.node(v) for v in state if v is not None], body.captures, scans)
    result = builder.call(run_loop, args, {"like": builder.like()}, next((o for o in call.node.output if o), "loop"))
    return _outputs(call, result, body, carried=len(state))


def scan(call: Call) -> list[Value]:
    """Scan: a Python loop over slices of the scanned inputs. In opset 8 there is a leading batch axis, and each sample is scanned alone."""
    builder, inputs = call.builder, call.inputs
    states = len(inputs) - call.attributes["num_scan_inputs"]
    batched = call.opset < 9
    if batched:
        inputs, states = inputs[1:], states - 1
    body = call.subgraphs["body"].body([None] * len(inputs))
    module = builder.module("scan_body", body.module)
    args = (module, [builder.node(v) for v in inputs if v is not None], states, body.captures)
    kwargs: dict[str, Any] = {"batched": batched}
    for name in ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions", "directions"):
        if name in call.attributes:
            kwargs["scan_input_directions" if name == "directions" else name] = call.attributes[name]
    result = builder.call(run_scan, args, kwargs, next((o for o in call.node.output if o), "scan"))
    return _outputs(call, result, body, carried=0)


def _outputs(call: Call, result: fx.Node, body: Body, carried: int | None) -> list[Value]:
    """One fx node for each output; an If's (``carried`` is None) have the shapes of its first branch, the ``carried`` states of a loop
    those its body returns after its condition."""
    builder = call.builder
    hints = body.hints[1:] if carried else body.hints
    outputs: list[Value] = []
    for index, name in enumerate(call.node.output):
        output = builder.call(item, (result, index), None, name or None)
        hint = hints[index] if index < len(hints) else None
        if hint is not None and output not in builder.hints.known and (carried is None or index < carried):
            builder.hints.set(output, *hint)
        outputs.append(output)
    return outputs
