"""``signature`` where the library that verifies is not there, and where nobody says who should have signed."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest

from modelguard import Status
from modelguard._detectors.signature import Signature
from modelguard.testing import open_target, run_detector, write_safetensors


def test_without_the_library_nothing_is_verified_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros((2, 2), np.float32)})
    statement = {"predicate": {"serialization": {"method": "files"}, "resources": []}}
    envelope = {"dsseEnvelope": {"payload": b64encode(json.dumps(statement).encode()).decode()}}
    (tmp_path / "model.sig").write_text(json.dumps(envelope))
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    outcome = run_detector(Signature(key="-----BEGIN PUBLIC KEY-----"), open_target(tmp_path))
    assert (outcome.status, outcome.findings) == (Status.SKIPPED, ())
    assert "install model-signing" in outcome.reason


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_expected(tmp_path: Path, there: bool) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros((2, 2), np.float32)})
    if there:
        (tmp_path / "model.sig").write_text("{}")
    outcome = run_detector(Signature(), open_target(tmp_path))
    assert outcome.status is Status.SKIPPED
    assert outcome.reason.startswith("model.sig is there, and nothing says who" if there else "nothing says who")
