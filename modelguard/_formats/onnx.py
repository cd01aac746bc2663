"""ONNX, recognised by the fields a model begins with. What reads it is imported once a file is recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelguard._formats.onnx_schema import EXTENSIONS, SCHEMA, Messages
from modelguard._formats.protobuf import LEN, VARINT, Field, Wire
from modelguard.checkpoint import Checkpoint, Format, FormatProblem
from modelguard.errors import FormatError

if TYPE_CHECKING:
    from modelguard.artifact import Artifact, ArtifactFile

_HEAD_TEXT = 1024


class OnnxFormat(Format):
    id = "onnx"
    extensions = EXTENSIONS

    def recognise(self, head: bytes, size: int) -> bool:
        """Whether the file begins with fields of a ModelProto, an IR version or a graph among them."""
        messages = Messages(Wire(memoryview(head), ""))
        seen: set[str] = set()
        at = 0
        try:
            while at < len(head):
                field, content = _head_field(messages.wire, at, len(head), size)
                kind = SCHEMA["Model"].get(field.number)
                if kind is None or kind.wire != field.wire:
                    return False
                # Other protobuf models have messages where ONNX has the names of its producer.
                if kind.name.startswith(("producer", "domain")) and field.end - content > _HEAD_TEXT:
                    return False
                seen.add(kind.name)
                at = field.end
        except FormatError:
            return False
        return "graph" in seen or {"ir_version", "doc_string"} <= seen

    def open(self, file: ArtifactFile, artifact: Artifact) -> tuple[Checkpoint, tuple[FormatProblem, ...]]:
        from modelguard._formats.onnx_checkpoint import open_onnx

        return open_onnx(file, artifact)


def _head_field(wire: Wire, at: int, available: int, size: int) -> tuple[Field, int]:
    """The field at ``at`` of a file of which only the first ``available`` of ``size`` bytes are at hand."""
    tag, content = wire.varint(at, available)
    number, kind = tag >> 3, tag & 7
    if kind == LEN:
        length, content = wire.varint(content, available)
        if length > size - content:
            raise wire.wrong(at, "is longer than the file")
        return Field(number, kind, at, content, content + length, 0), content
    if kind != VARINT:
        raise wire.wrong(at, "no field of a model has this wire type")
    value, end = wire.varint(content, available)
    return Field(number, kind, at, content, end, value), content
