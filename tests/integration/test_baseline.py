"""Adopting the gate on a model that is deployed already: `--baseline`, and two reports compared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import Ran

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]


def edit(model: Path, tensor: str, seed: int) -> None:
    tensors = load_file(model)
    rng = np.random.default_rng(seed)
    tensors[tensor] = tensors[tensor] + 0.05 * np.outer(rng.normal(size=16), rng.normal(size=16)).astype(np.float32)
    save_file(tensors, model)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``./model``, deployed with one edit; ``./original`` beside it and the report ``old.json`` of a scan against it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "original")
    shutil.copytree(tiny_model, "model")
    edit(Path("model/model.safetensors"), "layers.1.weight", 1)
    return Path("model")


def scan(mg: Run, *argv: str, name: str = "new") -> Ran:
    return mg("scan", "model", "--reference", "original", "-q", "-o", f"json={name}.json", *argv)


def test_the_gate_opens_for_what_is_deployed_and_for_nothing_else(mg: Run, model: Path) -> None:
    assert scan(mg, name="old").code == 1
    known = scan(mg, "--baseline", "old.json")
    assert known.code == 0, known.out
    assert known.out.startswith("PASS  model")
    assert re.search(r"nothing it blocks beyond \d+ findings? known from the baseline", " ".join(known.out.split()))
    decision = json.loads(Path("new.json").read_text())["decision"]
    assert decision["known"]
    edit(model / "model.safetensors", "layers.2.weight", 2)
    another = scan(mg, "--baseline", "old.json")
    assert another.code == 1
    assert "layers.2.weight" in another.out.split("Not looked at")[0]
    assert mg("policy", "eval", "new.json", "--baseline", "old.json").code == 1
    assert mg("report", "new.json", "--policy", "builtin:baseline", "--baseline", "old.json", "-f", "json").json["decision"]["known"]


def test_two_reports_are_compared(mg: Run, model: Path) -> None:
    scan(mg, name="old")
    edit(model / "model.safetensors", "layers.2.weight", 2)
    scan(mg)
    ran = mg("report", "new.json", "--compare", "old.json")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("BLOCKED  model\n")
    new = ran.out.split("\nNew\n")[1].split("\nGone\n")[0]
    assert "layers.2.weight" in new
    assert "layers.1.weight" not in new
    assert "1 file not as then: model.safetensors" in ran.out
    document = mg("report", "new.json", "--compare", "old.json", "-f", "json").json
    assert {item["location"]["tensor"] for item in document["new"]} >= {"layers.2.weight"}
    assert document["not_looked_at"]["both"]
    mg("scan", "model", "-q", "-o", "json=alone.json")
    alone = mg("report", "alone.json", "--compare", "new.json").out
    assert "scanned against original, by modelguard" in alone
    assert "Gone" not in alone, "nobody looked for it"
    assert "layers.2.weight" in alone.split("Not looked for now, and so not known to be gone")[1]
    same = mg("report", "old.json", "--compare", "old.json")
    assert "0 new findings, 0 gone, 0 changed" in same.out
    assert "every file has the bytes that it had" in same.out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--policy", "builtin:strict", "--baseline", "old.json"],
            "the baseline: policy strict accepts none (baseline: deny); judge without",
        ),
        (["--identity", "acme/x", "--baseline", "old.json"], "the earlier report: is about local:model, not about acme/x"),
        (["--baseline", "nope.json"], "nope.json: cannot be read (No such file or directory)"),
        (["--baseline", "model/model.safetensors"], "model/model.safetensors: is not UTF-8"),
        (["--baseline", "newer.json"], "newer.json: is not a modelguard-report/1 document (schema: 'modelguard-report/2')"),
        (["--baseline", "old.json", "-o", "json=old.json"], "-o json=old.json: old.json is read by this command"),
        (["--baseline", "old.json", "--plan"], "--baseline: has no effect on a plan"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_a_usage_error_in_one_line(mg: Run, model: Path, argv: list[str], line: str) -> None:
    scan(mg, name="old")
    Path("newer.json").write_text('{"schema": "modelguard-report/2"}')
    ran = mg("scan", "model", "--reference", "original", "-q", *argv)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert line in ran.err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--baseline", "old.json"], "--baseline: has no effect on a stored decision; give --policy as well"),
        (["--compare", "old.json", "-f", "sarif"], "--compare: is no report that can be written"),
        (["--compare", "other.json"], "the earlier report: is about acme/x, not about local:model"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_a_usage_error(mg: Run, model: Path, argv: list[str], line: str) -> None:
    scan(mg, name="old")
    scan(mg, "--identity", "acme/x", name="other")
    ran = mg("report", "old.json", *argv)
    assert (ran.code, ran.out) == (2, "")
    assert line in ran.err
