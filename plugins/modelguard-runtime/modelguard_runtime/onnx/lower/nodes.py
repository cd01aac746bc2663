"""Going through an ONNX graph node by node: names looked up in scopes, functions inlined, each node lowered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto
from torch import fx

from modelguard_runtime.onnx.errors import (
    HOSTILE,
    MALFORMED,
    GraphError,
    GraphLimitError,
    OnnxError,
    UnsupportedError,
    WeightError,
    one_line,
    raise_if_out_of_memory,
)  # fmt: skip
from modelguard_runtime.onnx.graph.builder import Builder
from modelguard_runtime.onnx.graph.values import Const, Value, truth
from modelguard_runtime.onnx.lower.call import Body, Call
from modelguard_runtime.onnx.lower.scope import Context, Scope, SourceNode
from modelguard_runtime.onnx.lower.table import lower
from modelguard_runtime.onnx.ops import NEWEST, ONNX
from modelguard_runtime.onnx.rewrite.fuse import fuse
from modelguard_runtime.onnx.structure import describe, domain_of, function_key, in_order
from modelguard_runtime.onnx.tensors import Weight, read_sparse, read_tensor


def run_graph(graph: onnx.GraphProto, scope: Scope) -> list[Value]:
    """Lower the graph's nodes; returns its outputs. Its inputs are defined in ``scope`` already."""
    weight = scope.context.weight
    for tensor in graph.initializer:
        if tensor.name not in scope.values:
            scope.define(tensor.name, Const(read_tensor(tensor, weight), tensor.name, True, tensor.data_type))
    for sparse in graph.sparse_initializer:
        scope.define(sparse.values.name, Const(read_sparse(sparse, weight), sparse.values.name, weight=True))
    stored = stored_names(graph)
    if len(set(stored)) != len(stored):
        raise GraphError("graph", "has two initializers of one name", MALFORMED)
    given = {info.name for info in graph.input}
    for node in in_order(graph.node, given | set(stored)):
        _run_node(node, scope)
    return [_output(output.name, scope) for output in graph.output]


def stored_names(graph: onnx.GraphProto) -> list[str]:
    """The names of a graph's initializers."""
    return [tensor.name for tensor in graph.initializer] + [sparse.values.name for sparse in graph.sparse_initializer]


def finish(builder: Builder, results: Sequence[Any], context: Context) -> fx.GraphModule:
    """The module of the graph built so far, returning ``results`` as a tuple."""
    builder.end(results)
    fuse(builder.graph, builder.root, context.sources)
    builder.graph.lint()
    return fx.GraphModule(builder.root, builder.graph)


def _output(name: str, scope: Scope) -> Value:
    try:
        value = scope.lookup(name)
    except KeyError:
        value = None
    if value is None:
        raise GraphError(f"graph output {name[:80]!r}", "is not computed by any node", MALFORMED)
    return value


def _run_node(node: onnx.NodeProto, scope: Scope) -> None:
    """Lower one node and define its outputs in ``scope``."""
    inputs: list[Value | None] = []
    for name in node.input:
        try:
            inputs.append(scope.lookup(name) if name else None)
        except KeyError:
            raise GraphError(describe(node), f"reads {name[:80]!r}, which nothing makes", MALFORMED) from None
    function = scope.context.functions.get(function_key(node))
    try:
        outputs = _inline(node, function, inputs, scope) if function else lower(_call(node, inputs, scope))
    except (OnnxError, WeightError):
        raise
    except RecursionError:
        raise GraphLimitError(describe(node), "is nested too deep", HOSTILE) from None
    except Exception as error:
        raise_if_out_of_memory(error)
        raise GraphError(describe(node), f"cannot be built ({type(error).__name__}: {one_line(error)})", MALFORMED) from error
    if len(outputs) < sum(1 for name in node.output if name):
        raise GraphError(describe(node), f"names {len(node.output)} outputs where the operator has {len(outputs)}", MALFORMED)
    for name, value in zip(node.output, outputs, strict=False):
        if name:
            scope.define(name, value)
            if isinstance(value, fx.Node) and value.op == "call_function":
                source = SourceNode(node.name, node.op_type, domain_of(node.domain), name)
                scope.context.sources.setdefault(value, source)


def _inline(node: onnx.NodeProto, function: onnx.FunctionProto, inputs: list[Value | None], scope: Scope) -> list[Value | None]:
    given = {a.name: scope.attribute(a) for a in node.attribute}
    body = Scope(
        scope.context,
        scope.builder,
        opsets={domain_of(entry.domain): entry.version for entry in function.opset_import},
        attributes={**{a.name: a for a in function.attribute_proto}, **{name: a for name, a in given.items() if a is not None}},
    )
    for index, name in enumerate(function.input):
        body.define(name, inputs[index] if index < len(inputs) else None)
    for inner in in_order(function.node, function.input):
        _run_node(inner, body)
    return [body.values.get(name) for name in function.output]


def _call(node: onnx.NodeProto, inputs: list[Value | None], scope: Scope) -> Call:
    """The node as its lowering takes it, counted among the model's operators."""
    domain = domain_of(node.domain)
    scope.context.operators[f"{domain}:{node.op_type}" if domain else node.op_type] += 1
    opset = scope.opsets.get(domain)
    if opset is None:
        if domain == ONNX:
            raise GraphError(describe(node), "belongs to the default domain, of which the graph imports no opset", MALFORMED)
        opset = NEWEST.get(domain, 1)  # exporters forget com.microsoft
    protos = {a.name: proto for a in node.attribute if (proto := scope.attribute(a)) is not None}
    subgraphs = {name: _Subgraph(proto.g, scope) for name, proto in protos.items() if proto.type == AttributeProto.GRAPH}
    attributes = {name: _attribute(proto, scope.context.weight) for name, proto in protos.items() if name not in subgraphs}
    return Call(node, domain, opset, tuple(inputs), attributes, subgraphs, scope.builder)


def _attribute(proto: AttributeProto, weight: Weight | None) -> Any:
    match proto.type:
        case AttributeProto.TENSOR:
            return Const(read_tensor(proto.t, weight), element=proto.t.data_type)
        case AttributeProto.SPARSE_TENSOR:
            return Const(read_sparse(proto.sparse_tensor, weight))
        case AttributeProto.STRING:
            return proto.s.decode("utf-8", "replace")
        case AttributeProto.STRINGS:
            return [s.decode("utf-8", "replace") for s in proto.strings]
        case AttributeProto.FLOAT | AttributeProto.INT:
            return onnx.helper.get_attribute_value(proto)
        case AttributeProto.FLOATS | AttributeProto.INTS:
            return list(onnx.helper.get_attribute_value(proto))
    raise UnsupportedError(f"attribute {proto.name[:80]!r}", "is of a kind that is not supported")


@dataclass(frozen=True, slots=True)
class _Subgraph:
    """A graph in a node's attribute, and the scope the node is in (see :class:`~modelguard_runtime.onnx.lower.call.Subgraph`)."""

    graph: onnx.GraphProto
    scope: Scope

    def inline(self) -> list[Value]:
        return run_graph(self.graph, Scope(self.scope.context, self.scope.builder, self.scope))

    def body(self, inputs: Sequence[Value | None]) -> Body:
        graph, outer = self.graph, self.scope.builder
        builder = Builder(outer.shared, outer)
        scope = Scope(self.scope.context, builder, self.scope)
        if len(graph.input) != len(inputs):
            raise GraphError(f"subgraph {graph.name[:80]!r}", f"has {len(graph.input)} inputs where {len(inputs)} are given", MALFORMED)
        for info, value in zip(graph.input, inputs, strict=True):
            place = builder.placeholder(info.name, None, None)
            if isinstance(value, fx.Node):
                outer.hints.copy(value, place)
            elif isinstance(value, Const):
                outer.hints.constant(place, value.tensor)
            scope.define(info.name, place)
        condition = scope.values.get(graph.input[1].name) if len(graph.input) > 1 else None
        results = run_graph(graph, scope)
        always = bool(results) and (results[0] is condition or truth(results[0]) is True)
        nodes = [builder.node(value) for value in results]
        hints = [outer.hints.known.get(node) for node in nodes]
        captures = builder.captures_first()
        return Body(finish(builder, nodes, self.scope.context), captures, hints, always)
