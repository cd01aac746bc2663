"""Whether two ONNX files compute the same from their weights: a digest of every output, down to inputs, weights and constants.

Names of nodes and values, their order in the file and nodes that no output needs do not count. Weights count by which tensor of the
reference they stand against, not by their values, which the rest of the diff compares.
"""

from __future__ import annotations

import hashlib
import struct
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from modelguard._diff.match import Matching
from modelguard._diff.pairing import Pairing
from modelguard._diff.scales import stored_as
from modelguard._diff.schedule import InCircles, schedule
from modelguard._formats.onnx_checkpoint import OnnxCheckpoint
from modelguard._formats.onnx_operators import meaning
from modelguard.checkpoint import Checkpoint
from modelguard.onnx_graph import TEXT, Attribute, Function, Graph, Node, OnnxModel, SparseTensor, Tensor

OFTEN = 1024
"""Nodes from one look at the deadline to the next."""

OWN = ("", "ai.onnx")
"""The two names of ONNX's own set of operators."""

Values = ChainMap[str, bytes]
"""Digests by name, those of the graph itself in front."""


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
    versions: tuple[int, int] | None = None
    """Of the operator set, where the two sides import different ones."""
    redefined: tuple[str, ...] = ()
    """Operators of both that mean something else in the checkpoint's version of the set."""


def compare(matching: Matching, check: Callable[[], None] = lambda: None) -> tuple[tuple[GraphDiff, ...], tuple[str, ...]]:
    """The checkpoints whose graph is not their counterpart's, and the names of those whose counterpart has none.

    ``check`` is called every so many nodes and may raise to stop.
    """
    pairs: dict[int, list[Pairing]] = {}
    # A tensor that stands against two counts as the one of its own name, not as one that shares it.
    for pair in sorted(matching.pairs, key=lambda pair: pair.how == "tied"):
        pairs.setdefault(id(stored_as(pair.after.checkpoint)), []).append(pair)
    found, alone = [], []
    for reference, checkpoint in matching.groups:
        graphs = [item for item in map(stored_as, reference) if isinstance(item, OnnxCheckpoint)]
        for at, new in enumerate(item for item in map(stored_as, checkpoint) if isinstance(item, OnnxCheckpoint)):
            if not graphs:
                alone.append(new.name)
                continue
            old = next((item for item in graphs if item.name == new.name), graphs[min(at, len(graphs) - 1)])
            if (item := _compare(old, new, pairs.get(id(new), []), check)) is not None:
                found.append(item)
    return tuple(sorted(found, key=lambda item: (item.name, item.file))), tuple(sorted(alone))


def _compare(old: OnnxCheckpoint, new: OnnxCheckpoint, pairs: Sequence[Pairing], check: Callable[[], None]) -> GraphDiff | None:
    if all(pair.before.tensor.name == pair.after.tensor.name for pair in pairs) and old.skeleton() == new.skeleton():
        return None
    weights = _Weights(old, new, pairs, check)
    left, right = _Model(old.graph(check), weights.before, "reference", check), _Model(new.graph(check), weights.after, "checkpoint", check)
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
        None if left.version == right.version else (left.version, right.version),
        tuple(sorted(op for op in left.own & right.own if meaning(op, left.version) != meaning(op, right.version))),
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


class _Model:
    """One side. ``weights`` maps its tensors to what both sides call them; ``setting`` is what outputs depend on beside the graph."""

    def __init__(self, model: OnnxModel, weights: Mapping[str, bytes], side: str, check: Callable[[], None]) -> None:
        self.weights = weights
        self.operators: Counter[str] = Counter()
        self._check, self._domains, self._invalid = check, set[str](), False
        self.own = set[str]()
        """The operators of ONNX's own set that are used."""
        self.version = self._version = _version(model.opsets)
        functions = sorted(self._function(each) for each in model.functions)
        self.inputs, self.outputs = self._graph(model.graph, Values(), 0)
        # A name with two meanings and a value made from itself have no meaning that could be compared.
        mark = side if self._invalid else ""
        # Of ONNX's own set each node says what it resolves to.
        opsets = (f"{version} {domain}" for domain, version in sorted(model.opsets) if domain in self._domains and domain not in OWN)
        self.setting = digest("model", mark, digest(*opsets), digest(*functions), digest(*sorted(model.training)))

    def _graph(self, graph: Graph, outer: Values, depth: int) -> tuple[list[str], list[tuple[str, bytes]]]:
        """Names of the inputs, name and digest of every output; ``outer`` holds the digests of the values that a subgraph sees."""
        values = outer.new_child()
        for tensor in graph.initializers:
            self._define(values, tensor.name, self._tensor(tensor))
        for sparse in graph.sparse_initializers:
            self._define(values, sparse.name, self._sparse(sparse))
        # Of the whole model, an initializer is the default of the input of its name; what a subgraph is given replaces it.
        inputs = [name for name in graph.inputs if depth or name not in values.maps[0]]
        values.update({name: digest("input", str(depth), str(at)) for at, name in enumerate(inputs)})
        self._nodes(graph.nodes, values, depth)
        return inputs, [(name, _value(values, name)) for name in graph.outputs]

    def _function(self, function: Function) -> bytes:
        identity = function.domain, function.name, function.overload
        self._domains.add(function.domain)
        values = Values({name: digest("input", "function", str(at)) for at, name in enumerate(function.inputs)})
        self._version = _version(function.opsets)
        self._nodes(function.nodes, values, 0)
        defaults = sorted(self._attribute(each, values, 0) for each in function.defaults)
        self._version = self.version
        opsets = (f"{version} {domain}" for domain, version in sorted(function.opsets) if domain not in OWN)
        outputs = (_value(values, name) for name in function.outputs)
        lists = (opsets, function.attributes, defaults, outputs)
        return digest("function", *identity, str(len(function.inputs)), *(digest(*each) for each in lists))

    def _nodes(self, nodes: Sequence[Node], values: Values, depth: int) -> None:
        for node in nodes:
            self.operators[node.op] += 1
            self._domains.add(node.domain)
            if node.domain in OWN:
                self.own.add(node.op)
        try:
            order: Iterable[int] = schedule(nodes, self._check)
        except InCircles:
            self._invalid, order = True, range(len(nodes))
        for turn, at in enumerate(order):
            if turn % OFTEN == 0:
                self._check()
            self._node(nodes[at], values, depth)

    def _node(self, node: Node, values: Values, depth: int) -> None:
        attributes = sorted(self._attribute(each, values, depth) for each in node.attributes)
        inputs = (_value(values, name) for name in node.inputs)
        # How many outputs there are tells some operators what to do: Split, or BatchNormalization of old.
        version = str(meaning(node.op, self._version)) if node.domain in OWN else ""
        identity = "" if node.domain in OWN else node.domain, node.op, node.overload, str(len(node.outputs)), version
        whole = digest("node", *identity, digest(*inputs), digest(*attributes))
        for at, name in enumerate(node.outputs):
            self._define(values, name, digest(whole, str(at)))

    def _define(self, values: Values, name: str, value: bytes) -> None:
        if name:
            self._invalid |= name in values.maps[0]
            values[name] = value

    def _attribute(self, attribute: Attribute, values: Values, depth: int) -> bytes:
        """Everything that an attribute holds but its documentation."""
        single = {
            "f": None if attribute.f is None else struct.pack("<f", attribute.f),
            "i": None if attribute.i is None else str(attribute.i),
            "s": attribute.s,
            "t": None if attribute.t is None else self._tensor(attribute.t),
            "g": None if attribute.g is None else self._subgraph(attribute.g, values, depth + 1),
            "sparse": None if attribute.sparse_tensor is None else self._sparse(attribute.sparse_tensor),
            "floats": None if attribute.floats is None else attribute.floats.tobytes(),
            "ints": None if attribute.ints is None else attribute.ints.tobytes(),
        }
        several = {
            "strings": attribute.strings,
            "tensors": [self._tensor(each) for each in attribute.tensors],
            "graphs": [self._subgraph(each, values, depth + 1) for each in attribute.graphs],
            "sparses": [self._sparse(each) for each in attribute.sparse_tensors],
            "types": attribute.types,
        }
        held = (digest(name, content) for name, content in single.items() if content is not None)
        lists = (digest(name, *contents) for name, contents in several.items() if contents)
        return digest("attribute", attribute.name, str(attribute.type), attribute.reference, *held, *lists)

    def _subgraph(self, graph: Graph, outer: Values, depth: int) -> bytes:
        inputs, outputs = self._graph(graph, outer, depth)
        return digest("graph", str(len(inputs)), *(value for _, value in outputs))

    def _tensor(self, tensor: Tensor) -> bytes:
        if tensor.stored is not None:
            return self.weights.get(tensor.stored) or digest("weight without counterpart", tensor.stored)
        values = digest(*tensor.texts) if tensor.dtype == TEXT else tensor.data
        return digest("values", tensor.dtype, str(tensor.shape), values)

    def _sparse(self, sparse: SparseTensor) -> bytes:
        return digest("sparse", self._tensor(sparse.values), self._tensor(sparse.indices), str(sparse.shape))


def _version(opsets: Iterable[tuple[str, int]]) -> int:
    return max((version for domain, version in opsets if domain in OWN), default=1)


def _value(values: Values, name: str) -> bytes:
    return values.get(name) or digest("absent", name)


def digest(*parts: bytes | str) -> bytes:
    """The digest of ``parts``, each with its length in front."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.digest()
