"""The order in which the nodes of an ONNX graph are computed.

ONNX wants nodes sorted; onnxruntime sorts them itself, and so do other runtimes. A value is made by the node of its own graph that
names it as an output, wherever that stands, and a subgraph's nodes use values of the graphs around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modelguard._diff.messages import Message, last, parse


class InCircles(Exception):
    """Some nodes need, in the end, what they make themselves."""


def schedule(nodes: Sequence[Message], path: str, check: Callable[[], None] = lambda: None) -> Sequence[int]:
    """Positions of the NodeProtos in an order in which each comes after those it needs; as they stand where that does.

    Raises :class:`InCircles`.
    """
    makers = {name: at for at, node in enumerate(nodes) for name in node.get(2, []) if name}
    needs = [{makers[name] for name in _used(node, path, check) if name in makers} for node in nodes]
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


def _used(node: Message, path: str, check: Callable[[], None]) -> Iterator[bytes]:
    """Names of values that a node uses, in its subgraphs too."""
    yield from node.get(1, [])
    for content in node.get(5, []):
        attribute = parse(content, path)
        for graph in (*attribute.get(6, []), *attribute.get(11, [])):
            yield from _free(graph, path, check)


def _free(data: bytes, path: str, check: Callable[[], None]) -> set[bytes]:
    """Names that a subgraph uses and does not define."""
    check()
    graph = parse(data, path)
    nodes = [parse(each, path) for each in graph.get(1, [])]
    used = {name for node in nodes for name in _used(node, path, check)}
    used |= {last(parse(each, path), 1) for each in graph.get(12, [])}
    own = {name for node in nodes for name in node.get(2, [])}
    own |= {last(parse(each, path), 1) for each in graph.get(11, [])}
    own |= {last(parse(each, path), 8) for each in graph.get(5, [])}
    own |= {last(parse(parse(each, path).get(1, [b""])[0], path), 8) for each in graph.get(15, [])}
    return used - own
