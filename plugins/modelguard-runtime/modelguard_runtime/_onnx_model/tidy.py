"""What is mended in an ONNX graph before anything looks at it: sizes that are none, and what its output does not need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import AttributeProto

from modelguard import ModelError


def free_dimensions(model: onnx.ModelProto) -> None:
    """Make every declared size below 1 of an input or output a free one, in place.

    Paddle2ONNX and others write -1 where ONNX leaves a dimension out, some write 0. What is said of values in between is dropped where it
    has such a size: it is a hint only.
    """
    for info in (*model.graph.input, *model.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if (dim.HasField("dim_value") and dim.dim_value < 1) or dim.dim_param in ("-1", "0"):
                dim.Clear()
    _keep(model.graph.value_info, [all(d.dim_value >= 0 for d in i.type.tensor_type.shape.dim) for i in model.graph.value_info])


def prune(model: onnx.ModelProto) -> None:
    """Leave of the graph what its outputs need, in place: nodes, weights, and inputs, of which none is kept that nothing reads.

    What is not on the way to an output cannot change it, and must not stop the model from being run: look-ups of label names, maps,
    operators that nobody has. Raises :class:`~modelguard.ModelError` for an output that nothing makes.
    """
    graph = model.graph
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needed: set[int] = set()
    names = {output.name for output in graph.output}
    given = {item.name for item in (*graph.input, *graph.initializer)} | {item.values.name for item in graph.sparse_initializer}
    for name in names - maker.keys() - given:
        raise ModelError(f"graph output {name[:80]!r}", "is not computed by any node", "the graph is malformed")
    waiting = list(names)
    while waiting:
        place = maker.get(waiting.pop())
        if place is None or place in needed:
            continue
        needed.add(place)
        for name in read_by(graph.node[place]):
            if name not in names:
                names.add(name)
                waiting.append(name)
    _keep(graph.node, [place in needed for place in range(len(graph.node))])
    _keep(graph.initializer, [tensor.name in names for tensor in graph.initializer])
    _keep(graph.sparse_initializer, [tensor.values.name in names for tensor in graph.sparse_initializer])
    _keep(graph.input, [info.name in names for info in graph.input])


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Every name a node may read, those its subgraphs may take from outside among them."""
    stack = [node]
    while stack:
        item = stack.pop()
        yield from filter(None, item.input)
        for graph in subgraphs(item):
            yield from (output.name for output in graph.output)
            stack.extend(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _keep(repeated: Any, kept: Iterable[bool]) -> None:
    """Leave only what is kept of a repeated field."""
    items = [item for item, keep in zip(repeated, kept, strict=True) if keep]
    if len(items) < len(repeated):
        del repeated[:]
        repeated.extend(items)
