"""The messages of an ONNX file as the values of :mod:`modelguard.onnx_graph`, under the limits that opening it had.

Which tensor of the checkpoint a TensorProto is, is known by where the message begins: only the walk that opened the file makes names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modelguard._formats.onnx_schema import Messages
from modelguard._formats.onnx_tensors import Stored, TensorFields, dimensions, gather, locate
from modelguard._formats.protobuf import Field, Wire
from modelguard.onnx_graph import TEXT, Attribute, Function, Graph, Node, OnnxModel, Properties, SparseTensor, Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelguard.artifact import ArtifactFile

OFTEN = 1024
"""Nodes from one look at the deadline to the next."""

Found = dict[str, list[Field]]


class Reader:
    """Reads one file. ``names`` has the checkpoint's name of each TensorProto it lists, by where the message begins, ``stored`` where
    their values are; ``check`` is called every so many nodes and may raise to stop.

    Raises :class:`~modelguard.errors.FormatError` or :class:`~modelguard.errors.LimitError`.
    """

    def __init__(
        self, wire: Wire, file: ArtifactFile, names: Mapping[int, str], stored: Mapping[str, Stored], check: Callable[[], None]
    ) -> None:
        self._messages = Messages(wire)
        self._wire, self._file, self._names, self._stored, self._check = wire, file, names, stored, check
        self._turns = 0
        self._spelled: dict[str, bytes] = {}

    def model(self, training: Callable[[Field], bytes]) -> OnnxModel:
        """The whole file; ``training`` serialises a TrainingInfoProto."""
        found = self._fields("Model", 0, len(self._wire.view), 0)
        return OnnxModel(
            self._graph(found["graph"][0], 1),
            tuple(self._function(field) for field in found.get("functions", ())),
            self._opsets(found),
            tuple(training(field) for field in found.get("training_info", ())),
            found["ir_version"][0].value if "ir_version" in found else 0,
            self._text(found, "producer_name"),
            self._text(found, "producer_version"),
            self._text(found, "domain"),
            self._text(found, "doc_string"),
            self._properties(found),
        )

    def _graph(self, graph: Field, depth: int) -> Graph:
        found = self._fields("Graph", graph.begin, graph.end, depth)
        inputs, outputs = ([self._value(field, depth + 1) for field in found.get(side, ())] for side in ("input", "output"))
        return Graph(
            self._text(found, "name"),
            self._nodes(found, depth + 1),
            tuple(name for name, _ in inputs),
            tuple(name for name, _ in outputs),
            tuple(self._tensor(field, depth + 1) for field in found.get("initializer", ())),
            tuple(self._sparse(field, depth + 1) for field in found.get("sparse_initializer", ())),
            self._text(found, "doc_string"),
            self._properties(found),
            (*inputs, *outputs),
        )

    def _function(self, function: Field) -> Function:
        found = self._fields("Function", function.begin, function.end, 1)
        return Function(
            _domain(self._text(found, "domain")),
            self._text(found, "name"),
            self._text(found, "overload"),
            self._texts(found, "input"),
            self._texts(found, "output"),
            self._nodes(found, 2),
            self._texts(found, "attribute"),
            tuple(self._attribute(field, 2) for field in found.get("attribute_proto", ())),
            self._opsets(found),
            self._text(found, "doc_string"),
            self._properties(found),
        )

    def _nodes(self, found: Found, depth: int) -> tuple[Node, ...]:
        return tuple(self._node(field, depth) for field in found.get("node", ()))

    def _node(self, node: Field, depth: int) -> Node:
        if self._turns % OFTEN == 0:
            self._check()
        self._turns += 1
        found = self._fields("Node", node.begin, node.end, depth)
        return Node(
            self._text(found, "op_type"),
            _domain(self._text(found, "domain")),
            self._text(found, "overload"),
            self._text(found, "name"),
            self._texts(found, "input"),
            self._texts(found, "output"),
            tuple(self._attribute(field, depth + 1) for field in found.get("attribute", ())),
            self._text(found, "doc_string"),
            self._properties(found),
        )

    def _attribute(self, attribute: Field, depth: int) -> Attribute:
        found = self._fields("Attribute", attribute.begin, attribute.end, depth)
        parts: dict[str, Any] = {}
        for name, fields in found.items():
            if name == "type":
                parts["type"] = fields[0].value
            elif name == "i":
                parts["i"] = fields[0].value - (1 << 64 if fields[0].value >> 63 else 0)
            elif name == "f":
                parts["f"] = struct.unpack("<f", self._bytes(fields[0]))[0]
            elif name == "s":
                parts["s"] = self._bytes(fields[0])
            elif name == "strings":
                parts["strings"] = tuple(map(self._bytes, fields))
            elif name in ("floats", "ints"):
                parts[name] = self._numbers(attribute, name)
            elif name in ("t", "g", "sparse_tensor"):
                read: Callable[[Field, int], Any] = {"t": self._tensor, "g": self._graph, "sparse_tensor": self._sparse}[name]
                parts[name] = read(fields[0], depth + 1)
            elif name in ("tensors", "graphs", "sparse_tensors"):
                read = {"tensors": self._tensor, "graphs": self._graph, "sparse_tensors": self._sparse}[name]
                parts[name] = tuple(read(field, depth + 1) for field in fields)
        types = (*found.get("tp", ()), *found.get("type_protos", ()))
        return Attribute(
            self._text(found, "name"),
            reference=self._text(found, "ref_attr_name"),
            types=tuple(map(self._bytes, types)),
            doc=self._text(found, "doc_string"),
            **parts,
        )

    def _numbers(self, attribute: Field, name: str) -> npt.NDArray[Any]:
        import numpy as np

        number, kind, dtype = (7, "fixed32", np.float32) if name == "floats" else (8, "varint", np.int64)
        blocks = list(self._wire.numbers(attribute.begin, attribute.end, number, "fixed32" if kind == "fixed32" else "varint"))
        values: npt.NDArray[Any] = (np.concatenate(blocks) if blocks else np.zeros(0, np.uint64)).view(dtype)
        values.flags.writeable = False
        return values

    def _tensor(self, field: Field, depth: int) -> Tensor:
        tensor = TensorFields.collect(self._messages, field.begin, field.end, depth)
        name = self._spell(self._bytes(tensor.title)) if tensor.title is not None else ""
        listed = self._names.get(field.begin)
        if listed is not None:
            stored = self._stored[listed]
            return Tensor(name, stored.dtype, stored.shape, listed)
        thing = f"{self._file.path}, byte {field.start}"
        if tensor.is_text:
            shape = dimensions(self._messages, field.begin, field.end, 1, thing)
            texts = self._fields("Tensor", field.begin, field.end, depth).get("string_data", ())
            return Tensor(name, TEXT, shape, None, texts=tuple(map(self._bytes, texts)))
        stored = locate(self._messages, tensor, thing, self._file, None)
        data = gather(self._wire, stored, thing) if stored.numbers is not None else b""
        if stored.offset is not None:
            data = self._wire.view[stored.offset : stored.offset + stored.length]
        return Tensor(name, stored.dtype, stored.shape, None, bytes(data))

    def _sparse(self, sparse: Field, depth: int) -> SparseTensor:
        found = self._fields("Sparse", sparse.begin, sparse.end, depth)
        values, indices = (self._tensor(found[part][0], depth + 1) for part in ("values", "indices"))
        thing = f"{self._file.path}, byte {sparse.start}"
        return SparseTensor(values, indices, dimensions(self._messages, sparse.begin, sparse.end, 3, thing))

    def _value(self, value: Field, depth: int) -> tuple[str, bytes]:
        """Name and serialised type of a ValueInfoProto."""
        found = self._fields("Value", value.begin, value.end, depth)
        return self._text(found, "name"), self._bytes(found["type"][0]) if "type" in found else b""

    def _opsets(self, found: Found) -> tuple[tuple[str, int], ...]:
        opsets = []
        for field in found.get("opset_import", ()):
            parts = self._fields("Opset", field.begin, field.end, 1)
            opsets.append((_domain(self._text(parts, "domain")), parts["version"][0].value if "version" in parts else 0))
        return tuple(opsets)

    def _properties(self, found: Found) -> Properties:
        pairs = (self._fields("Pair", field.begin, field.end, 1) for field in found.get("metadata_props", ()))
        return tuple((self._text(pair, "key"), self._text(pair, "value")) for pair in pairs)

    def _fields(self, message: str, begin: int, end: int, depth: int) -> Found:
        found: Found = {}
        for name, field in self._messages.fields(message, begin, end, depth):
            found.setdefault(name, []).append(field)
        return found

    def _bytes(self, field: Field) -> bytes:
        return bytes(self._wire.view[field.begin : field.end])

    def _text(self, found: Found, name: str) -> str:
        return self._spell(self._bytes(found[name][0])) if name in found else ""

    def _texts(self, found: Found, name: str) -> tuple[str, ...]:
        return tuple(self._spell(self._bytes(field)) for field in found.get(name, ()))

    def _spell(self, raw: bytes) -> str:
        """``raw`` as text, another one for each: of two values whose names read alike one could stand in for the other."""
        text = raw.decode("utf-8", "backslashreplace")
        if "\\" in text:
            while self._spelled.setdefault(text, raw) != raw:
                text += "'"
        return text


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
