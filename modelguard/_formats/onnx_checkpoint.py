"""ONNX: every tensor of a model, wherever it hides, read without building the model.

``onnx.load`` would copy every weight, follow external data by the name a hostile file gives it, and know nothing of tensors in
subgraphs. This reader walks the protobuf wire format over a memory map. Tensors are:

* initializers and sparse initializers of the main graph, under their own names (indices of a sparse one: ``<name>/indices``);
* those of subgraphs, in attributes ``g`` and ``graphs`` nested to any depth: ``<node>/<attribute>/<name>``;
* those of local functions: ``<domain>.<function>/<node>/...``, and of training graphs: ``training.<n>/<graph>/...``;
* values of ``Constant`` nodes larger than 64 bytes, under the name of the node's output;
* any other attribute that holds a tensor or a list of numbers larger than 64 bytes: ``<node>/<attribute>``.

``<node>`` is the node's name, or ``<op type>.<position>`` when it has none or shares it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelguard._formats.elements import MAX_TENSORS, as_array
from modelguard._formats.external import Neighbours
from modelguard._formats.mapped import MappedFile
from modelguard._formats.names import checkpoint_name, deceptive_names, shown
from modelguard._formats.onnx_reader import Reader
from modelguard._formats.onnx_schema import EXTENSIONS, Messages
from modelguard._formats.onnx_skeleton import skeleton
from modelguard._formats.onnx_tensors import Numbers, Stored, TensorFields, dimensions, gather, locate
from modelguard._formats.protobuf import LEN, Field, Wire
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, FormatProblem, TensorInfo
from modelguard.errors import FormatError, LimitError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    from modelguard.onnx_graph import OnnxModel

SMALL = 64
"""Bytes up to which a constant is taken for a parameter of its node (axes, a fill value) and not for a weight."""

KEPT = 1024
"""Bytes of a tensor up to which a skeleton keeps its values."""

_EXPORT = "export the model again, and do not load it as it is"


def open_onnx(file: ArtifactFile, artifact: Artifact) -> tuple[OnnxCheckpoint, tuple[FormatProblem, ...]]:
    """What :meth:`modelguard.Format.open` returns."""
    view = file.map()
    walk = _Walk(view, file, Neighbours(artifact, file.path))
    walk.model()
    checkpoint = OnnxCheckpoint(MappedFile(file, len(view)), walk.tensors, walk.metadata, walk.names)
    return checkpoint, (*walk.problems(), *deceptive_names(file.path, walk.tensors))


class OnnxCheckpoint(Checkpoint):
    """The tensors of one ONNX file and of the external data it refers to."""

    format = "onnx"

    def __init__(self, mapped: MappedFile, tensors: Mapping[str, Stored], metadata: Mapping[str, str], names: Mapping[int, str]) -> None:
        self.name = checkpoint_name(mapped.file.path, EXTENSIONS)
        self._mapped = mapped
        self._stored = dict(tensors)
        self._names = names
        outside = {stored.file.path: stored.file for stored in tensors.values() if stored.file.path != mapped.file.path}
        self._maps = {mapped.file.path: mapped, **{path: MappedFile(file, file.size) for path, file in sorted(outside.items())}}
        self.files = tuple(self._maps)
        self._tensors = MappingProxyType({name: _info(name, stored) for name, stored in sorted(tensors.items())})
        self._metadata = MappingProxyType(dict(metadata))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def raw(self, name: str) -> memoryview:
        stored = self._stored[name]
        if stored.numbers is not None:
            path = self._mapped.file.path
            return gather(Wire(self._mapped.view(), path), stored, f"{path}, tensor {shown(name)}")
        if stored.offset is None:
            return memoryview(b"")
        return self._maps[stored.file.path].slice(stored.offset, stored.length)

    def read(self, name: str) -> npt.NDArray[Any]:
        stored = self._stored[name]
        return as_array(self.raw(name), stored.dtype, stored.shape)

    def skeleton(self) -> bytes:
        """The serialised ModelProto without its weights, for ``onnx.ModelProto.FromString``.

        Every TensorProto that this checkpoint has and whose values take more than 1024 bytes or lie outside the file has
        ``data_location`` EXTERNAL and the one ``external_data`` entry ``modelguard: <name of the tensor in this checkpoint>``. All
        else is as in the file. No weight is copied.
        """
        return skeleton(self._wire(), self._removable())

    def graph(self, check: Callable[[], None] = lambda: None) -> OnnxModel:
        wire = self._wire()
        removable = self._removable()
        return Reader(wire, self._mapped.file, self._names, self._stored, check).model(
            lambda field: skeleton(wire, removable, "Training", field.begin, field.end)
        )

    def _wire(self) -> Wire:
        return Wire(self._mapped.view(), self._mapped.file.path)

    def _removable(self) -> dict[int, str]:
        """Names of the tensors a skeleton leaves out, by where their message begins."""
        path = self._mapped.file.path
        stored = self._stored
        return {begin: name for begin, name in self._names.items() if stored[name].length > KEPT or stored[name].file.path != path}


def onnx_skeleton(checkpoint: Checkpoint) -> bytes:
    """The graph of an ONNX checkpoint without its weights: see :meth:`OnnxCheckpoint.skeleton`.

    Raises :class:`~modelguard.errors.ModelError` for a checkpoint of another format.
    """
    if not isinstance(checkpoint, OnnxCheckpoint):
        raise ModelError(checkpoint.name, "is not an ONNX checkpoint", "scan the .onnx file")
    return checkpoint.skeleton()


def _info(name: str, stored: Stored) -> TensorInfo:
    return TensorInfo(name, stored.dtype, stored.shape, stored.file.path, stored.offset, stored.length)


class _Walk:
    """Collects the tensors of one file. Methods carry the name of the message they walk; ``scope`` prefixes names of what they find."""

    def __init__(self, view: memoryview, file: ArtifactFile, neighbours: Neighbours) -> None:
        self.messages = Messages(Wire(view, file.path))
        self.file = file
        self.neighbours = neighbours
        self.tensors: dict[str, Stored] = {}
        self.metadata: dict[str, str] = {}
        self.names: dict[int, str] = {}
        """Names of the TensorProtos among :attr:`tensors`, by where their message begins. Nothing else makes names."""
        self._copies: dict[str, int] = {}
        self._texts = 0

    def model(self) -> None:
        found: dict[str, list[Field]] = {}
        for name, field in self.messages.fields("Model", 0, len(self.messages.wire.view)):
            found.setdefault(name, []).append(field)
        if "graph" not in found:
            raise FormatError(self.file.path, "is a model without a graph", _EXPORT)
        self._graph(found["graph"][0], "", 1)
        for function in found.get("functions", ()):
            self._function(function, 1)
        for index, training in enumerate(found.get("training_info", ())):
            for name, field in self.messages.fields("Training", training.begin, training.end, 1):
                if name in ("initialization", "algorithm"):
                    self._graph(field, f"training.{index}/{name}/", 2)
        self.metadata = self.messages.pairs(found.get("metadata_props", []), f"metadata_props of {self.file.path}")

    def problems(self) -> list[FormatProblem]:
        """What is wrong but keeps nothing from being read."""
        path = self.file.path
        found: list[FormatProblem] = []
        if self._copies:
            name, count = next(iter(self._copies)), len(self._copies)
            message = f"{path}: tensor {shown(name)} is there more than once ({count} such names), so parsers disagree on which one counts"
            found.append(FormatProblem("MG0107", path, f"{message}; {_EXPORT}", tensor=name, evidence={"names": count}))
        if self.messages.unknown_fields:
            count, size = self.messages.unknown_fields, self.messages.unknown_bytes
            message = f"{path}: ONNX does not define {count} of its fields ({size} bytes); ask the author what writes them"
            found.append(FormatProblem("MG0115", path, message, evidence={"fields": count, "bytes": size}))
        if self._texts:
            message = f"{path}: {self._texts} tensors hold text, which no detector compares"
            found.append(FormatProblem("MG0117", path, message, evidence={"tensors": self._texts}))
        return found

    def _graph(self, graph: Field, scope: str, depth: int) -> None:
        nodes: list[Field] = []
        initializers = 0
        for name, field in self.messages.fields("Graph", graph.begin, graph.end, depth):
            if name == "node":
                nodes.append(field)
            elif name == "initializer":
                self._tensor(field, scope, depth + 1, f"initializer.{initializers}")
                initializers += 1
            elif name == "sparse_initializer":
                self._sparse(field, scope, depth + 1, f"initializer.{initializers}")
                initializers += 1
        self._nodes(nodes, scope, depth + 1)

    def _function(self, function: Field, depth: int) -> None:
        names = {"domain": "", "name": "", "overload": ""}
        nodes: list[Field] = []
        attributes: list[Field] = []
        for name, field in self.messages.fields("Function", function.begin, function.end, depth):
            if name in names:
                names[name] = self.messages.name(field)
            elif name == "node":
                nodes.append(field)
            elif name == "attribute_proto":
                attributes.append(field)
        scope = ".".join(part for part in names.values() if part) + "/"
        for field in attributes:
            self._attribute(field, scope, "", depth + 1)
        self._nodes(nodes, scope, depth + 1)

    def _nodes(self, nodes: list[Field], scope: str, depth: int) -> None:
        used: set[str] = set()
        for position, node in enumerate(nodes):
            label = op_type = output = ""
            attributes: list[Field] = []
            for name, field in self.messages.fields("Node", node.begin, node.end, depth):
                if name == "name":
                    label = self.messages.name(field)
                elif name == "op_type":
                    op_type = self.messages.name(field)
                elif name == "output" and not output:
                    output = self.messages.name(field)
                elif name == "attribute":
                    attributes.append(field)
            if not attributes:
                continue
            if not label or label in used:
                label = f"{label or op_type}.{position}"
            used.add(label)
            for field in attributes:
                self._attribute(field, f"{scope}{label}/", scope + output if op_type == "Constant" and output else "", depth + 1)

    def _attribute(self, attribute: Field, scope: str, constant: str, depth: int) -> None:
        """``scope`` ends in the node's name; ``constant`` is the name of the output whose value the attribute is, or empty."""
        title = ""
        parts: dict[str, list[Field]] = {}
        lengths = {"floats": 0, "ints": 0}
        for name, field in self.messages.fields("Attribute", attribute.begin, attribute.end, depth):
            if name == "name":
                title = self.messages.name(field)
            elif name in lengths:
                unit = 4 if name == "floats" else 1
                lengths[name] += (field.end - field.begin) // unit if field.wire == LEN else 1
            elif name in ("t", "g", "sparse_tensor", "tensors", "graphs", "sparse_tensors"):
                parts.setdefault(name, []).append(field)
        name = constant or scope + title
        for part in ("t", "tensors"):
            for index, field in enumerate(parts.get(part, ())):
                self._tensor(field, "", depth + 1, name if part == "t" else f"{name}.{index}", small=SMALL, named=False)
        for part in ("sparse_tensor", "sparse_tensors"):
            for index, field in enumerate(parts.get(part, ())):
                self._sparse(field, "", depth + 1, name if part == "sparse_tensor" else f"{name}.{index}", named=False)
        for part in ("g", "graphs"):
            for index, field in enumerate(parts.get(part, ())):
                self._graph(field, f"{scope}{title}/" if part == "g" else f"{scope}{title}.{index}/", depth + 1)
        self._list(attribute, name, "floats", lengths["floats"])
        self._list(attribute, name, "ints", lengths["ints"])

    def _list(self, attribute: Field, name: str, which: str, length: int) -> None:
        """A repeated float or int of an attribute, as the vector it is; ``length`` bounds how many values it has."""
        width = 4 if which == "floats" else 8
        if length * width <= SMALL:
            return
        number, kind = (7, "fixed32") if which == "floats" else (8, "varint")
        low, high = (0, 2**32 - 1) if which == "floats" else (-(2**63), 2**63 - 1)
        numbers = Numbers(attribute.begin, attribute.end, number, "fixed32" if kind == "fixed32" else "varint", low, high)
        blocks = self.messages.wire.numbers(attribute.begin, attribute.end, number, numbers.kind)
        count = sum(len(block) for block in blocks)
        if count * width > SMALL:
            self._add(name, Stored("F32" if which == "floats" else "I64", (count,), count * width, self.file, numbers=numbers))

    def _tensor(self, field: Field, scope: str, depth: int, fallback: str, small: int = -1, named: bool = True) -> Stored | None:
        """A TensorProto; ``fallback`` names it when it does not (or, unless ``named``, must not) name itself. None for text."""
        tensor = TensorFields.collect(self.messages, field.begin, field.end, depth)
        name = scope + ((tensor.name if named else "") or fallback)
        thing = f"{self.file.path}, tensor {shown(name)}"
        if tensor.is_text:
            if tensor.is_external or tensor.raw:
                raise FormatError(thing, "it holds text outside string_data, which ONNX forbids", _EXPORT)
            self._texts += 1
            return None
        stored = locate(self.messages, tensor, thing, self.file, self.neighbours)
        if stored.length > small or tensor.is_external:
            self._add(name, stored, field.begin)
        return stored

    def _sparse(self, sparse: Field, scope: str, depth: int, fallback: str, named: bool = True) -> None:
        """A SparseTensorProto: its values under the tensor's name, and where they go."""
        parts = {name: field for name, field in self.messages.fields("Sparse", sparse.begin, sparse.end, depth) if name != "dims"}
        thing = f"{self.file.path}, sparse tensor {shown(scope + fallback)}"
        dimensions(self.messages, sparse.begin, sparse.end, 3, thing)
        if parts.keys() != {"values", "indices"}:
            raise FormatError(thing, "it needs both values and indices", _EXPORT)
        if named:
            fallback = TensorFields.collect(self.messages, parts["values"].begin, parts["values"].end, depth + 1).name or fallback
        found = [
            self._tensor(parts["values"], scope, depth + 1, fallback, named=False),
            self._tensor(parts["indices"], scope, depth + 1, f"{fallback}/indices", named=False),
        ]
        if any(stored is None or len(stored.shape) not in (1, 1 + index) for index, stored in enumerate(found)):
            raise FormatError(thing, "its values must be a vector of numbers, and its indices a vector or a matrix", _EXPORT, rule="MG0105")
        values, indices = (stored for stored in found if stored is not None)
        if indices.dtype != "I64" or indices.shape[0] != values.shape[0]:
            cause = f"it has {values.shape[0]} values and {indices.shape[0]} indices of {indices.dtype}"
            raise FormatError(thing, f"{cause}, and needs an I64 index for each value", _EXPORT, rule="MG0105")

    def _add(self, name: str, stored: Stored, begin: int | None = None) -> None:
        if len(self.tensors) >= MAX_TENSORS:
            raise LimitError(self.file.path, f"holds more than {MAX_TENSORS} tensors", "split the model", rule="MG0104")
        if name in self.tensors:
            count = self._copies.get(name, 1)
            while (other := f"{name}#{(count := count + 1)}") in self.tensors:
                pass
            self._copies[name] = count
            name = other
        self.tensors[name] = stored
        if begin is not None:
            self.names[begin] = name
