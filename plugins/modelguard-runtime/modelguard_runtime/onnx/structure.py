"""What must hold of an ONNX graph before any of it is built: its size, nesting, names and order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

import onnx

from modelguard_runtime.onnx.errors import HOSTILE, MALFORMED, GraphError, GraphLimitError
from modelguard_runtime.onnx.limits import GraphLimits

FunctionKey = tuple[str, str, str]


def domain_of(name: str) -> str:
    """The canonical name of an operator domain (``ai.onnx`` is the empty one)."""
    return "" if name == "ai.onnx" else name


def function_key(proto: onnx.NodeProto | onnx.FunctionProto) -> FunctionKey:
    """What a node calls a local function by."""
    name = proto.op_type if isinstance(proto, onnx.NodeProto) else proto.name
    return domain_of(proto.domain), name, proto.overload


def describe(node: onnx.NodeProto) -> str:
    """The node for messages: its operator, its name, or the first thing it makes."""
    label = node.name or next(iter(node.output), "")
    return f"node {label[:80]!r} ({node.op_type[:80]})"


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The graphs in the node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def check_size(model: onnx.ModelProto, limits: GraphLimits) -> None:
    """Refuse too many nodes, too deep nesting, duplicate functions and functions that call themselves.

    Raises :class:`GraphLimitError` or :class:`GraphError`. Nodes are counted as if every function
    were inlined, so a few functions calling each other cannot multiply past the limit.
    """
    functions: dict[FunctionKey, onnx.FunctionProto] = {}
    for function in model.functions:
        if function_key(function) in functions:
            raise GraphError(f"function {function.name[:80]!r}", "is defined twice", MALFORMED)
        functions[function_key(function)] = function
    sizes: dict[FunctionKey, int] = {}
    total = _size(model.graph.node, functions, sizes, (), limits)
    if total > limits.nodes:
        raise GraphLimitError(
            "graph", f"has {total} nodes where {limits.nodes} are allowed", "raise the limit if the model is trusted to be this big"
        )


def _size(
    nodes: Sequence[onnx.NodeProto],
    functions: Mapping[FunctionKey, onnx.FunctionProto],
    sizes: dict[FunctionKey, int],
    calls: tuple[FunctionKey | str, ...],
    limits: GraphLimits,
) -> int:
    if len(calls) > limits.depth:
        raise GraphLimitError("graph", f"nests subgraphs and functions deeper than {limits.depth}", HOSTILE)
    total = len(nodes)
    for node in nodes if total <= limits.nodes else ():
        for graph in subgraphs(node):
            total += _size(graph.node, functions, sizes, (*calls, "graph"), limits)
        key = function_key(node)
        if key in functions:
            if key in calls:
                raise GraphError(f"function {key[1][:80]!r}", "calls itself", HOSTILE)
            if key not in sizes:
                sizes[key] = _size(functions[key].node, functions, sizes, (*calls, key), limits)
            total += sizes[key]
    if total > limits.nodes:
        raise GraphLimitError("graph", f"has {total} nodes or more where {limits.nodes} are allowed", HOSTILE)
    return total


def in_order(nodes: Iterable[onnx.NodeProto], known: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes so that each comes after the ones it needs, otherwise as they were.

    ``known`` are the graph's inputs and initializers. Names that nothing in this graph makes are left to the surrounding scope.
    Raises :class:`GraphError` for a value made twice and for a cycle.
    """
    nodes = list(nodes)
    maker: dict[str, int] = {}
    taken = set(known)
    for index, node in enumerate(nodes):
        for output in node.output:
            if not output:
                continue
            if output in maker or output in taken:
                raise GraphError(describe(node), f"makes {output[:80]!r}, which exists already", MALFORMED)
            maker[output] = index
    waiting = [0] * len(nodes)
    users: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for source in {maker[name] for name in _needs(node) if name in maker}:
            waiting[index] += 1
            users[source].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) != len(nodes):
        stuck = next(node for index, node in enumerate(nodes) if waiting[index])
        raise GraphError(describe(stuck), "depends on its own output", "the graph has a cycle")
    return [nodes[index] for index in order]


def _needs(node: onnx.NodeProto) -> Iterable[str]:
    """Names the node reads, those its subgraphs take from outside included."""
    yield from node.input
    for graph in subgraphs(node):
        own = {i.name for i in graph.input} | {i.name for i in graph.initializer} | {o for n in graph.node for o in n.output}
        for inner in graph.node:
            yield from (name for name in _needs(inner) if name not in own)
        yield from (output.name for output in graph.output if output.name not in own)
