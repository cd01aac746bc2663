"""TensorFlow graphs, binary and text, and TensorFlow Lite: operators that reach outside, and those no release has."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import pytest
from modelguard_serialization.testing import look_through

from modelguard import Severity


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(field_number: int, value: int) -> bytes:
    return varint(field_number << 3) + varint(value)


def node(op: str, name: str = "n") -> bytes:
    return field(1, name) + field(2, op)


def function(name: str, *ops: str) -> bytes:
    return field(1, field(1, name)) + b"".join(field(3, node(op)) for op in ops)


def graph(*ops: str, functions: tuple[bytes, ...] = ()) -> bytes:
    library = field(2, b"".join(field(1, item) for item in functions)) if functions else b""
    return b"".join(field(1, node(op)) for op in ops) + library


def saved_model(*graphs: bytes, assets: tuple[str, ...] = ()) -> bytes:
    files = b"".join(field(6, field(1, b"") + field(2, name)) for name in assets)
    return number(1, 1) + b"".join(field(2, field(1, field(5, "2.19.0")) + field(2, content) + files) for content in graphs)


def found(name: str, data: bytes) -> list[tuple[str, Severity | None]]:
    look, by = look_through(name, data)
    assert by
    assert look.missed == []
    return [(finding.rule, finding.severity) for finding in look.findings]


# Operators that run Python or reach files: https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md, "models are programs"
ATTACKS = [
    ("PyFunc", Severity.CRITICAL),
    ("EagerPyFunc", Severity.CRITICAL),
    ("PyFuncStateless", Severity.CRITICAL),
    ("WriteFile", Severity.CRITICAL),
    ("ReadFile", Severity.HIGH),
    ("MatchingFiles", Severity.HIGH),
]


@pytest.mark.parametrize(("op", "severity"), ATTACKS)
def test_an_operator_that_reaches_outside_is_found_in_every_form(op: str, severity: Severity) -> None:
    told = [("MG0332", severity)]
    assert found("saved_model.pb", saved_model(graph("Const", op))) == told
    assert found("saved_model.pb", saved_model(graph("Const"), graph(op))) == told, "in the second graph"
    assert found("saved_model.pb", saved_model(graph("PartitionedCall", functions=(function("f", "Add"), function("g", op))))) == told
    assert found("frozen.pb", graph("Placeholder", op)) == told
    assert found("weights.bin", graph("Placeholder", op)) == told, "whatever its name"
    assert found("model.ckpt.meta", field(1, field(5, "1.15")) + field(2, graph("VariableV2", op))) == told
    assert found("graph.pbtxt", f'node {{\n  name: "a"\n  op: "Const"\n}}\nnode {{ name: "b" op: "{op}" }}'.encode()) == told


def test_fields_in_another_order_hide_nothing() -> None:
    data = field(2, field(1, b"") + field(2, graph("WriteFile"))) + number(1, 1)
    assert found("saved_model.pb", data) == [("MG0332", Severity.CRITICAL)]


def test_an_ordinary_graph_is_read_and_no_finding() -> None:
    ops = (
        "Const",
        "MatMul",
        "SaveV2",
        "RestoreV2",
        "ShardedFilename",
        "MergeV2Checkpoints",
        "HashTableV2",
        "InitializeTableFromTextFileV2",
        "f",
    )
    assert (
        found(
            "saved_model.pb", saved_model(graph(*ops, functions=(function("f", "Relu", "StatefulPartitionedCall"),)), assets=("vocab.txt",))
        )
        == []
    )
    assert found("graph.pbtxt", b'node { name: "a" op: "Const" attr { key: "op" value { s: "WriteFile" } } }') == []


def test_an_operator_of_no_release_is_told() -> None:
    assert found("saved_model.pb", saved_model(graph("MyCompany>Op", "Const"))) == [("MG0333", None)]


def test_an_asset_outside_the_model_is_critical() -> None:
    assert found("saved_model.pb", saved_model(graph("Const"), assets=("../../etc/passwd",))) == [("MG0336", Severity.CRITICAL)]


@pytest.mark.parametrize("data", [saved_model(graph("Const"))[:-3], number(1, 1) + field(2, b"\xff\xff\xff"), number(1, 1) + b"\x0b"])
def test_a_broken_graph_is_not_looked_at(data: bytes) -> None:
    look, _ = look_through("saved_model.pb", data)
    assert look.missed


def test_a_name_written_in_pieces_is_not_looked_at() -> None:
    look, _ = look_through("graph.pbtxt", rb'node { name: "a" op: "Const" } node { op: "Write\106ile" } node { op: "Py" "Func" }')
    assert len(look.missed) == 2


# https://nvd.nist.gov/vuln/detail/CVE-2024-3660: in a SavedModel, Keras reads its own configurations from keras_metadata.pb
def test_keras_metadata_of_a_saved_model_is_judged() -> None:
    layer = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wA="}}}}
    data = field(1, number(2, 1) + field(3, "root") + field(4, "_tf_keras_layer") + field(5, json.dumps(layer)))
    assert {rule for rule, _ in found("keras_metadata.pb", data)} == {"MG0330"}
    assert found("keras_metadata.pb", data.replace(b"Lambda", b"Conv2D").replace(b"__lambda__", b"__tensor__")) == []


def test_checkpoints_are_read_with_their_index() -> None:
    index = b"\0" * 40 + bytes.fromhex("57fb808b247547db")
    assert found("variables.index", index) == []
    look, by = look_through("variables.data-00000-of-00001", b"\1" * 40, {"variables.index": index})
    assert by[0].format
    assert not look.missed
    look, _ = look_through("variables.data-00000-of-00001", b"\1" * 40)
    assert look.missed


# zlib and base85 of FlatBuffers that TensorFlow's own schema_py_generated wrote: operator codes only.
TFLITE = {
    "ordinary": (
        "c-j+SU|<Mw^D*XN;9=lkU;$zVFlL703?SA4VgVrL0YYvD5MTka7#OC3*$nkOKv{mUE{M1S)C>?)24a3@Nou@HYDsExNoIatd_aD2NkCD4a%yog#553OU;qH5&JPI"
    ),
    "custom": "c-j+SU|<Mw^D*XN;9=lkU;$zVFlGi~CLlHeVgVrL0h0V+85SU$fk6SP4#Z>u626&vsSIFQ5M*Eg0H^%}#{",
    "flex": ("c-j+SU|<Mw^D*XN;9=lkU;$zVFlGi~CLlHeViq8N@c;jR1*jYlC~yJ^x17`p$CQ*XBOsfHL4biDEXx990~H{t<%OyZFUl-Qb<5021@ZyvYYvw"),
}


@pytest.mark.parametrize(
    ("name", "told"),
    [("ordinary", []), ("custom", [("MG0333", None)]), ("flex", [("MG0332", Severity.CRITICAL)])],
    ids=["usual operators", "one of its own", "a TensorFlow operator"],
)
def test_operators_of_tensorflow_lite(name: str, told: list[tuple[str, Severity | None]]) -> None:
    assert found("model.bin", zlib.decompress(base64.b85decode(TFLITE[name]))) == told


def test_a_broken_tensorflow_lite_model_is_not_looked_at() -> None:
    look, _ = look_through("model.tflite", struct.pack("<I4sI", 1 << 30, b"TFL3", 0))
    assert look.missed
