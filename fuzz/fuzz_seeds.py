"""Small valid inputs of every kind, made here, that mutation starts from. Every target gets all of them."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelguard.testing.checkpoints import write_onnx_mlp, write_safetensors

Array = np.ndarray[Any, Any]


def seeds() -> Iterator[bytes]:
    arrays: dict[str, Array] = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, dtype=np.int64)}
    with tempfile.TemporaryDirectory() as folder:
        yield write_safetensors(Path(folder) / "m.safetensors", arrays, {"format": "pt"}).read_bytes()
        yield write_onnx_mlp(Path(folder) / "m.onnx", (3, 2)).read_bytes()
    yield from _pickles()
    yield from _arrays(arrays)
    yield from _archives()
    yield from _texts()


def _pickles() -> Iterator[bytes]:
    value = {"x": [1, 2.5, "s", b"b", None, True], "d": OrderedDict(a=(1, 2)), "t": datetime.date(2020, 1, 2), "s": {1, 2}}
    yield from (pickle.dumps(value, protocol) for protocol in range(6))
    yield pickle.dumps(1) + pickle.dumps([2])
    yield b"cos\nsystem\n(S'true'\ntR."
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."


def _arrays(arrays: dict[str, Array]) -> Iterator[bytes]:
    for array in (*arrays.values(), np.array([{"a": 1}], dtype=object)):
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        yield stream.getvalue()
    stream = io.BytesIO()
    np.savez_compressed(stream, a=arrays["a.weight"], b=arrays["b"])
    yield stream.getvalue()


def _archives() -> Iterator[bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(8))
        archive.writestr("README.md", "hello")
    yield stream.getvalue()
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            archive.addfile(tarfile.TarInfo("a" * 60 + "/" + "b" * 60), io.BytesIO())
        yield stream.getvalue()
    yield from (pack(b"hello " * 20) for pack in (gzip.compress, bz2.compress, lzma.compress, zlib.compress))


def _texts() -> Iterator[bytes]:
    config = {
        "auto_map": {"AutoModel": "m.M"},
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "_target_": "os.x",
    }
    yield json.dumps(config).encode()
    lambda_layer = {"class_name": "Lambda", "config": {"function": ["4wE=", None, None]}}
    yield json.dumps({"class_name": "Sequential", "config": {"layers": [lambda_layer]}}).encode()
    yield json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    yield b"version: 1\nname: p\nextends: ['builtin:baseline']\nrules:\n  - {match: {severity: '>=high'}, action: block}\n"
    yield b"model: !new:speechbrain.nnet.linear.Linear\n    n: 1\nx: !apply:os.system [ls]\n"
    yield b"import os\n\nclass A:\n    def f(self):\n        return os.system('ls')\n"
    yield b"--index-url http://example.org\ntorch==2.0 --hash=sha256:aa\n"
    yield b"{{ ''.__class__.__mro__[1] }}{% if 'x' in message['content'] %}a{% else %}b{% endif %}"
    yield b"<!doctype html><html><script>1</script></html>"
    yield b"%PDF-1.4\n%%EOF\n"
    yield b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
