"""ONNX graph to ``torch.fx.GraphModule``.

The nodes are visited in order (``lower/nodes.py``). What depends only on constants is computed at once; what depends only on shapes
becomes arithmetic on Python integers (``lower/integers.py``); everything else becomes one call of the operator's torch function
(``ops/``). Beside the graph, each step is tried on torch's meta device, with the declared input shapes (``graph/hints.py``): that tells
ranks, refuses tensors past the limit before anything is allocated, and shows which dimensions follow the batch (``rewrite/batch.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import onnx
from torch import fx

from modelguard_runtime.onnx.errors import MALFORMED, GraphError, UnsupportedError, WeightError
from modelguard_runtime.onnx.graph.builder import Builder, Shared
from modelguard_runtime.onnx.graph.hints import Hints, declared_shapes
from modelguard_runtime.onnx.limits import GraphLimits
from modelguard_runtime.onnx.lower.nodes import finish, run_graph, stored_names
from modelguard_runtime.onnx.lower.scope import Context, Scope, SourceNode
from modelguard_runtime.onnx.ops import NEWEST, base
from modelguard_runtime.onnx.rewrite import batch
from modelguard_runtime.onnx.structure import check_size, domain_of, function_key
from modelguard_runtime.onnx.tensors import ValueInfo, Weight, torch_dtype


@dataclass(frozen=True)
class ImportedGraph:
    """A graph ready to run.

    ``module`` takes the graph's inputs in order and returns a tuple of its outputs. Weights are parameters that require no gradient;
    ``parameters`` gives the initializer behind each of them that is one unchanged. ``nodes`` gives, by fx node name, the ONNX node
    behind it; ``operators`` counts ONNX nodes by ``domain:op_type`` (no colon in the default domain). ``batch`` is None when any
    leading dimension works, else the only one that does, because the exporter fixed it and it could not be freed.
    """

    module: fx.GraphModule
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    opsets: Mapping[str, int]
    operators: Mapping[str, int]
    nodes: Mapping[str, SourceNode]
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    batch: int | None = None


def import_graph(model: onnx.ModelProto, weight: Weight | None = None, limits: GraphLimits = GraphLimits()) -> ImportedGraph:  # noqa: B008
    """Make a runnable module of an ONNX model.

    ``weight`` gives the payload of tensors that were stripped of it (external_data with the single key :data:`EXTERNAL_KEY`).
    Raises :class:`UnsupportedError` for an operator or opset that is not supported, :class:`GraphError` for a malformed graph,
    :class:`GraphLimitError` for one that asks for too much, ``MemoryError``, and whatever ``weight`` raises. Running the module may
    raise :class:`GraphLimitError` as well: for sizes and loops that follow from its inputs.
    """
    opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    for domain, version in sorted(opsets.items()):
        if version > NEWEST.get(domain, version):
            raise UnsupportedError(
                f"opset {version} of domain {domain or 'ai.onnx'!r}", f"is newer than {NEWEST[domain]}, the newest that is supported"
            )
    check_size(model, limits)
    fixed = batch.declared(model)
    try:
        imported = _build(model, weight, limits, opsets, fixed)
        if fixed is None or batch.verified(imported.module, imported.inputs, fixed):
            return imported
        # Not free in the batch, as far as can be shown: import again as exported, for that one batch size.
        return replace(_build(model, weight, limits, opsets, None), batch=fixed)
    except WeightError as carried:
        raise carried.error from None


def _build(model: onnx.ModelProto, weight: Weight | None, limits: GraphLimits, opsets: dict[str, int], fixed: int | None) -> ImportedGraph:
    shared = Shared(Hints(fixed), limits)
    context = Context(weight, {function_key(f): f for f in model.functions}, opsets)
    builder = Builder(shared)
    scope = Scope(context, builder)
    graph = model.graph
    stored = set(stored_names(graph))
    given = [info for info in graph.input if info.name not in stored]
    inputs, outputs = tuple(map(ValueInfo.of, given)), tuple(map(ValueInfo.of, graph.output))
    if len({info.name for info in inputs}) != len(inputs):
        raise GraphError("graph", "has two inputs of one name", MALFORMED)
    for proto, info, shape in zip(given, inputs, declared_shapes(inputs), strict=True):
        element = proto.type.tensor_type.elem_type
        dtype = torch_dtype(element, f"input {info.name!r}") if info.dtype else None
        place = builder.placeholder(info.name, shape, dtype)
        shared.elements[place] = element
        scope.define(info.name, place)
    results = []
    for proto, value in zip(graph.output, run_graph(graph, scope), strict=True):
        element = proto.type.tensor_type.elem_type
        node, dtype = builder.node(value), torch_dtype(element, f"output {proto.name!r}") if element else None
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            # Integers that were carried as floats for the sake of gradients leave the graph as the type it declares.
            node = builder.call(base.as_type, (node, dtype))
        results.append(node)
    module = finish(builder, results, context)
    sources = {node.name: context.sources[node] for node in module.graph.nodes if node in context.sources}
    return ImportedGraph(
        module,
        inputs,
        outputs,
        MappingProxyType(opsets),
        MappingProxyType(dict(sorted(context.operators.items()))),
        MappingProxyType(sources),
        MappingProxyType({name: const.name for name, const in builder.attributes.items() if const.name and hasattr(module, name)}),
    )
