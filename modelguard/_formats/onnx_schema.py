"""The messages of ONNX that are read: their fields, as onnx.proto (IR version 13, onnx 1.23) numbers them.

A field that is not listed is none of ONNX's; one that is listed with another wire type, or twice where it may be there once, is
refused, because parsers that merge or skip it would see another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modelguard import _limits
from modelguard._formats.names import MAX_NAME, shown
from modelguard._formats.protobuf import FIXED32, FIXED64, LEN, VARINT, Field, Wire
from modelguard.errors import FormatError, LimitError

EXTENSIONS = (".onnx",)
MAX_DEPTH = _limits.ONNX_DEPTH

MAX_TEXT = _limits.ONNX_TEXT


class Kind(NamedTuple):
    name: str
    wire: int
    many: bool = False
    message: str = ""
    """The message of this module that the field holds."""


def _one(name: str, wire: int = LEN, message: str = "") -> Kind:
    return Kind(name, wire, False, message)


def _many(name: str, wire: int = LEN, message: str = "") -> Kind:
    return Kind(name, wire, True, message)


SCHEMA: Mapping[str, Mapping[int, Kind]] = {
    "Model": {
        1: _one("ir_version", VARINT), 8: _many("opset_import", LEN, "Opset"), 2: _one("producer_name"), 3: _one("producer_version"),
        4: _one("domain"), 5: _one("model_version", VARINT), 6: _one("doc_string"), 7: _one("graph", LEN, "Graph"),
        14: _many("metadata_props", LEN, "Pair"), 20: _many("training_info", LEN, "Training"),
        25: _many("functions", LEN, "Function"), 26: _many("configuration"),
    },
    "Graph": {
        1: _many("node", LEN, "Node"), 2: _one("name"), 5: _many("initializer", LEN, "Tensor"),
        15: _many("sparse_initializer", LEN, "Sparse"), 10: _one("doc_string"), 11: _many("input", LEN, "Value"),
        12: _many("output", LEN, "Value"), 13: _many("value_info"), 14: _many("quantization_annotation"),
        16: _many("metadata_props", LEN, "Pair"),
    },
    "Node": {
        1: _many("input"), 2: _many("output"), 3: _one("name"), 4: _one("op_type"), 7: _one("domain"), 8: _one("overload"),
        5: _many("attribute", LEN, "Attribute"), 6: _one("doc_string"), 9: _many("metadata_props", LEN, "Pair"),
        10: _many("device_configurations"),
    },
    "Attribute": {
        1: _one("name"), 21: _one("ref_attr_name"), 13: _one("doc_string"), 20: _one("type", VARINT), 2: _one("f", FIXED32),
        3: _one("i", VARINT), 4: _one("s"), 5: _one("t", LEN, "Tensor"), 6: _one("g", LEN, "Graph"),
        22: _one("sparse_tensor", LEN, "Sparse"), 14: _one("tp"), 7: _many("floats", FIXED32), 8: _many("ints", VARINT),
        9: _many("strings"), 10: _many("tensors", LEN, "Tensor"), 11: _many("graphs", LEN, "Graph"),
        23: _many("sparse_tensors", LEN, "Sparse"), 15: _many("type_protos"),
    },
    "Tensor": {
        1: _many("dims", VARINT), 2: _one("data_type", VARINT), 3: _one("segment"), 4: _many("float_data", FIXED32),
        5: _many("int32_data", VARINT), 6: _many("string_data"), 7: _many("int64_data", VARINT), 8: _one("name"), 12: _one("doc_string"),
        9: _one("raw_data"), 13: _many("external_data", LEN, "Pair"), 14: _one("data_location", VARINT),
        10: _many("double_data", FIXED64), 11: _many("uint64_data", VARINT), 16: _many("metadata_props"),
    },
    "Sparse": {1: _one("values", LEN, "Tensor"), 2: _one("indices", LEN, "Tensor"), 3: _many("dims", VARINT)},
    "Function": {
        1: _one("name"), 4: _many("input"), 5: _many("output"), 6: _many("attribute"), 11: _many("attribute_proto", LEN, "Attribute"),
        7: _many("node", LEN, "Node"), 8: _one("doc_string"), 9: _many("opset_import", LEN, "Opset"), 10: _one("domain"),
        13: _one("overload"), 12: _many("value_info"), 14: _many("metadata_props", LEN, "Pair"),
    },
    "Training": {
        1: _one("initialization", LEN, "Graph"), 2: _one("algorithm", LEN, "Graph"), 3: _many("initialization_binding"),
        4: _many("update_binding"),
    },
    "Pair": {1: _one("key"), 2: _one("value")},
    "Opset": {1: _one("domain"), 2: _one("version", VARINT)},
    "Value": {1: _one("name"), 2: _one("type"), 3: _one("doc_string"), 4: _many("metadata_props")},
}  # fmt: skip


class Messages:
    """Walks ONNX messages by name, and counts what in them is none of ONNX's."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.path = wire.path
        self.unknown_fields = 0
        self.unknown_bytes = 0

    def fields(self, message: str, begin: int, end: int, depth: int = 0) -> Iterator[tuple[str, Field]]:
        """Name and place of every known field of the ``message`` in ``[begin, end)``."""
        if depth > MAX_DEPTH:
            cause = f"messages are nested more than {MAX_DEPTH} deep"
            raise LimitError(f"{self.path}, byte {begin}", cause, "do not load it: parsers overflow their stack", rule="MG0104")
        known = SCHEMA[message]
        seen: set[int] = set()
        for field in self.wire.fields(begin, end):
            kind = known.get(field.number)
            if kind is None:
                self.unknown_fields += 1
                self.unknown_bytes += field.end - field.start
                continue
            if field.wire != kind.wire and not (kind.many and field.wire == LEN):
                raise self.wire.wrong(field.start, f"{message}.{kind.name} has wire type {field.wire} and must have {kind.wire}")
            if not kind.many:
                if field.number in seen:
                    thing = f"{self.path}, byte {field.start}"
                    cause = f"{message}.{kind.name} is there twice, so parsers disagree on what it holds"
                    raise FormatError(thing, cause, "export the model again, and do not load it as it is", rule="MG0107")
                seen.add(field.number)
            yield kind.name, field

    def text(self, field: Field, limit: int = MAX_TEXT) -> str:
        """A string field. Bytes that are no UTF-8 are shown escaped; ORT reads them, so they are no reason to stop."""
        if field.end - field.begin > limit:
            thing = f"{self.path}, byte {field.start}"
            raise LimitError(
                thing, f"a string of {field.end - field.begin} bytes is over the limit of {limit}", "export it again", rule="MG0104"
            )
        return bytes(self.wire.view[field.begin : field.end]).decode("utf-8", "backslashreplace")

    def name(self, field: Field) -> str:
        return self.text(field, MAX_NAME)

    def pairs(self, fields: list[Field], what: str) -> dict[str, str]:
        """StringStringEntryProto fields as a dictionary. Raises :class:`FormatError` when a key is there twice."""
        found: dict[str, str] = {}
        for field in fields:
            parts = {name: self.text(part) for name, part in self.fields("Pair", field.begin, field.end)}
            key = parts.get("key", "")
            if key in found:
                thing = f"{self.path}, byte {field.start}"
                raise FormatError(thing, f"{what} has the key {shown(key)} twice", "export the model again", rule="MG0107")
            found[key] = parts.get("value", "")
        return found
