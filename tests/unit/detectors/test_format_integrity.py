"""The detector ``format-integrity``: what it says of clean, broken and unread files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import FormatProblem, Severity, Status, Target, UnfetchedFile
from modelguard._detectors import format_integrity
from modelguard._detectors.format_integrity import FormatIntegrity
from modelguard._detectors.format_rules import RULES
from modelguard.report import Outcome
from modelguard.testing.checkpoints import CORRUPTIONS, corrupt_safetensors, open_target, write_onnx_mlp, write_safetensors, write_sharded
from modelguard.testing.conformance import check_detector, run_detector

ARRAYS: dict[str, Any] = {"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.int8)}


def scan(target: Target) -> Outcome:
    return run_detector(FormatIntegrity(), target)


def found(outcome: Outcome) -> list[tuple[str, str | None, Severity | None]]:
    return [(finding.rule, finding.location.file, finding.severity) for finding in outcome.findings]


def test_it_keeps_the_detector_contract() -> None:
    check_detector(FormatIntegrity)


def test_a_clean_artifact_has_no_finding_and_a_full_summary(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    write_onnx_mlp(tmp_path / "model.onnx", (4, 3))
    (tmp_path / "config.json").write_text("{}")
    outcome = scan(open_target(tmp_path))
    assert outcome.status is Status.COMPLETED
    assert not outcome.findings
    assert outcome.summary == {
        "score": 0.0,
        "formats": {
            "onnx": {"checkpoints": 1, "tensors": 2, "bytes": 60},
            "safetensors": {"checkpoints": 1, "tensors": 2, "bytes": 29},
        },
        "files": 3,
        "bytes": sum(path.stat().st_size for path in tmp_path.iterdir()),
        "bytes_in_tensors": 89,
        "findings": 0,
        "inert_files": 1,
        "files_not_looked_at": 0,
    }


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_every_broken_safetensors_file_is_a_finding_of_its_rule(kind: str, tmp_path: Path) -> None:
    corruption = corrupt_safetensors(kind)
    (tmp_path / "model.safetensors").write_bytes(corruption.data)
    outcome = scan(open_target(tmp_path))
    assert found(outcome) == [(corruption.rule, "model.safetensors", Severity.HIGH)]
    assert outcome.findings[0].evidence["fatal"] is True
    assert outcome.summary["score"] == float(Severity.HIGH)
    assert outcome.summary["formats"] == {}


def test_files_that_nobody_read_are_findings_and_text_is_not(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    (tmp_path / "README.md").write_text("# hi")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "modeling.py").write_text("import os")
    (tmp_path / "blob").write_bytes(bytes([0, 255] * 40))
    outcome = scan(open_target(tmp_path))
    assert found(outcome) == [
        ("MG9004", "blob", Severity.LOW),
        ("MG9004", "modeling.py", Severity.MEDIUM),
        ("MG9004", "pytorch_model.bin", Severity.MEDIUM),
    ]
    assert "is a Python pickle, which no format or detector reads" in outcome.findings[2].message
    assert outcome.summary["inert_files"] == 1
    assert outcome.summary["files_not_looked_at"] == 3
    assert outcome.summary["score"] == float(Severity.MEDIUM)


def test_a_file_with_a_fatal_problem_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(60))
    assert found(scan(open_target(tmp_path))) == [("MG0101", "model.safetensors", Severity.HIGH)]


def test_files_that_were_not_fetched_are_findings(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    target = open_target(tmp_path)
    unfetched = (
        UnfetchedFile("README.md", 10, "", "not needed"),
        UnfetchedFile("tf_model.h5", 10, "sha256:" + "0" * 64, "no loaded format reads it"),
    )
    target = replace(target, artifact=replace(target.artifact, unfetched=unfetched))
    outcome = scan(target)
    assert found(outcome) == [("MG9004", "README.md", Severity.LOW), ("MG9004", "tf_model.h5", Severity.MEDIUM)]
    assert outcome.findings[0].message == "README.md: is text or a picture by its name and was not fetched: not needed"
    assert outcome.findings[1].message == "tf_model.h5: is weights by its name and was not fetched: no loaded format reads it"


def test_a_flood_of_unread_files_shares_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_integrity, "LISTED", 3)
    for number in range(10):
        (tmp_path / f"{number}.pkl").write_bytes(b"\x80\x02}q\x00.")
    outcome = scan(open_target(tmp_path))
    assert len(outcome.findings) == 4
    assert outcome.findings[-1].message.startswith("7 more findings of this rule; the first: 3.pkl: is a Python pickle")
    assert outcome.summary["files_not_looked_at"] == 10


def test_a_flood_of_problems_shares_findings_and_keeps_the_worst_severity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_integrity, "LISTED", 3)
    target = open_target(write_safetensors(tmp_path / "model.safetensors", ARRAYS))
    problems = [FormatProblem(rule, f"{number}", f"{number}: is odd") for number, rule in enumerate(["MG0102"] * 9 + ["MG0110"] * 2)]
    outcome = scan(replace(target, problems=tuple(problems)))
    assert [(item.rule, item.evidence.get("count"), item.severity) for item in outcome.findings[3:]] == [
        ("MG0102", 6, Severity.HIGH),
        ("MG0110", 2, Severity.CRITICAL),
    ]
    assert outcome.summary["score"] == float(Severity.CRITICAL)


def test_a_deceptive_file_name_is_a_finding(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model\u202e.safetensors", ARRAYS)
    (finding,) = scan(open_target(tmp_path)).findings
    assert finding.rule == "MG0112"
    assert "\u202e" not in finding.message


def test_a_problem_of_a_plugin_under_a_rule_of_its_own_is_kept(tmp_path: Path) -> None:
    target = open_target(write_safetensors(tmp_path / "model.safetensors", ARRAYS))
    (finding,) = scan(replace(target, problems=(FormatProblem("MG0199", "x.foo", "x.foo: is odd"),))).findings
    assert (finding.rule, finding.message, finding.evidence) == ("MG0102", "x.foo: is odd", {"rule": "MG0199"})


def test_findings_of_one_rule_in_one_file_have_fingerprints_of_their_own(tmp_path: Path) -> None:
    import json

    write_sharded(tmp_path, {f"w{index}": np.ones(1) for index in range(4)}, 2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["w0"] = "model-00002-of-00002.safetensors"
    del index["weight_map"]["w1"]
    path.write_text(json.dumps(index))
    outcome = scan(open_target(tmp_path))
    assert [finding.rule for finding in outcome.findings] == ["MG0109", "MG0109"]
    assert len({finding.fingerprint for finding in outcome.findings}) == 2


def test_a_file_that_vanished_since_it_was_listed_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}q\x00.")
    target = open_target(tmp_path)
    (tmp_path / "x.pkl").unlink()
    assert [finding.rule for finding in scan(target).findings] == ["MG0114"]


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) == len({rule.name for rule in RULES})
    for rule in RULES:
        assert len(rule.description) > 60
        assert len(rule.remedy) > 20
        assert rule.id.startswith(("MG01", "MG90"))
