"""TensorFlow graphs: SavedModel, frozen graphs, exported meta graphs, their text forms; checkpoints; and what lies beside them.

Field numbers: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, tensorflow/core/framework/{graph,function,node_def}.proto,
tensorflow/python/keras/protobuf/saved_metadata.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from modelguard import Severity
from modelguard_serialization import _keras_config, limits
from modelguard_serialization._documents import parse_json
from modelguard_serialization._format_rules import CUSTOM_OP, DANGEROUS_OP, KERAS_CLASS, KERAS_CODE, OUTSIDE_FILE
from modelguard_serialization._paths import outside
from modelguard_serialization._protobuf import LEN, VARINT, Field, Messages, plausible
from modelguard_serialization._tf_ops import judge_op
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

_IDENTIFIER = re.compile(rb"[A-Za-z_.][\w.>/\\-]*")
_OP = re.compile(r"""\bop\s*:\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_SIGNATURE = re.compile(r"""\bsignature\s*:?\s*\{\s*name\s*:\s*["']([^"']+)["']""")


class TensorflowGraph(Reader):
    what = "a TensorFlow graph"
    rules = (DANGEROUS_OP, CUSTOM_OP, OUTSIDE_FILE)
    format = "tensorflow"

    def recognise(self, blob: Blob) -> bool:
        name = blob.name.rsplit("/", 1)[-1].lower()
        if name in ("fingerprint.pb", "keras_metadata.pb", "tfhub_module.pb"):
            return False
        exported = blob.ending == ".meta" and plausible(blob.data, frozenset(range(1, 9)))
        return exported or name == "saved_model.pb" or _saved_model(blob.data) or _graph(blob.data)

    def read(self, blob: Blob, look: Look) -> None:
        messages = Messages(blob.data)
        saved = any(field.number == 1 and field.wire == VARINT for field in messages.fields())
        exported = not saved and blob.ending == ".meta" and not _graph(blob.data)
        if saved:
            graphs = list(messages.children(None, 2, 2))
        elif exported:
            graphs = list(messages.children(None, 2))
        else:
            graphs = [Field(0, LEN, 0, len(blob.data), 0)]
        if not graphs:
            raise NotReadError("holds no TensorFlow graph")
        assets = [messages.text(name) for name in messages.children(None, *((2, 6, 2) if saved else (6, 2)))] if saved or exported else []
        ops: dict[str, str] = {}
        functions: set[str] = set()
        for graph in graphs:
            for where, op in _nodes(messages, graph, functions, look):
                ops.setdefault(op, where)
        judge_ops(ops, functions, blob, look)
        for path in assets:
            if outside(path):
                look.find("MG0336", blob, f"an asset lies at {path[:200]!r}", severity=Severity.CRITICAL, key=path[:200])


def _nodes(messages: Messages, graph: Field, functions: set[str], look: Look) -> Iterator[tuple[str, str]]:
    """(name of the node, operator) of every node of a GraphDef and of its functions, whose names go to ``functions``."""
    for number, field in enumerate(messages.inside(graph)):
        if number % 4096 == 0:
            look.check()
        if field.number == 1 and field.wire == LEN:
            yield from _node(messages, field, "")
        elif field.number == 2 and field.wire == LEN:
            for function in messages.children(field, 1):
                name = "".join(messages.text(text) for text in messages.children(function, 1, 1))
                functions.add(name)
                look.check()
                for node in messages.children(function, 3):
                    yield from _node(messages, node, name)


def _node(messages: Messages, node: Field, function: str) -> Iterator[tuple[str, str]]:
    name = op = ""
    for field in messages.inside(node):
        if field.number == 1 and field.wire == LEN:
            name = messages.text(field, 200)
        elif field.number == 2 and field.wire == LEN:
            op = messages.text(field, 200)
    if op:
        yield f"{function}/{name}" if function else name, op


def judge_ops(ops: dict[str, str], functions: Iterable[str], blob: Blob, look: Look) -> None:
    """Findings for the operators (operator: name of a node that has it) of a graph with these functions of its own."""
    for op, where in ops.items():
        judged = None if op in functions else judge_op(op)
        if judged is not None:
            rule, severity, does = judged
            look.find(rule, blob, f"the operator {op[:100]!r} {does}", severity=severity, key=op[:100], evidence={"node": where[:300]})


class TensorflowText(Reader):
    what = "a TensorFlow graph as text"
    rules = (DANGEROUS_OP, CUSTOM_OP)
    format = "tensorflow"

    def recognise(self, blob: Blob) -> bool:
        head = blob.head(65536)
        return blob.ending in (".pbtxt", ".pb", ".txt", ".prototxt") and bool(
            re.search(rb"(?:^|\s|\{)op\s*:\s*[\"']", head) and re.search(rb"\bnode(?:_def)?\s*:?\s*\{", head)
        )

    def read(self, blob: Blob, look: Look) -> None:
        if len(blob.data) > limits.DOCUMENT * 4:
            raise NotReadError("is a graph as text, too large to be read")
        text = bytes(blob.data).decode("utf-8", "replace")
        ops: dict[str, str] = {}
        for match in _OP.finditer(text):
            op = match[1][1:-1]
            if "\\" in op or re.match(r"\s*[\"']", text[match.end() : match.end() + 20]):
                look.miss(blob, "writes the name of an operator in pieces or with escapes")
            ops.setdefault(op, "")
        judge_ops(ops, set(_SIGNATURE.findall(text)), blob, look)


class KerasMetadata(Reader):
    """The configurations of Keras objects in a SavedModel (``keras_metadata.pb``): SavedMetadata.nodes.metadata, each JSON."""

    what = "Keras metadata of a SavedModel"
    rules = (KERAS_CODE, KERAS_CLASS)

    def recognise(self, blob: Blob) -> bool:
        return blob.name.endswith("keras_metadata.pb") or (blob.ending == ".pb" and b"_tf_keras_" in blob.head(200))

    def read(self, blob: Blob, look: Look) -> None:
        messages = Messages(blob.data)
        for field in messages.children(None, 1, 5):
            for tree in parse_json(messages.text(field, limits.DOCUMENT)):
                _keras_config.judge(tree, blob, look)


class TensorflowSide(Reader):
    """Small files beside a SavedModel, and checkpoints, which hold numbers and names only."""

    what = "part of a TensorFlow model or checkpoint"
    format = "tensorflow"

    def recognise(self, blob: Blob) -> bool:
        name = blob.name.rsplit("/", 1)[-1].lower()
        if name in ("fingerprint.pb", "tfhub_module.pb"):
            return len(blob.data) < 4096 and plausible(blob.data, frozenset(range(1, 16)))
        # A checkpoint's index is a LevelDB table (tensorflow/core/lib/io/table); its data are the tensors' bytes one after another.
        if blob.ending == ".index":
            return bytes(blob.data[-8:]) == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
        return bool(re.search(r"\.data-\d{5}-of-\d{5}$", name)) or (".tfevents." in name and len(blob.data) > 16)

    def read(self, blob: Blob, look: Look) -> None:
        if re.search(r"\.data-\d{5}-of-\d{5}$", blob.name) and not blob.members:
            index = re.sub(r"\.data-\d{5}-of-\d{5}$", ".index", blob.name)
            if look.artifact.file(index) is None:
                raise NotReadError("is the data of a TensorFlow checkpoint whose index is not there")


def _saved_model(data: memoryview) -> bool:
    """schema version, then a meta graph, which begins with its description or its graph."""
    head = bytes(data[:16])
    if head[:1] != b"\x08" or head[2:3] != b"\x12":
        return False
    at = 3
    while at < len(head) and head[at] > 0x7F:
        at += 1
    return head[at + 1 : at + 2] in (b"\x0a", b"\x12") and _inside(data, at + 1)


def _inside(data: memoryview, at: int) -> bool:
    """Whether the message at ``at`` is a MetaGraphDef: in ONNX, whose files begin alike, a name stands here."""
    messages = Messages(data)
    try:
        first = next(messages.fields(at, len(data)))
        return next(messages.inside(first), None) is not None
    except (NotReadError, StopIteration):
        return False


def _graph(data: memoryview) -> bool:
    """A node first: its name, and its operator, both identifiers."""
    messages = Messages(data)
    try:
        first = next(messages.fields())
        if first.number != 1 or first.wire != LEN:
            return False
        texts = {
            field.number: bytes(data[field.begin : min(field.end, field.begin + 200)])
            for field in messages.inside(first)
            if field.number in (1, 2) and field.wire == LEN
        }
    except (NotReadError, StopIteration):
        return False
    return bool(set(texts) == {1, 2} and all(_IDENTIFIER.fullmatch(text) for text in texts.values()))
