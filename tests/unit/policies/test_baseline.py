"""Judging against an earlier report: what is known does not block, nothing new hides behind it, and what was not looked at stays so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from judging import TODAY, completed, found, policy, report

from modelguard._policies.compare import compare
from modelguard.errors import UsageError
from modelguard.findings import Confidence, Severity
from modelguard.policy import Policy, evaluate, load_policy
from modelguard.report import FileInfo, Outcome, Report, Status, TargetInfo, Verdict

BLOCKING = [{"match": {"severity": ">=medium"}, "action": "block"}, {"match": {"rule": "MG9004"}, "action": "incomplete"}]
UNREAD = [{"match": {"rule": "MG9004"}, "action": "incomplete"}, {"match": {"severity": ">=medium"}, "action": "block"}]
OTHER_BYTES = TargetInfo("m", "local:m", None, ("safetensors",), (FileInfo("model.safetensors", 8, "b" * 64),))


def accepting(**keys: Any) -> Policy:
    return policy(**{"baseline": "allow", "rules": BLOCKING, **keys})


def scanned(*findings: Any, **more: Any) -> Report:
    return report(completed("format-integrity", *findings), **more)


def test_what_is_known_does_not_block_and_what_is_new_does() -> None:
    old, new = found("MG3001"), found("MG3001", tensor="v")
    decided = evaluate(scanned(old), accepting(), TODAY, scanned(old))
    assert (decided.verdict, decided.known, decided.violations) == (Verdict.PASS, (old.fingerprint,), ())
    assert any("findings that are known from it and do not count: 1" in note for note in decided.notes)
    decided = evaluate(scanned(old, new), accepting(), TODAY, scanned(old))
    assert (decided.verdict, decided.known) == (Verdict.BLOCK, (old.fingerprint,))
    assert [item.subject for item in decided.violations] == [new.fingerprint]


def test_a_known_finding_neither_warns_nor_counts_as_allowed() -> None:
    old = found("MG1104")
    rules = accepting(rules=[{"match": {"severity": ">=medium"}, "action": "warn"}])
    assert evaluate(scanned(old), rules, TODAY).warnings == (old.fingerprint,)
    decided = evaluate(scanned(old), rules, TODAY, scanned(old))
    assert (decided.warnings, decided.known) == ((), (old.fingerprint,))


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        ({"severity": Severity.MEDIUM}, {"severity": Severity.CRITICAL}, "severity medium -> critical"),
        ({"confidence": Confidence.LOW}, {"confidence": Confidence.HIGH}, "confidence low -> high"),
    ],
)
def test_a_finding_that_has_become_worse_is_not_the_one_that_was_known(then: Any, now: Any, why: str) -> None:
    decided = evaluate(scanned(found("MG3001", **now)), accepting(), TODAY, scanned(found("MG3001", **then)))
    assert decided.verdict is Verdict.BLOCK
    assert f"[not as in the baseline: {why}]" in decided.violations[0].message
    assert evaluate(scanned(found("MG3001", **then)), accepting(), TODAY, scanned(found("MG3001", **now))).verdict is Verdict.PASS


def test_a_second_edit_of_a_known_tensor_blocks() -> None:
    old, new = found("MG3001", evidence={"rank": 1}), found("MG3001", evidence={"rank": 2})
    assert old.fingerprint == new.fingerprint
    edited = scanned(new, target=OTHER_BYTES)
    decided = evaluate(edited, accepting(), TODAY, scanned(old))
    assert (decided.verdict, decided.known) == (Verdict.BLOCK, ())
    assert "[not as in the baseline: evidence: rank]" in decided.violations[0].message
    same_words = scanned(old, target=OTHER_BYTES)
    assert evaluate(same_words, accepting(), TODAY, scanned(old)).verdict is Verdict.PASS, "it says what it said"
    same_bytes = scanned(new)
    assert evaluate(same_bytes, accepting(), TODAY, scanned(old)).verdict is Verdict.PASS, "a newer modelguard says it in other words"


def test_bytes_that_were_not_hashed_are_not_known_to_be_the_same() -> None:
    bare = replace(OTHER_BYTES, files=(FileInfo("model.safetensors", 8, None),))
    then = scanned(found("MG3001", evidence={"rank": 1}), target=bare)
    now = scanned(found("MG3001", evidence={"rank": 2}), target=bare)
    assert evaluate(now, accepting(), TODAY, then).verdict is Verdict.BLOCK


def test_one_known_finding_excuses_one() -> None:
    first, second = found("MG3001"), found("MG3001", evidence={"again": True})
    decided = evaluate(scanned(first, second), accepting(), TODAY, scanned(first))
    assert (decided.verdict, len(decided.violations)) == (Verdict.BLOCK, 1)


def test_what_was_not_looked_at_then_and_now_leaves_no_verdict_and_is_called_known() -> None:
    unread = found("MG9004")
    rules = accepting(rules=UNREAD)
    decided = evaluate(scanned(unread), rules, TODAY, scanned(unread))
    assert (decided.verdict, decided.known) == (Verdict.INCOMPLETE, ())
    assert decided.violations[0].message.endswith("[known: nor was it in the baseline]")
    fresh = evaluate(scanned(unread), rules, TODAY, scanned())
    assert (fresh.verdict, fresh.violations[0].message.count("known")) == (Verdict.INCOMPLETE, 0)


@pytest.mark.parametrize(("before", "known"), [(Status.SKIPPED, True), (Status.TIMED_OUT, True), (Status.COMPLETED, False)])
def test_a_required_detector_that_did_not_look_is_no_pass_whatever_the_baseline(before: Status, known: bool) -> None:
    now = report(Outcome("format-integrity", Status.ERRORED, "boom"))
    decided = evaluate(now, accepting(), TODAY, report(Outcome("format-integrity", before, "")))
    assert decided.verdict is Verdict.INCOMPLETE
    assert ("[known:" in decided.violations[0].message) is known


def test_an_expired_waiver_blocks_what_the_baseline_knows() -> None:
    old = found("MG3001")
    waiver = {"rule": "MG3001", "fingerprint": old.fingerprint, "reason": "r", "owner": "o", "expires": "2026-01-01"}
    assert evaluate(scanned(old), accepting(waivers=[waiver]), TODAY, scanned(old)).verdict is Verdict.BLOCK


def test_what_the_policy_refuses_by_itself_is_refused_whatever_is_known() -> None:
    rules = accepting(sources={"remote_code": "deny"})
    code = replace(OTHER_BYTES, files=(FileInfo("modeling.py", 8, "a" * 64),))
    assert evaluate(scanned(target=code), rules, TODAY, scanned(target=code)).verdict is Verdict.BLOCK


@pytest.mark.parametrize("name", ["builtin:strict", None])
def test_a_policy_that_accepts_none_refuses_it(name: str | None) -> None:
    rules = load_policy(name) if name else policy()
    with pytest.raises(UsageError, match=r"the baseline: policy .* accepts none \(baseline: deny\); judge without one") as caught:
        evaluate(scanned(), rules, TODAY, scanned())
    assert caught.value.exit_code == 2


def test_a_baseline_of_another_artifact_or_of_none_is_refused() -> None:
    other = scanned(target=replace(OTHER_BYTES, identity="local:other"))
    with pytest.raises(UsageError, match="the earlier report: is about local:other, not about local:m"):
        evaluate(scanned(), accepting(), TODAY, other)
    with pytest.raises(UsageError, match=r"the baseline: its artifact was not read \(gone\), so it knows nothing"):
        evaluate(scanned(), accepting(), TODAY, scanned(failure="gone"))


def test_an_artifact_that_cannot_be_read_any_more_is_no_pass() -> None:
    unknown = TargetInfo("m", "", None, (), ())
    decided = evaluate(report(failure="gone", target=unknown), accepting(), TODAY, scanned(found("MG3001")))
    assert decided.verdict is Verdict.INCOMPLETE


def test_a_comparison_tells_gone_from_not_looked_for() -> None:
    a, b, c = found("MG1104", tensor="a"), found("MG1104", tensor="b"), found("MG3001", tensor="c", evidence={"n": 1})
    old = report(completed("format-integrity", a, c), completed("weight-diff", b))
    new = report(
        completed("format-integrity", found("MG3001", tensor="c", evidence={"n": 2}), found("MG0101")),
        Outcome("weight-diff", Status.TIMED_OUT, "slow"),
    )
    compared = compare(old, new)
    assert [finding.rule for _, finding in compared.new] == ["MG0101"]
    assert [finding.fingerprint for _, finding in compared.gone] == [a.fingerprint]
    assert [finding.fingerprint for _, finding in compared.unseen] == [b.fingerprint]
    assert [item.what for item in compared.changed] == [("evidence: n",)]
    assert compared.unlooked == ("detector weight-diff",)
    assert (compared.still, compared.looked, compared.same) == ((), (), ())
