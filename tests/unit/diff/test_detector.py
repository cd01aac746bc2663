"""The detector: an identical copy is silent, a tampered one is not, and the summary keeps its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelguard import Finding, ScanContext, Severity, Skip, Target
from modelguard._diff.detector import WeightDiff
from modelguard.testing import as_target

Tensors = dict[str, Any]


def classifier(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    shapes = {
        "fc1.weight": (64, 64),
        "fc1.bias": (64,),
        "fc2.weight": (48, 64),
        "fc2.bias": (48,),
        "fc3.weight": (10, 48),
        "fc3.bias": (10,),
    }
    return {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def run(reference: Tensors, checkpoint: Tensors, **options: Any) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff")
    findings = list(WeightDiff(**options).detect(as_target(checkpoint, reference), context))
    return findings, context._summary


def severity(finding: Finding) -> Severity:
    return finding.severity or next(rule.severity for rule in WeightDiff.rules if rule.id == finding.rule)


def test_identical_copy_has_no_findings() -> None:
    findings, summary = run(classifier(), classifier())
    assert findings == []
    assert summary["verdict"] == "identical"
    assert summary["tensors"] == []
    assert summary["score"] == 0.0
    assert (summary["matched"], summary["identical"]) == (6, 6)


@pytest.mark.parametrize("seed", range(4))
def test_one_tampered_tensor_is_high(seed: int) -> None:
    tampered = classifier()
    rng = np.random.default_rng(seed)
    tampered["fc2.weight"] = tampered["fc2.weight"] + (0.01 * rng.standard_normal((48, 64))).astype(np.float32)
    findings, summary = run(classifier(), tampered)
    assert max(map(severity, findings)) is Severity.HIGH
    assert summary["verdict"] == "lone-change"
    (entry,) = summary["tensors"]
    assert {"name", "kind", "rank", "relative_norm", "changed"} <= set(entry)
    assert (entry["name"], entry["kind"], entry["changed"]) == ("fc2.weight", "dense", 48 * 64)
    assert entry["relative_norm"] == pytest.approx(0.1, rel=0.1)


def test_retrained_model_is_not_a_finding_per_tensor() -> None:
    findings, summary = run(classifier(), {k: v + 0.001 * classifier(1)[k] for k, v in classifier().items()})
    assert [finding.rule for finding in findings] == ["MG1206"]
    assert len(summary["tensors"]) == 6


def test_missing_added_and_resized_are_reported() -> None:
    changed = classifier()
    del changed["fc3.bias"]
    changed["extra.weight"] = np.zeros((7, 3), np.float32)
    changed["fc3.weight"] = changed["fc3.weight"][:, :40]
    findings, summary = run(classifier(), changed)
    assert {"MG1101", "MG1102", "MG1103"} <= {finding.rule for finding in findings}
    assert summary["missing"] == ["fc3.bias"]
    assert summary["added"] == ["extra.weight"]
    assert summary["resized"] == ["fc3.weight"]
    assert summary["verdict"] != "identical"


def test_renamed_tensor_is_found_by_what_it_holds() -> None:
    renamed = classifier()
    renamed["other.bias"] = renamed.pop("fc3.bias")
    findings, summary = run(classifier(), renamed)
    assert [finding.rule for finding in findings] == ["MG1109", "MG1217"]
    assert summary["renamed"] == {"other.bias": "fc3.bias"}
    assert (summary["verdict"], summary["missing"], summary["added"]) == ("renamed", [], [])


def test_no_reference_is_a_skip() -> None:
    with pytest.raises(Skip):
        list(WeightDiff().detect(as_target(classifier()), ScanContext(detector="weight-diff")))


def test_findings_of_one_rule_are_capped_and_say_so() -> None:
    many = {f"extra.{index}": np.zeros(3, np.float32) for index in range(12)}
    findings, summary = run(classifier(), classifier() | many, max_findings=5)
    added = [finding for finding in findings if finding.rule == "MG1102"]
    assert len(added) == 5
    assert added[0].evidence["not_listed"] == 7
    assert len(summary["added"]) == 12


def test_two_runs_and_any_thread_count_agree() -> None:
    tampered = {name: (value * np.float32(1.01) + np.float32(0.001)) for name, value in classifier().items()}
    target: Target = as_target(tampered, classifier())
    results = []
    for threads in (1, 2, 3):
        context = ScanContext(detector="weight-diff", threads=threads)
        results.append((list(WeightDiff().detect(target, context)), context._summary))
    assert results[0] == results[1] == results[2]


def int8(weight: Any) -> Any:
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    return (np.rint(weight / step) * step).astype(np.float32)


def layered(count: int = 6) -> Tensors:
    rng = np.random.default_rng(0)
    shapes = {f"layers.{index}.{name}": shape for index in range(count) for name, shape in (("w.weight", (64, 96)), ("w.bias", (64,)))}
    return {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("moved", "verdict"), [(1e-4, "quantized"), (1.0, "mixed")])
def test_vectors_beside_quantised_matrices_may_not_move_further_than_those(moved: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    changed = {
        k: int8(v) if v.ndim == 2 else v + np.float32(moved * 0.1) * rng.standard_normal(64, np.float32) for k, v in layered().items()
    }
    findings, summary = run(layered(), changed)
    assert summary["verdict"] == verdict, summary["reason"]
    # The verdict speaks for the matrices; the vectors are more than it says, and get findings of their own.
    assert sum(finding.rule == "MG1120" for finding in findings) == 6
    assert ("MG1112" in {finding.rule for finding in findings}) == (verdict == "mixed")


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("MG1105", lambda v: np.rint(100 * v).astype(np.int8)),
        ("MG1104", lambda v: (v + 0.01 * np.random.default_rng(2).standard_normal(v.shape)).astype(np.float16)),
        ("MG1108", lambda v: np.where(v > v.mean(), np.float32(np.nan), v)),
    ],
)
def test_dtype_and_value_findings_are_capped_too(rule: str, change: Any) -> None:
    findings, _ = run(layered(), {name: change(value) for name, value in layered().items()}, max_findings=5)
    found = [finding for finding in findings if finding.rule == rule]
    assert len(found) == 5
    assert found[0].evidence["not_listed"] == 7
