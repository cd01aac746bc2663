"""Whether two ONNX files compute the same from their weights: a digest of every output, down to inputs, weights and constants.

Names of nodes and values, their order in the file and nodes that no output needs do not count. Weights count by which tensor of the
reference they stand against, not by their values, which the rest of the diff compares.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from modelguard._diff.match import Matching
from modelguard._diff.messages import STRING, Message, digest, last, number, parse, shown, tensor_bytes, tensor_values, text
from modelguard._diff.pairing import Pairing
from modelguard._diff.schedule import InCircles, schedule
from modelguard.checkpoint import Checkpoint

_KEY = b"modelguard"
"""The key under which a skeleton names a tensor that it leaves out: see ``skeleton`` of the core's ONNX checkpoints."""
SMALL = 64
"""Bytes up to which a tensor in an attribute is a parameter of its node, which no checkpoint lists (docs/formats.md)."""
OFTEN = 1024
"""Nodes from one look at the deadline to the next."""
_DOCUMENTATION = 13
"""The field of an attribute that changes nothing."""

Values = ChainMap[bytes, bytes]
"""Digests by name, those of the graph itself in front. Names stay bytes: two that are no UTF-8 must not become one."""


@dataclass(frozen=True, slots=True)
class GraphDiff:
    """What differs between two graphs.

    ``added`` and ``removed`` count operators that there are more or fewer of, ``outputs`` are computed otherwise, ``moved`` names
    inputs and outputs that stand for another one of the reference's.
    """

    name: str
    file: str
    added: Mapping[str, int]
    removed: Mapping[str, int]
    outputs: tuple[str, ...]
    moved: tuple[str, ...] = ()


def compare(matching: Matching, check: Callable[[], None] = lambda: None) -> tuple[tuple[GraphDiff, ...], tuple[str, ...]]:
    """The checkpoints whose graph is not their counterpart's, and the names of those whose counterpart has none.

    ``check`` is called every so many nodes and may raise to stop.
    """
    pairs: dict[int, list[Pairing]] = {}
    # A tensor that stands against two counts as the one of its own name, not as one that shares it.
    for pair in sorted(matching.pairs, key=lambda pair: pair.how == "tied"):
        pairs.setdefault(id(pair.after.checkpoint), []).append(pair)
    found, alone = [], []
    for reference, checkpoint in matching.groups:
        graphs = [item for item in reference if _skeleton(item) is not None]
        for at, new in enumerate(item for item in checkpoint if _skeleton(item) is not None):
            if not graphs:
                alone.append(new.name)
                continue
            old = next((item for item in graphs if item.name == new.name), graphs[min(at, len(graphs) - 1)])
            if (item := _compare(old, new, pairs.get(id(new), []), check)) is not None:
                found.append(item)
    return tuple(sorted(found, key=lambda item: (item.name, item.file))), tuple(sorted(alone))


def _skeleton(checkpoint: Checkpoint) -> Callable[[], bytes] | None:
    return getattr(checkpoint, "skeleton", None) if checkpoint.format == "onnx" else None


def _compare(old: Checkpoint, new: Checkpoint, pairs: Sequence[Pairing], check: Callable[[], None]) -> GraphDiff | None:
    before, after = _skeleton(old), _skeleton(new)
    if before is None or after is None:
        return None
    data = before(), after()
    if data[0] == data[1] and all(pair.before.tensor.name == pair.after.tensor.name for pair in pairs):
        return None
    weights = _Weights(old, new, pairs, check)
    left, right = _Model(data[0], old, weights.before, "reference", check), _Model(data[1], new, weights.after, "checkpoint", check)
    moved = _moved(left.inputs, right.inputs) | _moved([name for name, _ in left.outputs], [name for name, _ in right.outputs])
    otherwise = [name for at, (name, value) in enumerate(right.outputs) if [value] != [item for _, item in left.outputs[at : at + 1]]]
    if not otherwise and not moved and len(left.outputs) == len(right.outputs) and left.setting == right.setting:
        return None
    return GraphDiff(
        new.name,
        new.files[0],
        dict(sorted((right.operators - left.operators).items())),
        dict(sorted((left.operators - right.operators).items())),
        tuple(otherwise),
        tuple(sorted(moved)),
    )


def _moved(left: Sequence[str], right: Sequence[str]) -> set[str]:
    """Names of both that stand in another place. Callers feed and fetch by name; a name that is gone they miss."""
    place = {name: at for at, name in enumerate(left)}
    return {name for at, name in enumerate(right) if place.get(name, at) != at}


class _Weights:
    """What the tensors of each side are called on both: by the tensor of the reference, and how the checkpoint holds it."""

    def __init__(self, old: Checkpoint, new: Checkpoint, pairs: Iterable[Pairing], check: Callable[[], None]) -> None:
        same = _alike(old, frozenset(), check)
        self.before = {name: digest("weight", first, "") for name, first in same.items()}
        self.after: dict[str, bytes] = {}
        for pair in pairs:
            own, other = pair.before.tensor, pair.after.tensor
            # What was resized is reported as that. Any other shape or part of the same values may be broadcast another way.
            plain = pair.how == "resized" or (pair.whole and own.shape == other.shape)
            how = "" if plain else repr((pair.before_view, pair.after_view, other.shape))
            self.after.setdefault(other.name, digest("weight", same.get(own.name, own.name), how))
        for name, first in _alike(new, self.after.keys(), check).items():
            if first in self.after:
                self.after.setdefault(name, self.after[first])


def _alike(checkpoint: Checkpoint, preferred: Set[str], check: Callable[[], None]) -> dict[str, str]:
    """For each tensor the first one, of ``preferred`` where possible, that holds the same bytes in the same shape: often itself."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in checkpoint.tensors.items():
        check()
        alike.setdefault((tensor.dtype, tensor.shape, bytes(checkpoint.raw(name)[:64])), []).append(name)
    found: dict[str, str] = {}
    for names in alike.values():
        by_bytes: dict[bytes, str] = {}
        for name in sorted(names, key=lambda name: (name not in preferred, name)):
            check()
            content = hashlib.sha256(checkpoint.raw(name)).digest() if len(names) > 1 else b""
            found[name] = by_bytes.setdefault(content, name)
    return found


class _Node(NamedTuple):
    """A node, and what the core calls its attributes' tensors: see ``_nodes``."""

    fields: Message
    label: str


class _Model:
    """One side. ``weights`` maps its tensors to what both sides call them; ``setting`` is what outputs depend on beside the graph."""

    def __init__(self, data: bytes, checkpoint: Checkpoint, weights: Mapping[str, bytes], side: str, check: Callable[[], None]) -> None:
        self.path, self.tensors, self.weights = checkpoint.files[0], checkpoint.tensors, weights
        self.operators: Counter[str] = Counter()
        self._check, self._domains, self._invalid = check, set[str](), False
        model = self._parse(data)
        functions = sorted(self._function(each) for each in model.get(25, []))
        (graph,) = model[7][:1]
        self.inputs, self.outputs = self._graph(graph, "", Values(), 0)
        # A name with two meanings and a value made from itself have no meaning that could be compared.
        mark = side if self._invalid else ""
        self.setting = digest("model", mark, self._imports(model.get(8, [])), digest(*functions), digest(*sorted(model.get(20, []))))

    def _imports(self, imports: Sequence[bytes]) -> bytes:
        """Of the operator sets that nodes use, the versions."""
        found = ((_domain(item, 1), number(item, 2, self.path)) for item in map(self._parse, imports))
        return digest(*(f"{version} {domain}" for domain, version in sorted(found) if domain in self._domains))

    def _graph(self, data: bytes, scope: str, outer: Values, depth: int) -> tuple[list[str], list[tuple[str, bytes]]]:
        """Names of the inputs, name and digest of every output; ``outer`` holds the digests of the values that a subgraph sees."""
        graph = self._parse(data)
        values = outer.new_child()
        names = [last(self._parse(each), 1) for each in graph.get(11, [])]
        for content in graph.get(5, []):
            name = last(self._parse(content), 8)
            self._define(values, name, self._tensor(content, scope + shown(name), listed=True))
        for content in graph.get(15, []):
            name = last(self._parse(self._parse(content).get(1, [b""])[0]), 8)
            self._define(values, name, self._sparse(content, scope + shown(name)))
        # Of the whole model, an initializer is the default of the input of its name; what a subgraph is given replaces it.
        inputs = [name for name in names if depth or name not in values.maps[0]]
        values.update({name: digest("input", str(depth), str(at)) for at, name in enumerate(inputs)})
        self._nodes(graph.get(1, []), scope, values, depth)
        outputs = [last(self._parse(each), 1) for each in graph.get(12, [])]
        return [shown(name) for name in inputs], [(shown(name), _value(values, name)) for name in outputs]

    def _function(self, data: bytes) -> bytes:
        function = self._parse(data)
        identity = [text(function, field) for field in (10, 1, 13)]
        self._domains.add(_domain(function, 10))
        values = Values({name: digest("input", "function", str(at)) for at, name in enumerate(function.get(4, []))})
        scope = ".".join(part for part in identity if part) + "/"
        self._nodes(function.get(7, []), scope, values, 0)
        defaults = [self._attribute(self._parse(each), scope, "", values, 0) for each in function.get(11, [])]
        outputs = [_value(values, name) for name in function.get(5, [])]
        lists = (sorted(function.get(9, [])), function.get(6, []), sorted(defaults), outputs)
        return digest("function", *identity, str(len(function.get(4, []))), *(digest(*each) for each in lists))

    def _nodes(self, contents: Sequence[bytes], scope: str, values: Values, depth: int) -> None:
        used: set[str] = set()
        nodes = []
        for position, data in enumerate(contents):
            self._often(position)
            fields = self._parse(data)
            label = text(fields, 3)
            if fields.get(5):
                # The names of tensors in attributes, as the core makes them.
                label = label if label and label not in used else f"{label or text(fields, 4)}.{position}"
                used.add(label)
            nodes.append(_Node(fields, label))
            self.operators[text(fields, 4)] += 1
            self._domains.add(_domain(fields, 7))
        try:
            order: Iterable[int] = schedule([node.fields for node in nodes], self.path, self._check)
        except InCircles:
            self._invalid, order = True, range(len(nodes))
        for turn, at in enumerate(order):
            self._often(turn)
            self._node(nodes[at], scope, values, depth)

    def _often(self, turn: int) -> None:
        if turn % OFTEN == 0:
            self._check()

    def _node(self, node: _Node, scope: str, values: Values, depth: int) -> None:
        fields, operator = node.fields, text(node.fields, 4)
        outputs = fields.get(2, [])
        name = next((each for each in outputs if each), b"")
        constant = scope + shown(name) if operator == "Constant" and name else ""
        inside = f"{scope}{node.label}/"
        attributes = sorted(self._attribute(self._parse(each), inside, constant, values, depth) for each in fields.get(5, []))
        inputs = [_value(values, name) for name in fields.get(1, [])]
        # How many outputs there are tells some operators what to do: Split, or BatchNormalization of old.
        identity = _domain(fields, 7), operator, text(fields, 8)
        whole = digest("node", *identity, str(len(outputs)), digest(*inputs), digest(*attributes))
        for at, name in enumerate(outputs):
            self._define(values, name, digest(whole, str(at)))

    def _define(self, values: Values, name: bytes, value: bytes) -> None:
        if name:
            self._invalid |= name in values.maps[0]
            values[name] = value

    def _attribute(self, attribute: Message, scope: str, constant: str, values: Values, depth: int) -> bytes:
        title = text(attribute, 1)
        parts: list[bytes] = []
        for field, contents in sorted(attribute.items()):
            several = field in (10, 11, 23)
            name = constant or scope + title
            if field in (5, 10):
                contents = [self._tensor(each, f"{name}.{at}" if several else name) for at, each in enumerate(contents)]
            elif field in (22, 23):
                contents = [self._sparse(each, f"{name}.{at}" if several else name) for at, each in enumerate(contents)]
            elif field in (6, 11):
                scopes = [f"{scope}{title}.{at}/" if several else f"{scope}{title}/" for at in range(len(contents))]
                contents = [self._subgraph(each, inside, values, depth + 1) for each, inside in zip(contents, scopes, strict=True)]
            elif field in (7, 8):
                # Packed or not, these are the same numbers.
                contents = [b"".join(contents)]
            if field != _DOCUMENTATION:
                parts.append(digest(str(field), *contents))
        return digest("attribute", *parts)

    def _subgraph(self, data: bytes, scope: str, outer: Values, depth: int) -> bytes:
        inputs, outputs = self._graph(data, scope, outer, depth)
        return digest("graph", str(len(inputs)), *(value for _, value in outputs))

    def _tensor(self, data: bytes, name: str, listed: bool = False) -> bytes:
        """Digest of a tensor that the core calls ``name`` if it lists it, as it does every one ``listed`` and the large ones."""
        tensor = self._parse(data)
        if number(tensor, 14, self.path) == 1:
            # The core wrote this in place of values, and of whatever the file named there.
            pairs = [self._parse(each) for each in tensor.get(13, [])]
            return self._weight(next((text(pair, 2) for pair in pairs if last(pair, 1) == _KEY), name))
        if number(tensor, 2, self.path) != STRING and name in self.tensors and (listed or tensor_bytes(tensor, self.path) > SMALL):
            return self._weight(name)
        return tensor_values(tensor, self.path)

    def _sparse(self, data: bytes, name: str) -> bytes:
        sparse = self._parse(data)
        values, indices = (sparse.get(field, [b""])[0] for field in (1, 2))
        parts = self._tensor(values, name, listed=True), self._tensor(indices, f"{name}/indices", listed=True)
        return digest("sparse", *parts, *sparse.get(3, []))

    def _weight(self, name: str) -> bytes:
        return self.weights.get(name) or digest("weight without counterpart", name)

    def _parse(self, data: bytes) -> Message:
        return parse(data, self.path)


def _domain(message: Message, field: int) -> str:
    """The domain of an operator, with the one name that ONNX's own has beside none."""
    return "" if (name := text(message, field)) == "ai.onnx" else name


def _value(values: Values, name: bytes) -> bytes:
    return values.get(name) or digest("absent", name)
