"""Nothing unread passes: what lies beside a checkpoint that was read counts, whatever it is called."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support import Ran

from modelguard._cli import run
from modelguard.testing import write_safetensors

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]
CORE = ("-p", "no:serialization")
"""Without the plugin that reads what the core only recognises."""


def beside(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """``folder`` with a good checkpoint and the files, each in a folder of its own: 0/NAME, 1/NAME, ..."""
    write_safetensors(folder / "model.safetensors", {"w": np.zeros(1, np.float32)})
    for number, (name, content) in enumerate(files):
        (folder / str(number)).mkdir()
        (folder / str(number) / name).write_bytes(content)
    return folder


def not_looked_at(tmp_path: Path, files: Iterable[tuple[str, bytes]], policy: str) -> list[str]:
    """What the decision says was not looked at when the files lie beside a good checkpoint; the scan must not pass."""
    report = tmp_path / "report.json"
    code = run(["scan", str(beside(tmp_path / "m", files)), "-q", "--policy", f"builtin:{policy}", "-o", f"json={report}", *CORE])
    assert code in (1, 3)
    return [item["message"] for item in json.loads(report.read_text())["decision"]["violations"] if item["rule"] == "MG9004"]


UNREAD = {
    "pickle": ("pytorch_model.bin", pickle.dumps({"w": [1.0]})),
    "zip": ("model.pt", b"PK\x03\x04" + bytes(26)),
    "hdf5": ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)),
    "gguf": ("model.gguf", b"GGUF" + bytes(64)),
    "program": ("libhelper.so", b"\x7fELF" + bytes(64)),
    "script": ("install.sh", b"#!/bin/sh\ntrue\n"),
    "unknown": ("blob", bytes(range(256))),
}


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one scan of all of them by the baseline says was not looked at."""
    return not_looked_at(tmp_path_factory.mktemp("unread"), UNREAD.values(), "baseline")


@pytest.mark.parametrize("kind", UNREAD)
def test_a_readable_decoy_lets_no_unread_file_pass(unread: list[str], kind: str) -> None:
    (message,) = [text for text in unread if text.startswith(f"{list(UNREAD).index(kind)}/")]
    assert UNREAD[kind][0] in message


@pytest.mark.parametrize("policy", ["hub-download", "strict"])
def test_no_other_policy_lets_it_pass(tmp_path: Path, policy: str) -> None:
    name, content = UNREAD["pickle"]
    (message,) = not_looked_at(tmp_path, [(name, content)], policy)
    assert name in message


CALL = b"cbuiltins\nprint\n(S'x'\ntR."
"""Protocol 0: text from the first byte to the last; unpickling it calls a function."""

PICKLES = {
    "protocol 0 called a vocabulary": ("vocab.json", CALL),
    "protocol 0 with nothing but data": ("notes.txt", b"(lp0\nI1\naI2\na."),
    "behind what begins like a picture": ("logo.gif", b"GIF89a012" + b"0" + CALL),
    "a broken tail": ("README.md", CALL[:-1] + b"\xff\xff"),
    "an import that calls nothing": ("merges.txt", b"cevil\nmodule\n."),
    "stacked values first": ("tokens", b"N0](0" + CALL),
    "after a string past every limit": ("logo.gif", b"GIF89a012" + b"B" + (65 << 20).to_bytes(4, "little") + bytes(65 << 20) + CALL),
    "after a line past every limit": ("notes.txt", b"S'" + b"x" * (65 << 20) + b"'\n" + CALL),
    "a module that is no identifier": ("a.txt", b"cmy module-1\nx\n(tR."),
    "a number only unpicklers read": ("a.txt", b"I0x10\n0" + CALL),
    "a string that is not ASCII": ("a.txt", "S'ä'\n0".encode() + CALL),
    "INST": ("a.txt", b"(S'x'\nibuiltins\nprint\n."),
}


@pytest.fixture(scope="module")
def pickles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one scan of all of them by the baseline says was not looked at."""
    return not_looked_at(tmp_path_factory.mktemp("pickles"), PICKLES.values(), "baseline")


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_one_whatever_it_is_called_and_however_it_begins(pickles: list[str], kind: str) -> None:
    (message,) = [text for text in pickles if text.startswith(f"{list(PICKLES).index(kind)}/")]
    assert PICKLES[kind][0] in message
    assert "a Python pickle" in message


TEXTS = (
    "",
    "N.",
    "cat\ndog\n(a list)\n",
    "I0\nI1\nI2\n",
    "(see below)\n" * 50,
    '{"a": 1}',
    "Version 1\nof the model.\n",
    "Some words.\n",
    "]\n}\n",
    "import os\nos.system('x')\n",
    "\n".join("abcdefghijklmnopqrstuvwxyz"),
    "#version: 0.2\nt h\ni n\n",
    "0" * 200_000,
    "((((((((((",
)


def test_ordinary_text_is_no_pickle(mg: Run, tmp_path: Path) -> None:
    ran = mg("scan", beside(tmp_path / "m", (("notes.txt", text.encode()) for text in TEXTS)))
    assert ran.code == 0, ran.out


def unpickled_safetensors() -> bytes:
    """A valid safetensors file that unpickles: its length begins with U (a short string), and such strings lead over the header."""
    before = b'{"__metadata__":{"a":"'
    after = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(CALL), len(CALL))
    length = b"U" + bytes([6 + len(before)]) + bytes(6)
    left = int.from_bytes(length, "little") - len(before)
    hops = b""
    while left - len(hops) > 256:
        hops += b"U~" + b"x" * 126
    half = (left - len(hops)) // 2
    hops += b"U" + bytes([half - 2]) + b"x" * (half - 2)
    last = left - len(hops) - 2
    hops += b"U" + bytes([last]) + b"x" * (last - len(after))
    return length + before + hops + after + CALL


def test_a_checkpoint_that_unpickles_as_well_is_blocked(mg: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = unpickled_safetensors()
    pickle.loads(content)
    assert capfd.readouterr().out == "x\n", "the payload runs"
    assert safetensors.numpy.load(content)["w"].tobytes() == CALL
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(content)
    ran = mg("scan", tmp_path / "m")
    assert ran.code == 1
    assert "MG0111 model.safetensors: is safetensors and a Python pickle at once" in " ".join(ran.out.split())


def archive(zip64: bool) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("__main__.py", "print('x')")
    body = bytearray(data.getvalue())
    if zip64:
        at = body.rfind(b"PK\x05\x06")
        begin, length = int.from_bytes(body[at + 16 : at + 20], "little"), int.from_bytes(body[at + 12 : at + 16], "little")
        record = b"PK\x06\x06" + (44).to_bytes(8, "little") + bytes([45, 0, 45, 0]) + bytes(8)
        record += (1).to_bytes(8, "little") * 2 + length.to_bytes(8, "little") + begin.to_bytes(8, "little")
        body[at:] = record + b"PK\x06\x07" + bytes(4) + at.to_bytes(8, "little") + (1).to_bytes(4, "little") + b"PK\x05\x06" + bytes(4)
        body += b"\xff\xff\xff\xff" + b"\xff" * 8 + bytes(2)
    return bytes(body)


def test_an_archive_in_a_checkpoints_last_tensor_is_blocked(mg: Run, tmp_path: Path) -> None:
    """The bytes after the end record keep no reader from it."""
    names = []
    for zip64, after in itertools.product([False, True], [b"", bytes(4), b"x" * 1000]):
        names.append(f"{'zip64' if zip64 else 'zip'}-{len(after)}.safetensors")
        path = write_safetensors(tmp_path / "m" / names[-1], {"w": np.frombuffer(archive(zip64) + after, np.uint8)})
        if not (zip64 and after):  # zipfile looks for a zip64 record at one place only
            assert zipfile.ZipFile(path).namelist() == ["__main__.py"]
    ran = mg("scan", tmp_path / "m", "-q", "-f", "json")
    assert ran.code == 1
    violations = [(item["rule"], item["message"]) for item in ran.json["decision"]["violations"]]
    for name in names:
        (message,) = [text for rule, text in violations if rule == "MG0111" and text.startswith(f"{name}: ")]
        assert message.startswith(f"{name}: is safetensors and a zip archive at once")
