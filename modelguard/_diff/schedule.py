"""The order in which the nodes of an ONNX graph are computed.

ONNX wants nodes sorted; onnxruntime sorts them itself, and so do other runtimes. A value is made by the node of its own graph that
names it as an output, wherever that stands, and a subgraph's nodes use values of the graphs around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modelguard.onnx_graph import Graph, Node


class InCircles(Exception):
    """Some nodes need, in the end, what they make themselves."""


def schedule(nodes: Sequence[Node], check: Callable[[], None] = lambda: None) -> Sequence[int]:
    """Positions of the nodes in an order in which each comes after those it needs; as they stand where that does.

    Raises :class:`InCircles`.
    """
    makers = {name: at for at, node in enumerate(nodes) for name in node.outputs if name}
    needs = [{makers[name] for name in _used(node, check) if name in makers} for node in nodes]
    if all(not needed or max(needed) < at for at, needed in enumerate(needs)):
        return range(len(nodes))
    users: list[list[int]] = [[] for _ in nodes]
    for at, needed in enumerate(needs):
        for maker in needed:
            users[maker].append(at)
    left = [len(needed) for needed in needs]
    order = [at for at, count in enumerate(left) if not count]
    for at in order:
        for user in users[at]:
            left[user] -= 1
            if not left[user]:
                order.append(user)
    if len(order) < len(nodes):
        raise InCircles
    return order


def _used(node: Node, check: Callable[[], None]) -> Iterator[str]:
    """Names of values that a node uses, in its subgraphs too."""
    yield from node.inputs
    for graph in node.subgraphs:
        yield from _free(graph, check)


def _free(graph: Graph, check: Callable[[], None]) -> set[str]:
    """Names that a subgraph uses and does not define."""
    check()
    used = {name for node in graph.nodes for name in _used(node, check)}.union(graph.outputs)
    own = {name for node in graph.nodes for name in node.outputs}.union(graph.inputs)
    own.update(tensor.name for tensor in graph.initializers)
    own.update(sparse.name for sparse in graph.sparse_initializers)
    return used - own
