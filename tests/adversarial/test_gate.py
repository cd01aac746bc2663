"""A gate that cannot be talked round: what a verdict is about is what was compared, waived and required, and nothing beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Ran

from modelguard import Finding, Location, fingerprint
from modelguard._detectors.remote_code import RemoteCode
from modelguard.testing import open_target, run_detector, write_safetensors

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", {"w": np.arange(64, dtype=np.float32).reshape(8, 8)})
    return tmp_path / "m"


def scanned(mg: Run, *argv: object) -> tuple[int, dict[str, Any]]:
    """Exit code and report of a scan with the core's own detectors."""
    names = ["format-integrity", "remote-code", *(["weight-diff"] if "--reference" in argv else [])]
    ran = mg("scan", *argv, "-q", "-f", "json", "-p", "no:serialization", *(word for name in names for word in ("--detector", name)))
    return ran.code, ran.json


def sources(report: dict[str, Any]) -> list[str]:
    return [item["message"] for item in report["decision"]["violations"] if item["kind"] == "source"]


@pytest.mark.parametrize(
    ("how", "policy"),
    [
        ("the same path", "strict"),
        ("a link", "baseline"),
        ("another spelling", "baseline"),
        ("its own file", "baseline"),
        ("a hard link of its file", "baseline"),
    ],
)
def test_an_artifact_is_no_reference_for_itself(mg: Run, model: Path, how: str, policy: str) -> None:
    target: Path | str = "m"
    reference: Path | str = "m"
    if how == "a link":
        Path("link").symlink_to("m")
        reference = "link"
    elif how == "another spelling":
        reference = model.parent / "m" / ".." / "m"
    elif how == "its own file":
        reference = "m/model.safetensors"
    elif how == "a hard link of its file":
        target = "m/model.safetensors"
        os.link(model / "model.safetensors", "other.safetensors")
        reference = "other.safetensors"
    code, report = scanned(mg, target, "--reference", reference, "--policy", f"builtin:{policy}")
    assert code == 3
    (message,) = sources(report)
    assert "the reference is the target itself (model.safetensors is the same file in both)" in message


def test_a_copy_is_a_reference(mg: Run, model: Path) -> None:
    shutil.copytree("m", "trusted")
    _, report = scanned(mg, "m", "--reference", "trusted", "--policy", "builtin:strict")
    assert (sources(report), report["self_reference"]) == ([], "")


POINTER = {"auto_map": {"AutoModel": "modeling_x.Model"}}


def point(folder: Path, code: str = "class Model: ...\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(POINTER))
    (folder / "modeling_x.py").write_text(code)
    write_safetensors(folder / "model.safetensors", {"w": np.zeros((4, 4), np.float32)})


def waiving(report: dict[str, Any]) -> str:
    (finding,) = [item for outcome in report["outcomes"] for item in outcome["findings"] if item["rule"] == "MG0301"]
    return (
        "version: 1\nname: waiving\nextends: [builtin:baseline]\nrules:\n  - {match: {rule: MG0301}, action: block}\n"
        "  - {match: {rule: MG9004}, action: allow}\nwaivers:\n"
        f"  - {{rule: MG0301, fingerprint: '{finding['fingerprint']}', reason: reviewed, owner: me, expires: 2999-01-01}}\n"
    )


def test_a_waiver_covers_one_model_and_the_code_that_was_reviewed(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    point(Path("a/model"))
    point(Path("b/model"))
    point(Path("a/other/model"))
    Path("p.yaml").write_text(waiving(scanned(mg, "a/model")[1]))
    assert scanned(mg, "a/model", "--policy", "p.yaml")[0] == 0
    assert scanned(mg, "b/model", "--policy", "p.yaml")[0] == 1, "another model of the same base name"
    assert scanned(mg, "b/model", "--policy", "p.yaml", "--identity", "local:a/model")[0] == 0, "said to be the same model"
    monkeypatch.chdir("a/other")
    assert scanned(mg, "model", "--policy", tmp_path / "p.yaml")[0] == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "model" / "modeling_x.py").write_text("import os\nos.system('x')\n")
    assert scanned(mg, "a/model", "--policy", "p.yaml")[0] == 1, "other code under the same name"


def _mark(folder: Path) -> str:
    finding = next(item for item in run_detector(RemoteCode(), open_target(folder)).findings if item.rule == "MG0301")
    return fingerprint(finding.rule, "x", finding.location, finding.key)


def test_what_the_pointed_code_imports_is_part_of_it_and_weights_are_not(tmp_path: Path) -> None:
    point(tmp_path)
    (tmp_path / "helper.py").write_text("x = 1\n")
    first = _mark(tmp_path)
    assert _mark(tmp_path) == first
    write_safetensors(tmp_path / "model.safetensors", {"w": np.ones((4, 4), np.float32)})
    (tmp_path / "README.md").write_text("new revision")
    assert _mark(tmp_path) == first
    (tmp_path / "helper.py").write_text("x = 2\n")
    assert _mark(tmp_path) != first
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil/repo--modeling_x.Model"}}))
    assert _mark(tmp_path) != first


def mark(file: str | None, tensor: str | None = "w") -> str:
    finding = Finding("MG1104", "", location=Location(file, tensor))
    return fingerprint(finding.rule, "local:m", finding.location, finding.key)


def test_a_tensor_of_one_file_is_not_that_of_another(tmp_path: Path) -> None:
    marks = {mark("unet/model.safetensors"), mark("vae/model.safetensors"), mark("model.safetensors"), mark(None), mark("w", None)}
    assert len(marks) == 5
    assert mark("model-00001-of-00002.safetensors") == mark("model-00002-of-00002.safetensors") == mark("model.safetensors")
    assert mark("a-00001-of-00002.json", None) != mark("a-00002-of-00002.json", None)


def test_no_verdict_of_a_policy_is_told_when_its_detectors_were_left_out(mg: Run, model: Path) -> None:
    shutil.copytree("m", "trusted")
    ran = mg("diff", "trusted", "m", "-q", "-o", "json=r.json", "-o", "html=r.html", "-o", "sarif=r.sarif")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "reference-files, weight-diff alone, policy baseline not judged: no objection"
    assert "pass" not in ran.out.lower()
    assert "NO OBJECTION" in Path("r.html").read_text()
    assert json.loads(Path("r.json").read_text())["policy"]["alone"] == ["reference-files", "weight-diff"]
    assert "not judged as a whole" in Path("r.sarif").read_text()
    assert mg("policy", "eval", "r.json").code == 3, "format-integrity did not run"
    ran = mg("scan", "m", "--detector", "remote-code", "-q")
    assert ran.out.startswith("NO OBJECTION  m\n")
    assert "remote-code alone, policy baseline not judged" in ran.out
    ran = mg("scan", "m", "--detector", "format-integrity", "-q")
    assert ran.out.startswith("PASS  m\n"), "all that baseline requires of a scan without reference"


def test_rounding_to_steps_of_a_quarter_does_not_pass_as_rounding(mg: Run, tmp_path: Path) -> None:
    weights = {f"layers.{n}.w": np.random.default_rng(n).standard_normal((64, 64)).astype(np.float32) for n in range(6)}
    for name, tensors in (("ref", weights), ("m", {key: (np.rint(value * 4) / 4).astype(np.float32) for key, value in weights.items()})):
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "model.safetensors", tensors)
    ran = mg("diff", tmp_path / "ref", tmp_path / "m", "-q", "-f", "json")
    assert ran.code == 1
    assert {item["rule"] for item in ran.json["decision"]["violations"]} == {"MG1202"}
