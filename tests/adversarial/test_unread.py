"""Nothing unread passes: what lies beside a checkpoint that was read counts, whatever it is called."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import Ran

from modelguard.testing import write_safetensors

Run = Callable[..., Ran]

UNREAD = {
    "pickle": ("pytorch_model.bin", pickle.dumps({"w": [1.0]})),
    "zip": ("model.pt", b"PK\x03\x04" + bytes(26)),
    "hdf5": ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)),
    "gguf": ("model.gguf", b"GGUF" + bytes(64)),
    "program": ("libhelper.so", b"\x7fELF" + bytes(64)),
    "script": ("install.sh", b"#!/bin/sh\ntrue\n"),
    "unknown": ("blob", bytes(range(256))),
}


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("policy", ["baseline", "hub-download", "strict"])
def test_a_readable_decoy_lets_no_unread_file_pass(mg: Run, tmp_path: Path, kind: str, policy: str) -> None:
    name, content = UNREAD[kind]
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", {"w": np.zeros(1, np.float32)})
    (tmp_path / "m" / name).write_bytes(content)
    report = tmp_path / "report.json"
    ran = mg("scan", tmp_path / "m", "--policy", f"builtin:{policy}", "-o", f"json={report}")
    decision = json.loads(report.read_text())["decision"]
    assert ran.code != 0
    assert name in "\n".join(item["message"] for item in decision["violations"] if item["rule"] == "MG9004")
