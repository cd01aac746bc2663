"""``modelguard diff --updates``: the scaled client is told with exit code 1, and a folder that cannot be used with 2 or 3 in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard.testing import write_safetensors

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``before``, ``after`` and ten ``updates``, of which client-7's was scaled."""
    rng = np.random.default_rng(0)
    before = {"w": rng.standard_normal((40, 30)).astype(np.float32), "b": rng.standard_normal(40).astype(np.float32)}
    size = [0.3 if client == 7 else 0.01 for client in range(10)]
    sent = [{name: (part * rng.standard_normal(array.shape)).astype(np.float32) for name, array in before.items()} for part in size]
    after = {name: (array + sum(update[name] for update in sent) / 10).astype(np.float32) for name, array in before.items()}
    for name, tensors in (("before", before), ("after", after)):
        write_safetensors(tmp_path / f"{name}.safetensors", tensors)
    for client, update in enumerate(sent):
        write_safetensors(tmp_path / "updates" / f"client-{client}.safetensors", update)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_scaled_client_is_told(mg: Callable[..., Any], federation: Path) -> None:
    ran = mg("diff", "before.safetensors", "after.safetensors", "--updates", "updates")
    assert ran.code == 1, ran.out + ran.err
    assert ran.out.startswith("SCALED-UPDATE")
    assert "update client-7 (delta): 29.5 x the median norm" in " ".join(ran.out.split())
    report = mg("diff", "before.safetensors", "after.safetensors", "--updates", "updates", "--format", "json")
    document = json.loads(report.out)
    assert document["options"] == {"weight-diff": {"updates": "updates"}}
    assert str(federation) not in report.out
    (found,) = [item for outcome in document["outcomes"] for item in outcome["findings"] if item["rule"] == "MG1218"]
    assert found["evidence"]["name"] == "client-7"


@pytest.mark.parametrize(("folder", "words"), [("nowhere", "does not exist"), ("before.safetensors", "is no folder"), ("few", "holds 2")])
def test_a_folder_without_updates_is_a_wrong_call(mg: Callable[..., Any], federation: Path, folder: str, words: str) -> None:
    for client in range(2):
        write_safetensors(federation / "few" / f"client-{client}.safetensors", {"w": np.ones((40, 30), np.float32)})
    ran = mg("diff", "before.safetensors", "after.safetensors", "--updates", folder)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) == 1
    assert f"--updates {folder}: {words}" in ran.err


def test_updates_of_another_model_are_no_verdict(mg: Callable[..., Any], federation: Path) -> None:
    write_safetensors(federation / "updates" / "client-3.safetensors", {"w": np.ones((30, 40), np.float32), "b": np.ones(40, np.float32)})
    ran = mg("diff", "before.safetensors", "after.safetensors", "--updates", "updates")
    assert ran.code == 3
    assert "w of client-3 has shape [30, 40], and [40, 30] in the reference" in " ".join(ran.out.split())
