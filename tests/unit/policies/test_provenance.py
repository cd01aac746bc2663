"""What vouches for an artifact: licences, locks, base models, signatures, judged from a report."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from modelguard import (
    Confidence,
    Decision,
    FileInfo,
    Finding,
    Location,
    Outcome,
    PluginInfo,
    Policy,
    PolicyInfo,
    Report,
    Severity,
    Status,
    Verdict,
    evaluate,
)  # fmt: skip
from modelguard._diff.rules import RULES as WEIGHT_DIFF_RULES
from modelguard._policies.file import PolicyFile
from modelguard._policies.rules import UNRELATED
from modelguard.report import LockDifference, LockInfo, TargetInfo


def completed(detector: str, *findings: Finding) -> Outcome:
    return Outcome(detector, Status.COMPLETED, "", {"score": 0.0}, findings)


def policy(**keys: Any) -> Policy:
    return PolicyFile.model_validate({"version": 1, "name": "x", "detectors": {"required": ["format-integrity"]}, **keys}).policy()


def judge(subject: Report, rules: Policy) -> Decision:
    return evaluate(subject, rules, datetime.date(2026, 6, 15))


def about(outcomes: tuple[Outcome, ...] = (), reference: TargetInfo | None = None, lock: LockInfo | None = None, **target: Any) -> Report:
    artifact = replace(TargetInfo("m", "local:m", None, ("safetensors",), (FileInfo("model.safetensors", 8, "a" * 64),)), **target)
    plugins = (PluginInfo("modelguard-core", "0.1.0", ("format-integrity",)),)
    outcomes = (completed("format-integrity"), *outcomes)
    return Report("0.1.0", artifact, reference, None, PolicyInfo("x", "0" * 64), plugins, (), 0, outcomes, lock=lock)


@pytest.mark.parametrize(
    ("target", "verdict", "said"),
    [
        ({"licence": "apache-2.0"}, Verdict.PASS, ""),
        ({"licence": "cc-by-4.0"}, Verdict.PASS, ""),
        ({"licence": "cc-by-nc-4.0"}, Verdict.PASS, ""),
        ({"licence": "mit and gpl-3.0"}, Verdict.BLOCK, "licence mit and gpl-3.0 is not accepted"),
        ({"licence": None}, Verdict.BLOCK, "names no licence"),
        ({"card": "the head of README.md is not valid YAML"}, Verdict.INCOMPLETE, "the model card was not read"),
    ],
)
def test_licences(target: dict[str, Any], verdict: Verdict, said: str) -> None:
    decision = judge(about(**target), policy(sources={"licences": ["apache-2.0", "cc-by-*"]}))
    assert decision.verdict is verdict
    assert said in " ".join(item.message for item in decision.violations)


def test_any_licence_is_still_a_licence() -> None:
    rules = policy(sources={"licences": ["*"]})
    assert judge(about(licence="x"), rules).verdict is Verdict.PASS
    assert judge(about(), rules).verdict is Verdict.BLOCK
    assert judge(about(), policy()).verdict is Verdict.PASS, "nobody asked"


def test_only_what_a_lock_pins() -> None:
    rules = policy(provenance={"locked": True})
    assert [item.rule for item in judge(about(), rules).violations] == ["MG0291"]
    assert judge(about(lock=LockInfo("x", "modelguard.lock", 3)), rules).verdict is Verdict.PASS


@pytest.mark.parametrize(("blocks", "verdict"), [(True, Verdict.BLOCK), (False, Verdict.INCOMPLETE)])
def test_what_differs_from_a_lock_counts_under_every_policy(blocks: bool, verdict: Verdict) -> None:
    lock = LockInfo("x", "modelguard.lock", 3, (LockDifference("MG0212", "model.safetensors", "is another", blocks),))
    decision = judge(about(lock=lock), policy(rules=[{"match": {"rule": "MG0*"}, "action": "allow"}], default="allow"))
    assert (decision.verdict, decision.violations[0].message) == (verdict, "model.safetensors: is another")


BASE = TargetInfo("hf://org/base@main", "hf:org/base", "0" * 40, ("safetensors",), ())
UNRELATED_FINDING = Finding(UNRELATED, "not from it", Confidence.HIGH, Severity.HIGH, Location())


@pytest.mark.parametrize(
    ("outcomes", "reference", "claims", "rule"),
    [
        ((), None, (), None),
        ((), None, ("org/base",), "MG0232"),
        ((completed("weight-diff"),), BASE, ("org/base",), None),
        ((completed("weight-diff"),), BASE, ("org/base", "org/other"), "MG0232"),
        ((completed("weight-diff"),), replace(BASE, identity="hf:org/lookalike"), ("org/base",), "MG0232"),
        ((Outcome("weight-diff", Status.TIMED_OUT, "late"),), BASE, ("org/base",), "MG0232"),
        ((completed("weight-diff", UNRELATED_FINDING),), BASE, ("org/base",), "MG0231"),
    ],
)
def test_a_claimed_base_model_is_compared_with(
    outcomes: tuple[Outcome, ...], reference: TargetInfo | None, claims: tuple[str, ...], rule: str | None
) -> None:
    lenient = policy(
        provenance={"base_model": "check"}, default="allow", detectors={"required": ["format-integrity"], "optional": ["weight-diff"]}
    )
    decision = judge(about(outcomes, reference, base_models=claims), lenient)
    assert [item.rule for item in decision.violations] == ([rule] if rule else [])
    assert decision.verdict is {None: Verdict.PASS, "MG0231": Verdict.BLOCK, "MG0232": Verdict.INCOMPLETE}[rule]


def test_the_rule_about_unrelated_models_is_weight_diffs() -> None:
    (rule,) = [item for item in WEIGHT_DIFF_RULES if item.id == UNRELATED]
    assert "does not come from" in rule.title


def test_a_required_signature_must_have_been_looked_at() -> None:
    rules = policy(provenance={"signature": {"identity": "a", "issuer": "b"}})
    assert rules.required_for(reference=False, samples=False) == ("format-integrity", "signature")
    assert [(item.rule, item.blocks) for item in judge(about(), rules).violations] == [("MG9005", False)]
    skipped = Outcome("signature", Status.SKIPPED, "the library is not installed")
    assert [(item.rule, item.blocks) for item in judge(about((skipped,)), rules).violations] == [("MG9001", False)]
    assert judge(about((completed("signature"),)), rules).verdict is Verdict.PASS
    assert rules.requiring(["abs"]).required_for(reference=True, samples=True) == ("abs",)
