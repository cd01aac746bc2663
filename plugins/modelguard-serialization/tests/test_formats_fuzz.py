"""Whatever the bytes are, a reader of this part reads them, or says in words why it does not."""

from __future__ import annotations

import contextlib
import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelguard_serialization._documents import parse_json, parse_yaml, walk
from modelguard_serialization._flatbuffers import Table
from modelguard_serialization._protobuf import Messages
from modelguard_serialization._readers.documents import Json, Toml, Yaml
from modelguard_serialization._readers.framework_texts import Modelfile, SpacyConfig, TritonConfig
from modelguard_serialization._readers.graphs import Caffe, CoreMl, OpenVino, Paddle
from modelguard_serialization._readers.hdf5 import MAGIC, Hdf5
from modelguard_serialization._readers.msgpack import Msgpack
from modelguard_serialization._readers.plain_models import PLAIN, TensorRt
from modelguard_serialization._readers.skops import Skops
from modelguard_serialization._readers.tensorflow import KerasMetadata, TensorflowGraph, TensorflowSide, TensorflowText
from modelguard_serialization._readers.tflite import TfLite
from modelguard_serialization._readers.torchscript import TorchScript
from modelguard_serialization._readers.weights_metadata import SafetensorsMetadata
from modelguard_serialization.blob import Blob
from modelguard_serialization.reader import Look, NotReadError, Reader

from modelguard import Artifact

READERS: tuple[Reader, ...] = (
    *(Json(), Yaml(), Toml(), Hdf5(), TensorflowGraph(), TensorflowText(), KerasMetadata(), TensorflowSide(), TfLite(), CoreMl(), Paddle()),
    *(
        Caffe(),
        OpenVino(),
        TensorRt(),
        SafetensorsMetadata(),
        Skops(),
        Msgpack(),
        TorchScript(),
        SpacyConfig(),
        TritonConfig(),
        Modelfile(),
    ),
    *PLAIN,
)
NAMES = st.sampled_from(
    [
        "model.h5",
        "saved_model.pb",
        "keras_metadata.pb",
        "graph.meta",
        "m.pdmodel",
        "m.caffemodel",
        "m.mlmodel",
        "m.xml",
        "m.msgpack",
        "schema.json",
        "code/a.py",
        "config.yaml",
        "MLmodel",
        "modules.json",
        "config.cfg",
        "config.pbtxt",
        "Modelfile",
        "a.toml",
        "fingerprint.pb",
        "variables.index",
        "x.engine",
        "m.safetensors",
        "graph.pbtxt",
        "none",
    ]
)
BEGINNINGS = st.sampled_from(
    [
        b"",
        MAGIC + b"\x00\x00\x00\x00\x00\x08\x08\x00" + bytes(8),
        b"\x1c\x00\x00\x00TFL3",
        b"\x08\x01\x12",
        b"\n\x06\n\x01a\x12\x01",
        b"\x08\x04\x12\x00",
        b'{"_target_": ',
        b"_target_: ",
        b"--- !!python/",
        struct.pack("<Q", 20) + b'{"__metadata__":',
        b'{"class_name": "Model", "config": ',
        b"<net version=",
        b"[nlp]\n",
    ]
)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(name: str, data: bytes, readers: tuple[Reader, ...] = READERS) -> None:
    blob = Blob("file", memoryview(data), (name,), None)
    look = Look(Artifact("model", "local:model", None, ()), lambda: None)  # type: ignore[arg-type]
    for reader in readers:
        if reader.recognise(blob):
            with contextlib.suppress(NotReadError):
                reader.read(blob, look)
    assert all(finding.message for finding in look.findings)


@QUICK
@given(NAMES, BEGINNINGS, st.binary(max_size=300))
def test_any_bytes(name: str, beginning: bytes, rest: bytes) -> None:
    check(name, beginning + rest)


@QUICK
@given(NAMES, BEGINNINGS, st.text(max_size=200))
def test_any_text(name: str, beginning: bytes, rest: str) -> None:
    check(name, beginning + rest.encode("utf-8", "surrogatepass"))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["os.system", "torch.nn.ReLU", "$import os"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "_target_",
                    "target",
                    "params",
                    "class_name",
                    "config",
                    "module",
                    "layers",
                    "flavors",
                    "loader_module",
                    "code",
                    "id",
                    "lc",
                    "path",
                    "type",
                    "idx",
                    "name",
                    "auto_mapping",
                    "parent_library",
                    "py/object",
                    "_class_name",
                    "unet",
                    "vocabulary",
                    "function",
                    "node_def",
                    "content",
                    "__class__",
                    "__module__",
                    "__loader__",
                    "func",
                    "model",
                    "handler",
                    "user_dir",
                    "_args_",
                    "registered_name",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@QUICK
@given(NAMES, VALUES)
def test_any_json_with_the_keys_that_count(name: str, value: object) -> None:
    check(name, json.dumps(value).encode())


@QUICK
@given(st.binary(max_size=200))
def test_the_walkers_raise_nothing_but_their_own_error(data: bytes) -> None:
    messages = Messages(memoryview(data))
    try:
        for field in messages.fields():
            assert 0 <= field.begin <= field.end <= len(data)
            list(messages.inside(field))
    except NotReadError:
        pass
    try:
        root = Table.root(memoryview(data))
        for index in range(6):
            root.number(index), root.text(index), list(root.tables(index))
    except NotReadError:
        pass


@QUICK
@given(st.text(max_size=200))
def test_the_parsers_raise_nothing_but_their_own_error(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            for tree in parse(text):
                list(walk(tree))
        except NotReadError:
            pass


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_a_saved_model_cut_off_anywhere(cut: int) -> None:
    node = b"\x0a\x06\x0a\x01a\x12\x01b"
    data = b"\x08\x01\x12" + bytes([len(node) * 3 + 2]) + b"\x12" + bytes([len(node) * 3]) + node * 3
    check("saved_model.pb", data[:cut])
