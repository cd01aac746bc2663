"""Models of other frameworks whose graphs name their operators: CoreML, Paddle, Caffe, OpenVINO."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from modelguard import Severity
from modelguard_serialization import limits
from modelguard_serialization._format_rules import CUSTOM_OP, DANGEROUS_OP, OUTSIDE_FILE
from modelguard_serialization._paths import outside
from modelguard_serialization._protobuf import LEN, VARINT, Field, Messages
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader, whole_text


class CoreMl(Reader):
    """Source: https://apple.github.io/coremltools/mlmodel/, Model.proto, NeuralNetwork.proto, CustomModel.proto, LinkedModel.proto."""

    what = "a Core ML model"
    rules = (CUSTOM_OP, OUTSIDE_FILE)
    format = "coreml"

    _PIPELINES = frozenset({200, 201, 202})
    _NETWORKS = frozenset({303, 403, 500})

    def recognise(self, blob: Blob) -> bool:
        if blob.head(1) != b"\x08":
            return False
        seen = {}
        try:
            for field in Messages(blob.data).fields():
                seen[field.number] = field.wire
        except NotReadError:
            return blob.ending == ".mlmodel"
        return seen.get(1) == VARINT and seen.get(2) == LEN and any(200 <= number <= 3000 for number in seen)

    def read(self, blob: Blob, look: Look) -> None:
        messages = Messages(blob.data)
        models: list[tuple[Field | None, int]] = [(None, 0)]
        while models:
            model, depth = models.pop()
            look.check()
            for kind in messages.fields() if model is None else messages.inside(model):
                if kind.number in self._PIPELINES:
                    if depth >= limits.DEPTH:
                        raise NotReadError("nests pipelines too deeply")
                    inside = messages.children(kind, 1) if kind.number == 202 else messages.children(kind, 1, 1)
                    models += [(inner, depth + 1) for inner in inside]
                elif kind.number in self._NETWORKS:
                    for name in messages.children(kind, 1, 500, 10):
                        self._custom(f"layer {messages.text(name, 100)!r}", blob, look)
                elif kind.number == 555:
                    for name in messages.children(kind, 10):
                        self._custom(f"model {messages.text(name, 100)!r}", blob, look)
                elif kind.number == 556:
                    path = ", ".join(messages.text(text, 200) for text in _strings(messages, kind))
                    look.find(
                        "MG0336",
                        blob,
                        f"links to another model: {path[:200]!r}",
                        severity=Severity.CRITICAL if outside(path) else None,
                        key=path[:200],
                    )

    def _custom(self, what: str, blob: Blob, look: Look) -> None:
        look.find("MG0333", blob, f"the custom {what} is a class that the application must bring", key=what)


def _strings(messages: Messages, field: Field) -> Iterator[Field]:
    """Every text in the messages under a LinkedModel: where it lies, and under what name."""
    stack = [field]
    while stack:
        for inner in messages.inside(stack.pop()):
            if inner.wire != LEN:
                continue
            text = bytes(messages.data[inner.begin : inner.end])
            if len(text) < 4096 and text.decode("utf-8", "replace").isprintable():
                yield inner
            else:
                stack.append(inner)


class Paddle(Reader):
    """Source: paddle/fluid/framework/framework.proto: ProgramDesc.blocks (1), BlockDesc.ops (4), OpDesc.type (3)."""

    what = "a Paddle program"
    rules = (DANGEROUS_OP,)
    format = "paddle"

    _OPS: ClassVar[Mapping[str, Severity]] = {
        "py_func": Severity.CRITICAL,
        "py_layer": Severity.CRITICAL,
        "pylayer": Severity.CRITICAL,
        "save": Severity.CRITICAL,
        "save_combine": Severity.CRITICAL,
        "load": Severity.HIGH,
        "load_combine": Severity.HIGH,
        "read_file": Severity.HIGH,
        "print": Severity.LOW,
        "listen_and_serv": Severity.CRITICAL,
        "send": Severity.HIGH,
    }

    def recognise(self, blob: Blob) -> bool:
        return blob.ending == ".pdmodel"

    def read(self, blob: Blob, look: Look) -> None:
        messages = Messages(blob.data)
        ops = {messages.text(field, 100) for field in messages.children(None, 1, 4, 3)}
        if not ops:
            raise NotReadError("holds no Paddle program")
        for op in sorted(ops & set(self._OPS)):
            look.find("MG0332", blob, f"the operator {op!r} calls Python, or reaches files or sockets", severity=self._OPS[op], key=op)


class Caffe(Reader):
    """Source: caffe.proto: NetParameter.layer (100), LayerParameter.type (2), python_param (130)."""

    what = "a Caffe network"
    rules = (DANGEROUS_OP,)
    format = "caffe"

    def recognise(self, blob: Blob) -> bool:
        text = blob.ending == ".prototxt" and re.search(rb"\blayers?\s*:?\s*\{", blob.head(65536)) is not None
        return blob.ending == ".caffemodel" or text

    def read(self, blob: Blob, look: Look) -> None:
        if blob.ending == ".prototxt":
            text = whole_text(blob)
            python = re.search(r"\bpython_param\b|\btype\s*:\s*[\"']Python[\"']", text) is not None
            named = re.findall(r"\bmodule\s*:\s*[\"']([^\"']*)", text)
        else:
            messages = Messages(blob.data)
            kinds = {messages.text(field, 100) for field in messages.children(None, 100, 2)}
            named = [messages.text(field, 100) for field in messages.children(None, 100, 130, 1)]
            python = "Python" in kinds or bool(named)
            if not kinds and not list(messages.children(None, 2)):
                raise NotReadError("holds no layers of Caffe")
        if python:
            shown = ", ".join(named)[:200]
            look.find(
                "MG0332", blob, f"a layer of type Python imports and runs the module {shown!r}", severity=Severity.CRITICAL, key="Python"
            )


class OpenVino(Reader):
    """Source: https://docs.openvino.ai, "Operation sets": a layer's ``version`` is an opset, or of an extension."""

    what = "an OpenVINO model or PMML"
    rules = (CUSTOM_OP, OUTSIDE_FILE)
    format = "openvino"

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(4096)
        return bool(re.match(rb"(?:\xef\xbb\xbf)?\s*<", head)) and bool(
            re.search(rb"<net\b[^>]*\bversion=|<PMML\b|<(?:!DOCTYPE|!ENTITY)[^>]*(?:SYSTEM|PUBLIC|\[)", head)
        )

    def read(self, blob: Blob, look: Look) -> None:
        if len(blob.data) > limits.DOCUMENT * 8:
            raise NotReadError("is XML, too large to be read")
        text = bytes(blob.data).decode("utf-8", "replace")
        for match in re.finditer(r"<!ENTITY[^>]*\b(?:SYSTEM|PUBLIC)\b[^>]*>", text):
            look.find(
                "MG0336",
                blob,
                f"its XML declares an entity in another file: {match[0][:200]!r}",
                severity=Severity.CRITICAL,
                key=match[0][:200],
            )
            break
        versions: dict[str, str] = {}
        for match in re.finditer(r"<layer\b([^>]*)>", text):
            version, kind = (re.search(rf"\b{key}=[\"']([^\"']*)", match[1]) for key in ("version", "type"))
            if version and kind and not re.fullmatch(r"opset\d{1,3}|ie_internal_opset|type_relaxed_opset|util|experimental", version[1]):
                versions.setdefault(kind[1], version[1])
        for op, of in sorted(versions.items()):
            look.find("MG0333", blob, f"the operator {op[:100]!r} is of the extension {of[:100]!r}", key=op[:100])
