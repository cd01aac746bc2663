"""ONNX graph to ``torch.fx.GraphModule``.

The nodes are visited in order. What depends only on constants is computed at once; what depends only on shapes becomes arithmetic on
Python integers (``shapes.py``); everything else becomes one call of the operator's torch function (``table.py``). Beside the graph,
each step is tried on torch's meta device, with the declared input shapes: that tells ranks, refuses tensors past the limit before
anything is allocated, and shows which dimensions follow the batch (``batch.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import onnx
from torch import fx

from modelguard.detector import Skip
from modelguard.errors import ModelError
from modelguard_runtime.onnx import batch
from modelguard_runtime.onnx.builder import Builder
from modelguard_runtime.onnx.hints import Hints, declared_shapes
from modelguard_runtime.onnx.limits import GraphLimits
from modelguard_runtime.onnx.scope import Context, Scope, SourceNode
from modelguard_runtime.onnx.structure import check_size, domain_of, function_key
from modelguard_runtime.onnx.table import NEWEST
from modelguard_runtime.onnx.types import ValueInfo, Weight, torch_dtype


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

    ``weight`` gives the payload of tensors that were stripped of it (external_data with the single key ``modelguard``).
    Raises :class:`~modelguard.detector.Skip` for an operator or opset that is not supported, :class:`~modelguard.errors.ModelError` for
    a malformed graph, :class:`~modelguard.errors.LimitError` for one that asks for too much.
    """
    opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    for domain, version in sorted(opsets.items()):
        if version > NEWEST.get(domain, version):
            raise Skip(f"opset {version} of domain {domain or 'ai.onnx'!r} is newer than {NEWEST[domain]}, the newest that is supported")
    check_size(model, limits)
    fixed = batch.declared(model)
    imported = _build(model, weight, limits, opsets, fixed)
    if fixed is None:
        return imported
    if batch.verified(imported, fixed):
        return imported
    # Not free in the batch, as far as can be shown: import again as exported, for that one batch size.
    exact = _build(model, weight, limits, opsets, None)
    return ImportedGraph(**{**exact.__dict__, "batch": fixed})


def _build(model: onnx.ModelProto, weight: Weight | None, limits: GraphLimits, opsets: dict[str, int], fixed: int | None) -> ImportedGraph:
    context = Context(weight, limits, Hints(fixed), {function_key(f): f for f in model.functions}, opsets)
    builder = Builder(context)
    scope = Scope(builder)
    graph = model.graph
    stored = {i.name for i in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    inputs = tuple(ValueInfo.of(i) for i in graph.input if i.name not in stored)
    outputs = tuple(ValueInfo.of(o) for o in graph.output)
    if len({i.name for i in inputs}) != len(inputs):
        raise ModelError("graph", "has two inputs of one name", "the graph is malformed")
    for info, shape in zip(inputs, declared_shapes(inputs), strict=True):
        dtype = next(
            (torch_dtype(i.type.tensor_type.elem_type, f"input {info.name!r}") for i in graph.input if i.name == info.name and info.dtype),
            None,
        )
        place = builder.placeholder(info.name, shape, dtype)
        context.elements[place] = next(i.type.tensor_type.elem_type for i in graph.input if i.name == info.name)
        scope.define(info.name, place)
    results = builder.run_graph(graph, scope, {i.name for i in inputs})
    dtypes = [
        torch_dtype(o.type.tensor_type.elem_type, f"output {o.name!r}") if o.type.tensor_type.elem_type else None for o in graph.output
    ]
    module = builder.finish([builder.cast_output(value, dtype) for value, dtype in zip(results, dtypes, strict=True)])
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
