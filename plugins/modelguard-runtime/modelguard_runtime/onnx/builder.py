"""Building one fx graph of ONNX nodes: names looked up in scopes, operators emitted as calls, constants computed at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto
from torch import fx, nn

from modelguard.detector import Skip
from modelguard.errors import LimitError, ModelError, ModelguardError
from modelguard_runtime.failures import one_line, raise_if_out_of_memory
from modelguard_runtime.onnx import batch, control, fuse, ops, shapes
from modelguard_runtime.onnx.limits import MAX_ELEMENTS, check_elements
from modelguard_runtime.onnx.scope import Context, Scope, SourceNode
from modelguard_runtime.onnx.structure import describe, domain_of, function_key, in_order
from modelguard_runtime.onnx.table import NEWEST, Operator, find
from modelguard_runtime.onnx.types import read_sparse, read_tensor
from modelguard_runtime.onnx.values import Const, Ints, Value, ints_to_tensor, to_ints


class Builder:
    """Builds one fx graph: the model's, or the body of an If, Loop or Scan."""

    def __init__(self, context: Context, parent: Builder | None = None) -> None:
        self.context = context
        self.parent = parent
        self.hints = context.hints
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.captured: dict[fx.Node, fx.Node] = {}
        self.attributes: dict[str, Const] = {}
        self._constants: dict[Const, fx.Node] = {}
        self._scalars: dict[Any, fx.Node] = {}
        self._like: fx.Node | None = None

    # ---- values

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
                parameter = self.context.parameters.get(value)
                if parameter is None:
                    parameter = self.context.parameters[value] = nn.Parameter(value.tensor, requires_grad=False)
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
        """One function call in the graph. Raises :class:`LimitError` when its result would be too big."""
        node = self.graph.create_node("call_function", target, tuple(args), dict(kwargs or {}), name and name[:80])
        self.hints.infer(node)
        return node

    def scalar(self, target: Callable[..., Any], args: Sequence[Any]) -> fx.Node:
        """A function call that yields a Python number; the same call is made only once."""
        key = (target, tuple(args))
        if key not in self._scalars:
            self._scalars[key] = self.call(target, args)
        return self._scalars[key]

    def cast_output(self, value: Value, dtype: torch.dtype | None) -> fx.Node:
        """Integers that were carried as floats for the sake of gradients leave the graph as the type it declares."""
        node = self.node(value)
        if dtype is None or dtype.is_floating_point or dtype.is_complex:
            return node
        return self.call(ops.base.as_type, (node, dtype))

    def finish(self, results: Sequence[Any]) -> fx.GraphModule:
        """The module of the graph built so far, returning ``results`` as a tuple."""
        self.graph.output(tuple(results))
        self.graph.eliminate_dead_code()
        for node in self.graph.nodes:
            node.meta["rank"] = self.hints.rank(node)
        fuse.fuse(self.graph, self.root, self.context.sources)
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    # ---- graphs

    def run_graph(self, graph: onnx.GraphProto, scope: Scope, known: set[str]) -> list[Value]:
        """Build the graph's nodes; returns its outputs. Its inputs (``known``) are defined in ``scope`` already."""
        for tensor in graph.initializer:
            if tensor.name not in scope.values:
                scope.define(tensor.name, Const(read_tensor(tensor, self.context.weight), tensor.name, True, tensor.data_type))
        for sparse in graph.sparse_initializer:
            scope.define(sparse.values.name, Const(read_sparse(sparse, self.context.weight), sparse.values.name, weight=True))
        stored = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
        if len(set(stored)) != len(stored):
            raise ModelError("graph", "has two initializers of one name", "the graph is malformed")
        for node in in_order(graph.node, known | set(stored)):
            self.run_node(node, scope)
        return [self._output(output.name, scope) for output in graph.output]

    def _output(self, name: str, scope: Scope) -> Value:
        try:
            value = scope.lookup(name)
        except KeyError:
            value = None
        if value is None:
            raise ModelError(f"graph output {name[:80]!r}", "is not computed by any node", "the graph is malformed")
        return value

    def run_node(self, node: onnx.NodeProto, scope: Scope) -> None:
        """Build one node and define its outputs in ``scope``."""
        inputs = []
        for name in node.input:
            try:
                inputs.append(scope.lookup(name) if name else None)
            except KeyError:
                raise ModelError(describe(node), f"reads {name[:80]!r}, which nothing makes", "the graph is malformed") from None
        function = self.context.functions.get(function_key(node))
        try:
            outputs = self._inline(node, function, inputs, scope) if function else self._operator(node, inputs, scope)
        except (ModelguardError, Skip):
            raise
        except RecursionError:
            raise LimitError(describe(node), "is nested too deep", "the graph is malformed or hostile") from None
        except Exception as error:
            raise_if_out_of_memory(error)
            raise ModelError(
                describe(node), f"cannot be built ({type(error).__name__}: {one_line(error)})", "the graph is malformed"
            ) from error
        if len(outputs) < sum(1 for name in node.output if name):
            raise ModelError(
                describe(node), f"names {len(node.output)} outputs where the operator has {len(outputs)}", "the graph is malformed"
            )
        for name, value in zip(node.output, outputs, strict=False):
            if name:
                scope.define(name, value)
                if isinstance(value, fx.Node) and value.op == "call_function":
                    self.context.sources.setdefault(value, SourceNode(node.name, node.op_type, domain_of(node.domain), name))

    def _inline(self, node: onnx.NodeProto, function: onnx.FunctionProto, inputs: list[Value | None], scope: Scope) -> list[Value | None]:
        body = Scope(self, None, {domain_of(entry.domain): entry.version for entry in function.opset_import})
        given = {a.name: self._attribute_proto(a, scope) for a in node.attribute}
        defaults = {a.name: a for a in function.attribute_proto}
        body.attributes = {**defaults, **{name: a for name, a in given.items() if a is not None}}
        for index, name in enumerate(function.input):
            body.define(name, inputs[index] if index < len(inputs) else None)
        for inner in in_order(function.node, function.input):
            self.run_node(inner, body)
        return [body.values.get(name) for name in function.output]

    @staticmethod
    def _attribute_proto(attribute: AttributeProto, scope: Scope) -> AttributeProto | None:
        """The attribute itself, or what it refers to in the enclosing function call (None: left to its default)."""
        return scope.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute

    # ---- operators

    def _operator(self, node: onnx.NodeProto, inputs: list[Value | None], scope: Scope) -> Sequence[Value | None]:
        domain = domain_of(node.domain)
        self.context.operators[f"{domain}:{node.op_type}" if domain else node.op_type] += 1
        opset = scope.opsets.get(domain)
        if opset is None:
            if not domain:
                raise ModelError(
                    describe(node), "belongs to the default domain, of which the graph imports no opset", "the graph is malformed"
                )
            opset = NEWEST.get(domain, 1)  # exporters forget com.microsoft
        protos = [p for a in node.attribute if (p := self._attribute_proto(a, scope)) is not None]
        names = [a.name for a in node.attribute if self._attribute_proto(a, scope) is not None]
        graphs = {name: p.g for name, p in zip(names, protos, strict=True) if p.type == AttributeProto.GRAPH}
        if domain == "" and node.op_type in control.LOWERINGS:
            plain = {n: self._attribute(p) for n, p in zip(names, protos, strict=True) if n not in graphs}
            return control.LOWERINGS[node.op_type](self, scope, node, inputs, plain, graphs)
        attributes = {n: self._attribute(p) for n, p in zip(names, protos, strict=True)}
        entry = find(domain, node.op_type, opset)
        if entry is None:
            raise Skip(
                f"operator {node.op_type[:80]} (domain {domain[:80] or 'ai.onnx'}, opset {opset}) is not supported; "
                f"first used by node {(node.name or next(iter(node.output), ''))[:80]!r}"
            )
        if domain == "" and any(isinstance(value, Ints) for value in inputs):
            result = shapes.lower(self, node.op_type, inputs, attributes)
            if result is not None:
                return [result]
        return self._emit(entry, node, inputs, attributes)

    def _attribute(self, proto: AttributeProto) -> Any:
        match proto.type:
            case AttributeProto.TENSOR:
                return Const(read_tensor(proto.t, self.context.weight), element=proto.t.data_type)
            case AttributeProto.SPARSE_TENSOR:
                return Const(read_sparse(proto.sparse_tensor, self.context.weight))
            case AttributeProto.STRING:
                return proto.s.decode("utf-8", "replace")
            case AttributeProto.STRINGS:
                return [s.decode("utf-8", "replace") for s in proto.strings]
            case AttributeProto.FLOAT | AttributeProto.INT:
                return onnx.helper.get_attribute_value(proto)
            case AttributeProto.FLOATS | AttributeProto.INTS:
                return list(onnx.helper.get_attribute_value(proto))
        raise Skip(f"attribute {proto.name[:80]!r} is of a kind that is not supported")

    def _emit(
        self, entry: Operator, node: onnx.NodeProto, inputs: list[Value | None], attributes: dict[str, Any]
    ) -> Sequence[Value | None]:
        extra: dict[str, Any] = {}
        if "outputs" in entry.parameters:
            extra["outputs"] = len(node.output)
        if entry.typed and len(inputs) > (place := entry.inputs.index(entry.typed)):
            extra["element"] = self.context.element(inputs[place])
        for name in attributes:
            if name not in entry.parameters:
                raise Skip(f"attribute {name[:80]!r} of operator {node.op_type} is not supported; first used by {describe(node)}")
        if not entry.variadic and len(inputs) > len(entry.inputs):
            raise ModelError(describe(node), f"has {len(inputs)} inputs, more than the operator", "the graph is malformed")
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        if entry.pure and all(value is None or isinstance(value, Const) for value in inputs):
            folded = self._fold(entry, node, inputs, attributes, extra)
            if folded is not None:
                return folded
        args = [self._argument(entry, index, value) for index, value in enumerate(inputs)]
        kwargs = {n: self.node(v) if isinstance(v, Const) else v for n, v in attributes.items()} | extra
        if "like" in entry.parameters:
            kwargs["like"] = self.like()
        args, kwargs = batch.free(self, node.op_type, entry, args, kwargs)
        label = next((o for o in node.output if o), node.op_type)
        try:
            result = self.call(entry.run, args, kwargs, label)
        except LimitError as error:
            raise LimitError(describe(node), error.cause, error.remedy) from None
        if not entry.many:
            return [result]
        return [self.call(_item, (result, index), None, name) if name else None for index, name in enumerate(node.output)]

    def _argument(self, entry: Operator, index: int, value: Value | None) -> Any:
        if value is None:
            return None
        name = "" if entry.variadic else entry.inputs[index]
        if name in entry.ints:
            if isinstance(value, Ints):
                return value.items.tolist()
            if isinstance(value, Const):
                if value.tensor.numel() > 1 << 16:
                    raise LimitError(f"input {name!r}", f"lists {value.tensor.numel()} integers where {1 << 16} are allowed")
                return value.tensor.tolist()
            return self.call(to_ints, (value,))
        if name in entry.scalars:
            if isinstance(value, Const) and value.tensor.ndim == 0 and value.tensor.dtype != torch.bool:
                return value.tensor.item()
            if isinstance(value, Ints) and value.items.ndim == 0:
                return value.items.item()
        return self.node(value)

    def _fold(
        self, entry: Operator, node: onnx.NodeProto, inputs: Sequence[Value | None], attributes: Mapping[str, Any], extra: dict[str, Any]
    ) -> Sequence[Value | None] | None:
        """The operator's results computed now, or None when they have to be computed each time the graph runs."""
        consts = [value for value in inputs if isinstance(value, Const)]
        sizes = self.hints.sizes(entry, inputs, attributes, extra)
        largest = max((c.tensor.numel() for c in consts), default=0)
        budget = self.context.limits.folded - self.context.folded
        if any(size > max(4096, 2 * largest) and size > budget for size in sizes):
            check_elements(describe(node), (max(sizes),), budget)
        args = [_plain(entry, index, value) for index, value in enumerate(inputs)]
        kwargs = {n: v.tensor if isinstance(v, Const) else v for n, v in attributes.items()} | extra
        if sum(sizes) > budget and entry.name not in ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"):
            return None
        with torch.no_grad():
            result = entry.run(*args, **kwargs)
        results = result if entry.many else (result,)
        if not all(r is None or isinstance(r, torch.Tensor) for r in results):
            return None
        storages = {c.tensor.untyped_storage().data_ptr() for c in consts}
        self.context.folded += sum(r.numel() for r in results if r is not None and r.untyped_storage().data_ptr() not in storages)
        if self.context.folded > max(self.context.limits.folded, MAX_ELEMENTS >> 1):
            raise LimitError(describe(node), "brings the constants computed at import past the limit", "the graph is malformed or hostile")
        is_weight = any(c.weight for c in consts)
        source = consts[0].name if len(consts) == 1 and entry.name == "Identity" else ""
        return [None if r is None else Const(r, source, is_weight) for r in results]


def _plain(entry: Operator, index: int, value: Value | None) -> Any:
    if not isinstance(value, Const):
        return None
    name = "" if entry.variadic else entry.inputs[index]
    if name in entry.ints:
        return value.tensor.tolist()
    return (
        value.tensor.item()
        if name in entry.scalars and value.tensor.ndim == 0 and value.tensor.dtype != torch.bool and index > 0
        else value.tensor
    )


def _item(results: Sequence[Any], index: int) -> Any:
    """One output of an operator that has several."""
    return results[index]


def _identifier(name: str, graph: fx.Graph) -> str:
    """A name that is safe as a Python parameter and not taken: placeholder names enter the generated code as they are."""
    return graph._graph_namespace.create_name("in_" + re.sub(r"\W+", "_", name, flags=re.ASCII)[:80], None)
