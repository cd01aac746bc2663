"""Whether two ONNX files compute the same from their weights: a digest of every output, down to inputs, weights and constants.

Names of nodes and values, their order in the file and nodes that no output needs do not count. Weights count by which tensor of the
reference they stand against, not by their values, which the rest of the diff compares. Field numbers are those of onnx.proto; the
core has checked the messages on the way to tensors before it hands out a skeleton.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from modelguard import Checkpoint, FormatError
from modelguard_weight_diff.pairing import Pairing

_KEY = b"modelguard"
"""The key under which a skeleton names a tensor that it leaves out: see ``skeleton`` of the core's ONNX checkpoints."""
_UNSEEN = {13}
"""Fields of an attribute that change nothing: the documentation."""
_DECORATION = {8, 12, 16}
"""Those of a tensor: name, documentation, metadata."""

Message = dict[int, list[bytes]]
Values = MutableMapping[bytes, bytes]
"""Digests by name. Names stay bytes: two that are no UTF-8 must not become one."""


@dataclass(frozen=True, slots=True)
class GraphDiff:
    """What differs between two graphs: operators by how many there are more or fewer, and the outputs that are computed otherwise."""

    name: str
    file: str
    added: Mapping[str, int]
    removed: Mapping[str, int]
    outputs: tuple[str, ...]


def compare(
    pairs: Sequence[Pairing], reference: Sequence[Checkpoint], checkpoint: Sequence[Checkpoint], check: Callable[[], None]
) -> tuple[GraphDiff, ...]:
    """The checkpoints whose graph is not their reference's; those of which either side has no graph cannot be compared."""
    together: dict[tuple[int, int], tuple[Checkpoint, Checkpoint, dict[str, str]]] = {}
    for pair in pairs:
        old, new = pair.before.checkpoint, pair.after.checkpoint
        _, _, names = together.setdefault((id(old), id(new)), (old, new, {}))
        names.setdefault(pair.after.tensor.name, pair.before.tensor.name + (".T" if pair.how == "transposed" else ""))
    alone = [[item for item in side if _skeleton(item) is not None] for side in (reference, checkpoint)]
    if not together and len(alone[0]) == len(alone[1]) == 1:
        together[0, 0] = (alone[0][0], alone[1][0], {})
    found = []
    for old, new, names in together.values():
        check()
        if (item := _compare(old, new, names)) is not None:
            found.append(item)
    return tuple(sorted(found, key=lambda item: (item.name, item.file)))


def _skeleton(checkpoint: Checkpoint) -> Callable[[], bytes] | None:
    return getattr(checkpoint, "skeleton", None) if checkpoint.format == "onnx" else None


def _compare(old: Checkpoint, new: Checkpoint, names: Mapping[str, str]) -> GraphDiff | None:
    before, after = _skeleton(old), _skeleton(new)
    if before is None or after is None:
        return None
    data = before(), after()
    if data[0] == data[1] and all(mine == theirs for mine, theirs in names.items()):
        return None
    sides = _Model(data[0], old, {name: name for name in old.tensors}), _Model(data[1], new, names)
    left, right = sides
    otherwise = [name for at, (name, digest) in enumerate(right.outputs) if [digest] != [item for _, item in left.outputs[at : at + 1]]]
    if not otherwise and len(left.outputs) == len(right.outputs) and left.setting == right.setting:
        return None
    return GraphDiff(
        new.name,
        new.files[0],
        dict(sorted((right.operators - left.operators).items())),
        dict(sorted((left.operators - right.operators).items())),
        tuple(otherwise),
    )


class _Model:
    """One side. ``names`` maps its tensors to what both sides call them; ``setting`` is what outputs depend on beside the graph."""

    def __init__(self, data: bytes, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        self.path, self.tensors, self.names = checkpoint.files[0], checkpoint.tensors, names
        self.operators: Counter[str] = Counter()
        model = self._parse(data)
        functions = sorted(self._function(each) for each in model.get(25, []))
        self.setting = _digest("model", *sorted(model.get(8, [])), *functions)
        (graph,) = model[7][:1]
        self.outputs = self._graph(graph, "", {})

    def _graph(self, data: bytes, scope: str, outer: Values, inner: str = "") -> list[tuple[str, bytes]]:
        """Name and digest of every output; ``outer`` holds the digests of the values that a subgraph sees."""
        graph = self._parse(data)
        own: dict[bytes, bytes] = {}
        values: Values = ChainMap(own, outer)
        for tensor in graph.get(5, []):
            name = _last(self._parse(tensor), 8)
            own[name] = self._weight(scope + _shown(name))
        for sparse in graph.get(15, []):
            name = _last(self._parse(self._parse(sparse).get(1, [b""])[0]), 8)
            own[name] = _digest("sparse", self._weight(scope + _shown(name)), *self._parse(sparse).get(3, []))
        inputs = [name for each in graph.get(11, []) if (name := _last(self._parse(each), 1)) not in own]
        values.update({name: _digest("input", inner, str(at)) for at, name in enumerate(inputs)})
        self._nodes(graph.get(1, []), scope, values)
        return [(_shown(name), _value(values, name)) for name in (_last(self._parse(each), 1) for each in graph.get(12, []))]

    def _function(self, data: bytes) -> bytes:
        function = self._parse(data)
        identity = [_text(function, number) for number in (10, 1, 13)]
        values: Values = {name: _digest("input", "function", str(at)) for at, name in enumerate(function.get(4, []))}
        scope = ".".join(part for part in identity if part) + "/"
        self._nodes(function.get(7, []), scope, values)
        outputs = [_value(values, name) for name in function.get(5, [])]
        defaults = [self._attribute(self._parse(each), scope, "", values) for each in function.get(11, [])]
        return _digest("function", *identity, *sorted(function.get(9, [])), *function.get(6, []), *sorted(defaults), *outputs)

    def _nodes(self, nodes: Sequence[bytes], scope: str, values: Values) -> None:
        used: set[str] = set()
        for position, data in enumerate(nodes):
            node = self._parse(data)
            operator, label = _text(node, 4), _text(node, 3)
            self.operators[operator] += 1
            outputs = node.get(2, [])
            attributes = []
            if node.get(5):
                # The names of tensors in attributes, as the core makes them.
                label = label if label and label not in used else f"{label or operator}.{position}"
                used.add(label)
                constant = scope + _shown(outputs[0]) if operator == "Constant" and outputs and outputs[0] else ""
                attributes = [self._attribute(self._parse(each), f"{scope}{label}/", constant, values) for each in node[5]]
            inputs = [_value(values, name) for name in node.get(1, [])]
            whole = _digest("node", _text(node, 7), operator, _text(node, 8), str(len(inputs)), *inputs, *sorted(attributes))
            values.update({name: _digest(whole, str(at)) for at, name in enumerate(outputs) if name})

    def _attribute(self, attribute: Message, scope: str, constant: str, values: Values) -> bytes:
        title = _text(attribute, 1)
        parts: list[bytes] = []
        for number, contents in sorted(attribute.items()):
            several = number in (10, 11)
            if number in (5, 10):
                name = constant or scope + title
                contents = [self._tensor(each, f"{name}.{at}" if several else name) for at, each in enumerate(contents)]
            elif number in (6, 11):
                scopes = [f"{scope}{title}.{at}/" if several else f"{scope}{title}/" for at in range(len(contents))]
                graphs = [self._graph(each, inside, values, inside) for each, inside in zip(contents, scopes, strict=True)]
                contents = [_digest("graph", *(digest for _, digest in outputs)) for outputs in graphs]
            elif number in (7, 8):
                # Packed or not, these are the same numbers.
                contents = [b"".join(contents)]
            if number not in _UNSEEN:
                parts.append(_digest(str(number), *contents))
        return _digest("attribute", *parts)

    def _tensor(self, data: bytes, name: str) -> bytes:
        tensor = self._parse(data)
        for each in tensor.get(13, []):
            pair = self._parse(each)
            if pair.get(1) == [_KEY]:
                return self._weight(_text(pair, 2))
        if name in self.tensors:
            return self._weight(name)
        return _digest("constant", *(_digest(str(at), *tensor[at]) for at in sorted(tensor.keys() - _DECORATION)))

    def _weight(self, name: str) -> bytes:
        return _digest("weight", self.names[name]) if name in self.names else _digest("weight without counterpart", name)

    def _parse(self, data: bytes) -> Message:
        found: Message = {}
        for number, content in _fields(data, self.path):
            found.setdefault(number, []).append(content)
        return found


def _value(values: Values, name: bytes) -> bytes:
    return values.get(name) or _digest("absent", name)


def _last(message: Message, number: int) -> bytes:
    return message[number][-1] if number in message else b""


def _text(message: Message, number: int) -> str:
    return _shown(_last(message, number))


def _shown(name: bytes) -> str:
    """A name as the core spells it."""
    return name.decode("utf-8", "backslashreplace")


def _digest(*parts: bytes | str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def _fields(data: bytes, path: str) -> Iterator[tuple[int, bytes]]:
    """Number and content of every field of a protobuf message (https://protobuf.dev/programming-guides/encoding/)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, path)
        start, wire = at, tag & 7
        if wire == 0:
            _, at = _varint(data, at, path)
        elif wire == 2:
            length, start = _varint(data, at, path)
            at = start + length
        else:
            at += {1: 8, 5: 4}.get(wire, len(data) + 1)
        if at > len(data):
            raise _broken(path)
        yield tag >> 3, data[start:at]


def _varint(data: bytes, at: int, path: str) -> tuple[int, int]:
    value = 0
    for shift in range(10):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << 7 * shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise _broken(path)


def _broken(path: str) -> FormatError:
    return FormatError(path, "its graph holds a message that is no protobuf", "export the model again")
