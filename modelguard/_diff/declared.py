"""What weight files say of themselves beside their tensors: metadata, and the inputs and outputs that an ONNX file declares.

What a graph computes is compared in ``graph.py``; callers of an ONNX file go by the names, types and shapes it declares as well, and some
read labels out of its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from modelguard._diff.documents import Compared, Difference, compare_values
from modelguard._diff.match import counterparts
from modelguard._formats.protobuf import LEN, VARINT, Field, Wire
from modelguard.checkpoint import Checkpoint
from modelguard.errors import ModelguardError
from modelguard.findings import Severity
from modelguard.onnx_graph import Function, Graph, OnnxModel, Properties

_ELEMENTS = (
    "undefined", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "double", "uint32", "uint64",
    "complex64", "complex128", "bfloat16",
)  # fmt: skip
"""TensorProto.DataType by number; newer ones are called by it."""
MAX_RANK = 32
_ABOUT = ("producer", "producer_version", "ir_version", "domain", "doc", "graph", "graph_doc", "notes")
"""What says who made an ONNX file and how; it is read by people."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """How what ``file`` says of itself differs from its counterpart in the reference; ``failure`` where that could not be read.

    ``digest`` is of all that it says.
    """

    file: str
    format: str
    compared: Compared | None
    digest: str = ""
    failure: str = ""


def diff_declarations(
    reference: Sequence[Checkpoint],
    checkpoints: Sequence[Checkpoint],
    same: Callable[[str, str], bool],
    check: Callable[[], None] = lambda: None,
) -> Iterator[Declaration]:
    """What differs, a :class:`Declaration` for every checkpoint. Files that are the ``same`` (reference's, checkpoint's) are not read."""
    for old, new in counterparts(reference, checkpoints):
        if old[0].format != new[0].format:
            continue
        if new[0].format == "onnx":
            for at, item in enumerate(new):
                other = next((each for each in old if each.name == item.name), old[min(at, len(old) - 1)])
                if not same(other.files[0], item.files[0]):
                    yield _graphs(other, item, check)
        elif not all(same(*files) for files in zip(_files(old), _files(new), strict=False)) or len(old) != len(new):
            before, after = ({"metadata": _merged(side)} for side in (old, new))
            yield _compared(new[0], before, after, check)


def _files(checkpoints: Sequence[Checkpoint]) -> list[str]:
    return [path for item in checkpoints for path in item.files]


def _merged(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """The metadata of all shards; a key under which they say different things has all of it."""
    found: dict[str, dict[str, None]] = {}
    for item in checkpoints:
        for key, value in item.metadata.items():
            found.setdefault(key, {})[str(value)] = None
    return {key: next(iter(values)) if len(values) == 1 else sorted(values) for key, values in found.items()}


def _weigh_for(format: str) -> Callable[[Difference], Severity]:
    def weigh(difference: Difference) -> Severity:
        # transformers goes by metadata.format to choose how it loads; all else in a safetensors file is for people.
        said = format == "safetensors" and difference.place != "metadata.format"
        return Severity.LOW if said or difference.place in _ABOUT else Severity.MEDIUM

    return weigh


def _graphs(old: Checkpoint, new: Checkpoint, check: Callable[[], None]) -> Declaration:
    try:
        before, after = (item.graph(check) for item in (old, new))
    except ModelguardError as error:
        return Declaration(new.files[0], new.format, None, failure=str(error))
    assert before is not None
    assert after is not None
    return _compared(new, _declared(before), _declared(after), check)


def _compared(new: Checkpoint, before: Mapping[str, Any], after: Mapping[str, Any], check: Callable[[], None]) -> Declaration:
    digest = hashlib.sha256(json.dumps(after, sort_keys=True).encode()).hexdigest()
    return Declaration(new.files[0], new.format, compare_values(before, after, _weigh_for(new.format), check), digest)


def _declared(model: OnnxModel) -> dict[str, Any]:
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializers} | {tensor.name for tensor in graph.sparse_initializers}
    decoded = [(name, _type(data)) for name, data in graph.types]
    shared = Counter(size for name, (_, sizes) in decoded if name not in constants for size in sizes or () if isinstance(size, str))
    # A symbol says no more than that two sizes are one.
    symbols = {symbol: f"n{at}" for at, symbol in enumerate(symbol for symbol, count in shared.items() if symbol and count > 1)}
    values = [
        {"name": name, "type": kind if sizes is None else f"{kind}[{', '.join(_size(size, symbols) for size in sizes)}]"}
        for name, (kind, sizes) in decoded
    ]
    inputs = values[: len(graph.inputs)]
    return {
        "inputs": [value for value in inputs if value["name"] not in constants],
        "outputs": values[len(graph.inputs) :],
        "initializers_that_inputs_replace": {value["name"]: value["type"] for value in inputs if value["name"] in constants},
        "metadata_props": _properties(model.metadata),
        "producer": model.producer,
        "producer_version": model.producer_version,
        "ir_version": model.ir_version,
        "domain": model.domain,
        "doc": model.doc,
        "graph": graph.name,
        "graph_doc": graph.doc,
        "notes": _notes(model),
    }


def _notes(model: OnnxModel) -> str:
    """Documentation and metadata of all nodes and functions: how many characters, and their digest. Programs can be carried there."""
    found, size = hashlib.sha256(), 0
    left: list[Graph | Function] = [*model.functions, model.graph]
    while left:
        graph = left.pop()
        texts = [graph.doc, *chain.from_iterable(graph.metadata)] if graph is not model.graph else [*chain.from_iterable(graph.metadata)]
        for node in graph.nodes:
            texts += [node.doc, *chain.from_iterable(node.metadata), *(attribute.doc for attribute in node.attributes)]
            left += node.subgraphs
        for text in filter(None, texts):
            size += len(text)
            found.update(f"{len(text)} {text}".encode())
    return f"{size} characters, sha256 {found.hexdigest()}" if size else ""


def _properties(properties: Properties) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for key, value in properties:
        found.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _size(size: int | str, symbols: Mapping[str, str]) -> str:
    return symbols.get(size, "?") if isinstance(size, str) else str(size)


def _type(data: bytes) -> tuple[str, list[int | str] | None]:
    """Element type and sizes (None for any rank; a symbol, or empty text, for any size) of a serialised TypeProto (onnx.proto).

    A type that is no dense tensor is called by the digest of its bytes.
    """
    if not data:
        return "undeclared", None
    wire = Wire(memoryview(data), "a declared type")
    try:
        fields = list(wire.fields(0, len(data)))
        if [(field.number, field.wire) for field in fields] == [(1, LEN)]:
            return _tensor(wire, fields[0])
    except (ModelguardError, UnicodeDecodeError):
        pass
    return f"type {hashlib.sha256(data).hexdigest()[:16]}", None


def _tensor(wire: Wire, tensor: Field) -> tuple[str, list[int | str] | None]:
    element, sizes = 0, None
    for field in wire.fields(tensor.begin, tensor.end):
        if field.number == 1 and field.wire == VARINT:
            element = field.value
        elif field.number == 2 and field.wire == LEN:
            sizes = [_dimension(wire, size) for size in wire.fields(field.begin, field.end) if size.number == 1]
    if sizes is not None and len(sizes) > MAX_RANK:
        sizes = [*sizes[:MAX_RANK], len(sizes)]
    return f"tensor({_ELEMENTS[element] if element < len(_ELEMENTS) else element})", sizes


def _dimension(wire: Wire, dimension: Field) -> int | str:
    for field in wire.fields(dimension.begin, dimension.end):
        if field.number == 1 and field.wire == VARINT:
            return field.value
        if field.number == 2 and field.wire == LEN:
            return bytes(wire.view[field.begin : field.end]).decode()
    return ""
