"""The judgement: which reports pass, block or stay without a verdict, and why."""

from __future__ import annotations

import datetime
import functools
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import CORE, RULES, TODAY, completed, found, policy, report

from modelguard.findings import Confidence, Finding, Severity
from modelguard.policy import Policy, evaluate, load_policy
from modelguard.report import (
    Decision,
    FileInfo,
    Outcome,
    PluginFailure,
    PluginInfo,
    Report,
    Status,
    TargetInfo,
    Verdict,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"hf://acme/bert@{COMMIT}"


@functools.cache
def baseline() -> Policy:
    return load_policy()


def judge(subject: Report, rules: Policy | None = None, today: datetime.date = TODAY) -> Decision:
    return evaluate(subject, rules or baseline(), today)


def lines(decision: Decision) -> list[tuple[str, str, bool]]:
    return [(item.kind, item.rule, item.blocks) for item in decision.violations]


def test_a_clean_complete_report_passes() -> None:
    decision = judge(report())
    assert (decision.verdict, decision.exit_code, decision.violations) == (Verdict.PASS, 0, ())


def test_a_report_made_by_hand_is_in_order_and_complete_from_the_start() -> None:
    """Whatever order its parts come in, and whether or not its findings name their severity."""
    first, second = found("MG1104"), found("MG3001", severity=Severity.LOW)
    undeclared = found("MG7777")
    mixed = report(completed("weight-diff", undeclared, second, first), completed("abs"), plugins=(replace(CORE, name="z"), CORE))
    assert [item.detector for item in mixed.outcomes] == ["abs", "weight-diff"]
    assert [item.name for item in mixed.plugins] == [CORE.name, "z"]
    declared = {rule.id: rule.severity for rule in RULES}
    settled = [(item.rule, item.severity) for _, item in mixed.findings()]
    assert settled == [("MG1104", declared["MG1104"]), ("MG3001", Severity.LOW), ("MG7777", Severity.CRITICAL)]
    explicit = [replace(item, severity=mixed.severity(item)) for _, item in mixed.findings()]
    ordered = report(completed("abs"), completed("weight-diff", *explicit), plugins=(CORE, replace(CORE, name="z")))
    assert mixed == ordered
    severe = policy(rules=[{"match": {"severity": ">=critical"}, "action": "block"}], default="allow")
    assert judge(mixed, severe) == judge(ordered, severe)
    assert [item.rule for item in judge(mixed, severe).violations if item.kind == "finding"] == ["MG7777"]


# Completeness


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.ERRORED, Status.TIMED_OUT])
def test_a_required_detector_that_did_not_complete_leaves_no_verdict(status: Status) -> None:
    decision = judge(report(Outcome("format-integrity", status, "because")))
    assert (decision.verdict, decision.exit_code) == (Verdict.INCOMPLETE, 3)
    assert "format-integrity" in decision.violations[0].message
    assert "because" in decision.violations[0].message


def test_one_incomplete_outcome_is_not_made_good_by_another_of_the_same_detector() -> None:
    both = (completed("format-integrity"), Outcome("format-integrity", Status.ERRORED, "died"))
    assert judge(report(*both)).verdict is Verdict.INCOMPLETE


def test_a_required_detector_without_outcome_leaves_no_verdict_and_says_what_to_install() -> None:
    decision = judge(report(completed("abs")), policy(detectors={"required": ["neural-cleanse", "acme-check"]}))
    assert decision.exit_code == 3
    assert lines(decision) == [("detector", "MG9005", False), ("detector", "MG9005", False)]
    messages = [item.message for item in decision.violations]
    assert any("install modelguard-neural-cleanse" in message for message in messages)
    assert any(message.endswith("acme-check did not run: it is not installed") for message in messages)


def test_a_required_detector_whose_plugin_failed_says_so() -> None:
    failure = PluginFailure("neural-cleanse", "modelguard-neural-cleanse", "ImportError: no torch")
    decision = judge(report(plugin_failures=(failure,)), policy(detectors={"required": ["neural-cleanse"]}))
    assert decision.exit_code == 3
    assert "ImportError: no torch" in decision.violations[0].message


def test_a_detector_that_is_not_required_and_could_not_look_changes_nothing_and_is_noted() -> None:
    decision = judge(report(completed("format-integrity"), Outcome("abs", Status.SKIPPED, "needs samples")))
    assert decision.verdict is Verdict.PASS
    assert decision.notes == ("detector abs was skipped: needs samples (not required)",)


@pytest.mark.parametrize(("status", "rule"), [(Status.ERRORED, "MG9002"), (Status.TIMED_OUT, "MG9003")])
@pytest.mark.parametrize("name", ["baseline", "hub-download", "strict"])
def test_a_detector_that_began_and_did_not_end_leaves_no_verdict_unless_it_is_optional(name: str, status: Status, rule: str) -> None:
    done = (completed("format-integrity"), completed("weight-diff"), completed("reference-files"), completed("remote-code"))
    given = report(*done, Outcome("abs", status, "needs more memory"), target=hub(HUB), reference=True)
    decision = judge(given, load_policy(f"builtin:{name}"))
    assert decision.exit_code == 3
    assert [item.rule for item in decision.violations] == [rule]
    assert decision.violations[0].message.endswith("needs more memory (not in detectors.optional)")
    lax = policy(detectors={"required": ["format-integrity"], "optional": ["abs"]})
    assert judge(given, lax).exit_code == 0


def test_a_required_detector_is_required_even_where_it_is_called_optional() -> None:
    lax = policy(detectors={"required": ["abs"], "optional": ["abs"]})
    assert judge(report(Outcome("abs", Status.ERRORED, "killed")), lax).exit_code == 3


@pytest.mark.parametrize("absent", ["weight-diff", "reference-files"])
def test_what_compares_is_required_exactly_when_there_is_a_reference(absent: str) -> None:
    ran = [completed(name) for name in ("format-integrity", "weight-diff", "reference-files")]
    assert judge(report()).verdict is Verdict.PASS
    assert judge(report(*(item for item in ran if item.detector != absent), reference=True)).verdict is Verdict.INCOMPLETE
    assert judge(report(*ran, reference=True)).verdict is Verdict.PASS


def test_samples_that_no_trigger_search_used_leave_no_verdict() -> None:
    looked = report(completed("format-integrity"), completed("backdoor-ensemble"), samples=True)
    assert judge(looked).verdict is Verdict.PASS
    skipped = Outcome("backdoor-ensemble", Status.SKIPPED, "none of the trigger searches could use the samples")
    assert judge(report(completed("format-integrity"), skipped)).verdict is Verdict.PASS
    decision = judge(report(completed("format-integrity"), skipped, samples=True))
    assert decision.verdict is Verdict.INCOMPLETE
    assert "none of the trigger searches could use the samples" in decision.violations[0].message
    (violation,) = judge(report(samples=True)).violations
    assert "install modelguard-ensemble" in violation.message


def test_strict_wants_a_reference() -> None:
    decision = judge(
        report(completed("format-integrity"), Outcome("weight-diff", Status.SKIPPED, "needs a reference")), load_policy("builtin:strict")
    )
    assert decision.verdict is Verdict.INCOMPLETE
    assert (
        judge(
            report(*map(completed, ("format-integrity", "reference-files", "remote-code", "weight-diff")), reference=True),
            load_policy("builtin:strict"),
        ).exit_code
        == 0
    )


def test_a_failed_source_leaves_no_verdict_and_is_the_only_reason() -> None:
    broken = report(target=TargetInfo("hf://acme/bert", "", None, (), ()), outcomes=(), failure="hf://acme/bert: not found; check the name")
    decision = judge(broken)
    assert decision.exit_code == 3
    assert [item.message for item in decision.violations] == ["hf://acme/bert: not found; check the name"]
    assert decision.violations[0].rule == "MG9006"


def test_an_artifact_without_a_checkpoint_does_not_pass() -> None:
    empty = report(target=TargetInfo("m", "local:m", None, (), (FileInfo("model.bin", 8, "a" * 64),), ("model.bin",)))
    assert judge(empty).exit_code == 3


# Rules


@pytest.mark.parametrize(
    ("finding", "verdict", "warns"),
    [
        (found("MG0101"), Verdict.BLOCK, 0),
        (found("MG3001", confidence=Confidence.LOW), Verdict.BLOCK, 0),
        (found("MG3001", severity=Severity.MEDIUM), Verdict.PASS, 1),
        (found("MG3001", severity=Severity.LOW), Verdict.PASS, 0),
        (found("MG9004"), Verdict.INCOMPLETE, 0),
        (found("MG9004", severity=Severity.LOW), Verdict.INCOMPLETE, 0),
        (found("MG7777"), Verdict.BLOCK, 0),  # undeclared: taken at its worst
    ],
)
def test_the_baseline(finding: Finding, verdict: Verdict, warns: int) -> None:
    decision = judge(report(completed("format-integrity", finding)))
    assert decision.verdict is verdict
    assert len(decision.warnings) == warns


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        (found("MG1104"), 1),
        (found("MG1101", severity=Severity.HIGH), 1),
        (found("MG1111"), 0),
        (found("MG1107", severity=Severity.MEDIUM), 3),
        (found("MG1123", severity=Severity.LOW), 3),
        (found("MG1109", severity=Severity.LOW), 0),
        (found("MG1110", severity=Severity.HIGH), 1),
        (found("MG0201", severity=Severity.MEDIUM), 1),
        (found("MG0205", severity=Severity.LOW), 0),
        (found("MG0206", severity=Severity.MEDIUM), 3),
    ],
)
def test_the_baseline_against_a_reference(finding: Finding, code: int) -> None:
    both = {"MG0": "reference-files", "MG1": "weight-diff"}
    outcomes = [completed(name, *((finding,) if finding.rule.startswith(block) else ())) for block, name in both.items()]
    decision = judge(report(completed("format-integrity"), *outcomes, reference=True))
    assert decision.exit_code == code


def test_strict_does_not_pass_a_file_that_was_not_looked_at() -> None:
    done = (completed("format-integrity", found("MG9004")), completed("weight-diff"))
    assert judge(report(*done, reference=True), load_policy("builtin:strict")).exit_code == 3


def test_the_first_rule_that_matches_decides_and_is_named() -> None:
    rules = policy(
        rules=[
            {"match": {"rule": "MG3*", "confidence": ">=medium"}, "action": "block"},
            {"match": {"rule": "MG3*"}, "action": "allow"},
            {"match": {"detector": "abs"}, "action": "block"},
        ],
        default="warn",
    )
    sure, unsure = found("MG3001", tensor="a"), found("MG3001", confidence=Confidence.LOW, tensor="b")
    decision = judge(report(completed("format-integrity"), completed("abs", sure, unsure, found("MG1104"))), rules)
    assert [(item.subject, item.message) for item in decision.violations] == [
        (found("MG1104").fingerprint, "MG1104 in w [rules[2]: detector abs]"),
        (sure.fingerprint, "MG3001 in a [rules[0]: rule MG3*, confidence >=medium]"),
    ]


def test_thresholds_are_exact_at_least_or_at_most() -> None:
    def actions(test: str) -> list[str]:
        rules = policy(rules=[{"match": {"severity": test}, "action": "block"}], default="allow")
        every = tuple(found("MG3001", severity=level, tensor=level.label) for level in Severity)
        return [item.message.split()[2] for item in judge(report(completed("format-integrity", *every)), rules).violations]

    assert sorted(actions("high")) == ["high"]
    assert sorted(actions(">=high")) == ["critical", "high"]
    assert sorted(actions("<=low")) == ["info", "low"]


def test_what_no_rule_matches_gets_the_default() -> None:
    finding = completed("format-integrity", found("MG1111"))
    assert judge(report(finding), policy()).warnings == (found("MG1111").fingerprint,)
    assert judge(report(finding), policy(default="allow")).warnings == ()
    assert judge(report(finding), policy(default="block")).exit_code == 1
    assert "[default]" in judge(report(finding), policy(default="incomplete")).violations[0].message


def test_a_proven_violation_is_not_hidden_by_an_incomplete_detector() -> None:
    decision = judge(report(Outcome("format-integrity", Status.TIMED_OUT, "slow", {}, (found("MG0101"),))))
    assert (decision.verdict, decision.exit_code) == (Verdict.BLOCK, 1)
    assert lines(decision) == [("detector", "MG9003", False), ("finding", "MG0101", True)]


def test_report_mode_turns_a_block_into_zero_and_nothing_else() -> None:
    soft = policy(mode="report", rules=[{"match": {"severity": ">=high"}, "action": "block"}])
    blocked = judge(report(completed("format-integrity", found("MG0101"))), soft)
    assert (blocked.verdict, blocked.enforced, blocked.exit_code) == (Verdict.BLOCK, False, 0)
    assert judge(report(Outcome("format-integrity", Status.ERRORED, "x")), soft).exit_code == 3
    assert judge(report(Outcome("format-integrity", Status.ERRORED, "x", {}, (found("MG0101"),))), soft).exit_code == 3


# Sources


def hub(uri: str, revision: str | None = COMMIT, **more: Any) -> TargetInfo:
    given: dict[str, Any] = {"format": ("safetensors",), "files": (FileInfo("model.safetensors", 8, "a" * 64),), **more}
    return TargetInfo(uri, "hf:acme/bert", revision, **given)


@pytest.mark.parametrize(
    ("sources", "target", "code"),
    [
        ({"allow": ["hf://acme/*"]}, hub(HUB), 0),
        ({"allow": ["hf://other/*", "hf://acme/bert@*"]}, hub(HUB), 0),
        ({"allow": ["hf://acm/*"]}, hub(HUB), 1),
        ({"allow": ["hf://acme"]}, hub(HUB), 1),
        ({"allow": ["hf://acme/*"]}, hub("hf://acme/../evil/x"), 1),
        ({"allow": ["hf://acme/*"]}, hub("xhf://acme/bert"), 1),
        ({"allow": ["hf://*"]}, report().target, 1),
        ({"pinned": True}, hub(HUB), 0),
        ({"pinned": True}, hub(f"{HUB}/sub/model.safetensors"), 0),
        ({"pinned": True}, hub("hf://acme/bert@main"), 1),
        ({"pinned": True}, hub("hf://acme/bert"), 1),
        ({"pinned": True}, hub("hf://acme/bert@0123456"), 1),
        ({"pinned": True}, hub(HUB, "f" * 40), 1),
        ({"pinned": True}, hub(f"hf://acme/bert/dir@{COMMIT}", "f" * 40), 1),
        ({"pinned": True}, report().target, 0),
        ({"formats": ["safetensors"]}, hub(HUB), 0),
        ({"formats": ["onnx"]}, hub(HUB), 1),
        ({"formats": ["onnx"]}, hub(HUB, format=("onnx", "safetensors")), 1),
        ({"digests": True}, hub(HUB), 0),
        ({"digests": True}, hub(HUB, files=(FileInfo("model.safetensors", 8, None),)), 3),
        ({"remote_code": "deny"}, hub(HUB), 0),
        ({"remote_code": "deny"}, hub(HUB, files=(FileInfo("modeling_x.PY", 8, "a" * 64),)), 1),
        ({"remote_code": "deny"}, hub(HUB, files=(FileInfo("lib/kernel.so", 8, "a" * 64),)), 1),
    ],
)
def test_sources(sources: Mapping[str, Any], target: TargetInfo, code: int) -> None:
    decision = judge(report(target=target), policy(sources=sources))
    assert decision.exit_code == code
    assert {item.kind for item in decision.violations} <= {"source"}


def test_configuration_that_points_at_code_is_remote_code() -> None:
    pointer = found("MG0301", severity=Severity.LOW, evidence={"auto_map": {"AutoModel": "modeling_x.Model"}})
    rules = policy(sources={"remote_code": "deny"})
    assert lines(judge(report(completed("format-integrity"), completed("remote-code", pointer)), rules)) == [("source", "MG0291", True)]
    assert judge(report(completed("format-integrity"), completed("remote-code", pointer)), policy()).exit_code == 0


def test_who_says_that_an_artifact_points_at_code_is_the_rule_and_not_the_evidence() -> None:
    rules = policy(sources={"remote_code": "deny"})
    seen = (completed("format-integrity"), completed("remote-code"))
    other = completed("acme", found("ACME-0001", severity=Severity.LOW, evidence={"auto_map": "x"}))
    assert judge(report(*seen, other), rules).verdict is Verdict.PASS
    decision = judge(report(*seen, completed("next", found("MG0302", severity=Severity.LOW))), rules)
    assert [item.message for item in decision.violations if item.kind == "source"] == [
        "model.safetensors holds or names code to run (MG0302; sources.remote_code: deny)"
    ]


def test_remote_code_that_was_not_looked_for_is_no_pass() -> None:
    rules = policy(sources={"remote_code": "deny"})
    assert lines(judge(report(completed("format-integrity")), rules)) == [("source", "MG9006", False)]
    failed = Outcome("remote-code", Status.ERRORED, "boom")
    assert judge(report(completed("format-integrity"), failed), rules).exit_code == 3


def test_an_unpinned_download_is_told_its_commit() -> None:
    decision = judge(report(target=hub("hf://acme/bert@main")), policy(sources={"pinned": True}))
    assert f"name the commit it was scanned at: {COMMIT}" in decision.violations[0].message


def test_hub_download() -> None:
    rules = load_policy("builtin:hub-download")
    assert judge(report(target=hub(HUB)), rules).exit_code == 0
    assert judge(report(target=hub("hf://acme/bert@main")), rules).exit_code == 1
    assert judge(report(), rules).exit_code == 1
    assert judge(report(completed("format-integrity", found("MG9004")), target=hub(HUB)), rules).exit_code == 3


# Plugins


def test_a_plugin_that_is_not_allowed_blocks() -> None:
    rules = policy(plugins={"allow": ["modelguard-*", "acme"]})
    others = (CORE, PluginInfo("modelguard-rome", "1", ()), PluginInfo("acme", "1", ()))
    assert judge(report(plugins=others), rules).exit_code == 0
    decision = judge(report(plugins=(*others, PluginInfo("acme2", "1", ()))), rules)
    assert (decision.exit_code, decision.violations[0].subject) == (1, "acme2")


def test_a_plugin_that_failed_is_noted_or_leaves_no_verdict_as_the_policy_says() -> None:
    failed = report(plugin_failures=(PluginFailure("x", "acme", "ImportError: y"),))
    lax = judge(failed, policy())
    assert lax.verdict is Verdict.PASS
    assert "acme could not be used: ImportError: y" in lax.notes[0]
    assert judge(failed, policy(plugins={"failures": "incomplete"})).exit_code == 3
    assert judge(failed, policy(plugins={"failures": "incomplete", "allow": ["modelguard-*"]})).exit_code == 0


# Waivers


def waiver(finding: Finding, **keys: Any) -> dict[str, Any]:
    given = {"rule": finding.rule, "fingerprint": finding.fingerprint, "reason": "reviewed", "owner": "ml@acme", "expires": "2026-12-31"}
    return {**given, **keys}


def test_a_waiver_lets_exactly_its_finding_through() -> None:
    one, two = found("MG0101", tensor="a"), found("MG0101", tensor="b")
    base = {"rules": [{"match": {"severity": ">=high"}, "action": "block"}]}
    decision = judge(report(completed("format-integrity", one, two)), policy(**base, waivers=[waiver(one)]))
    assert [item.subject for item in decision.violations] == [two.fingerprint]
    assert [(item.fingerprint, item.owner, item.expires) for item in decision.waived] == [(one.fingerprint, "ml@acme", "2026-12-31")]
    assert judge(report(completed("format-integrity", one)), policy(**base, waivers=[waiver(one)])).exit_code == 0


@pytest.mark.parametrize(("expires", "code"), [("2026-06-15", 0), ("2026-06-14", 1)])
def test_a_waiver_holds_through_its_last_day_and_blocks_after(expires: str, code: int) -> None:
    finding = found("MG1111")
    decision = judge(report(completed("format-integrity", finding)), policy(default="allow", waivers=[waiver(finding, expires=expires)]))
    assert decision.exit_code == code
    if code:
        assert lines(decision) == [("waiver", "MG0293", True)]
        assert "ml@acme until 2026-06-14, which has passed" in decision.violations[0].message


def test_an_expired_waiver_of_something_not_found_changes_nothing() -> None:
    assert judge(report(), policy(waivers=[waiver(found("MG0101"), expires="2020-01-01")])).exit_code == 0


def test_a_renewed_waiver_makes_the_expired_one_moot() -> None:
    finding = found("MG0101")
    rules = policy(default="block", waivers=[waiver(finding, expires="2020-01-01"), waiver(finding)])
    assert judge(report(completed("format-integrity", finding)), rules).exit_code == 0


def test_a_waiver_about_to_expire_is_announced() -> None:
    finding = found("MG0101")
    soon = policy(default="block", waivers=[waiver(finding, expires="2026-06-29")])
    later = policy(default="block", waivers=[waiver(finding, expires="2026-06-30")])
    subject = report(completed("format-integrity", finding))
    assert judge(subject, soon).notes == ("the waiver of MG0101 by ml@acme expires on 2026-06-29",)
    assert judge(subject, later).notes == ()


def test_a_waiver_for_certain_bytes_does_not_cover_others() -> None:
    finding = found("MG0101")
    subject = report(completed("format-integrity", finding))
    assert judge(subject, policy(default="block", waivers=[waiver(finding, sha256="a" * 64)])).exit_code == 0
    decision = judge(subject, policy(default="block", waivers=[waiver(finding, sha256="b" * 64)]))
    assert decision.exit_code == 1
    assert "other bytes" in decision.notes[0]


def test_a_waiver_cannot_cover_an_incomplete_detector() -> None:
    finding = found("MG0101")
    subject = report(Outcome("format-integrity", Status.ERRORED, "died", {}, (finding,)))
    decision = judge(subject, policy(default="block", waivers=[waiver(finding)]))
    assert (decision.exit_code, len(decision.waived)) == (3, 1)


# Properties

_FINDINGS = st.builds(
    found,
    rule=st.sampled_from([rule.id for rule in RULES]),
    severity=st.none() | st.sampled_from(list(Severity)),
    confidence=st.sampled_from(list(Confidence)),
    tensor=st.sampled_from(["a", "b", "c"]),
)
_DETECTORS = ["format-integrity", "weight-diff", "neural-cleanse", "abs"]
_OUTCOMES = st.lists(
    st.builds(
        Outcome,
        detector=st.sampled_from(_DETECTORS),
        status=st.sampled_from(list(Status)),
        reason=st.sampled_from(["", "because"]),
        findings=st.lists(_FINDINGS, max_size=3).map(tuple),
    ),
    max_size=5,
)
_ONE_OUTCOME_EACH = _OUTCOMES.map(lambda outcomes: list({item.detector: item for item in outcomes}.values()))
_POLICIES = st.builds(
    lambda required, compared, searched, rules, default, mode, waivers: policy(
        detectors={"required": required}
        | ({"required_with_reference": compared} if compared else {})
        | ({"required_with_samples": searched} if searched else {}),
        rules=rules,
        default=default,
        mode=mode,
        waivers=waivers,
    ),
    required=st.lists(st.sampled_from(_DETECTORS), min_size=1, unique=True),
    compared=st.lists(st.sampled_from(_DETECTORS), unique=True),
    searched=st.lists(st.sampled_from(_DETECTORS), unique=True),
    rules=st.lists(
        st.builds(
            lambda match, action: {"match": match, "action": action},
            match=st.sampled_from(
                [{"rule": "MG*"}, {"rule": "MG3*"}, {"severity": ">=medium"}, {"confidence": "low"}, {"detector": "abs"}]
            ),
            action=st.sampled_from(["block", "incomplete", "warn", "allow"]),
        ),
        max_size=3,
    ),
    default=st.sampled_from(["block", "incomplete", "warn", "allow"]),
    mode=st.sampled_from(["enforce", "report"]),
    waivers=st.lists(
        st.builds(
            waiver, finding=_FINDINGS.filter(lambda item: item.rule != "MG9004"), expires=st.sampled_from(["2026-01-01", "2027-01-01"])
        ),
        max_size=3,
    ),
)


@settings(deadline=None)
@given(
    outcomes=_OUTCOMES,
    rules=_POLICIES,
    reference=st.booleans(),
    samples=st.booleans(),
    failure=st.sampled_from(["", "x: broke; repair it"]),
)
def test_a_pass_means_that_everything_required_completed(
    outcomes: list[Outcome], rules: Policy, reference: bool, samples: bool, failure: str
) -> None:
    subject = report(reference=reference, samples=samples, failure=failure)
    decision = evaluate(replace(subject, outcomes=tuple(outcomes)), rules, TODAY)
    required = rules.required_for(reference=reference, samples=samples)
    complete = not failure and all(
        [item.status for item in outcomes if item.detector == name]
        and all(item.status is Status.COMPLETED for item in outcomes if item.detector == name)
        for name in required
    )
    if not complete:
        assert decision.verdict is not Verdict.PASS
        assert decision.exit_code == (1 if decision.verdict is Verdict.BLOCK and decision.enforced else 3)
    if decision.verdict is Verdict.PASS:
        assert decision.exit_code == 0
        assert decision.violations == ()
    assert (decision.verdict is Verdict.BLOCK) == any(item.blocks for item in decision.violations)


@settings(deadline=None)
@given(outcomes=_ONE_OUTCOME_EACH, rules=_POLICIES, seed=st.integers())
def test_the_order_in_which_things_arrive_does_not_matter(outcomes: list[Outcome], rules: Policy, seed: int) -> None:
    from modelguard._reporters.json import JsonReporter

    subject = replace(report(), outcomes=tuple(outcomes))
    shuffled = [replace(item, findings=tuple(random.Random(seed).sample(item.findings, len(item.findings)))) for item in outcomes]
    random.Random(seed).shuffle(shuffled)
    other = replace(subject, outcomes=tuple(shuffled), rules=tuple(reversed(RULES)))
    one, two = evaluate(subject, rules, TODAY), evaluate(other, rules, TODAY)
    assert one == two
    assert JsonReporter().render(subject, one) == JsonReporter().render(other, two)


@settings(deadline=None)
@given(outcomes=_OUTCOMES, rules=_POLICIES)
def test_every_finding_is_accounted_for(outcomes: list[Outcome], rules: Policy) -> None:
    subject = replace(report(), outcomes=tuple(outcomes))
    decision = evaluate(subject, rules, TODAY)
    judged = [item for item in decision.violations if item.kind in ("finding", "waiver")]
    allowed = len(subject.findings()) - len(judged) - len(decision.warnings) - len(decision.waived)
    assert allowed >= 0
    if all(rule.action != "allow" for rule in rules.rules) and rules.default != "allow":
        assert allowed == 0


def test_a_stored_report_is_judged_as_the_fresh_one_was() -> None:
    from modelguard._reporters.json import JsonReporter, report_from_json

    fresh = report(completed("format-integrity", found("MG0101"), found("MG1104")), Outcome("abs", Status.SKIPPED, "needs samples"))
    decision = judge(fresh)
    stored, stored_decision = report_from_json(JsonReporter().render(fresh, decision))
    assert stored_decision == decision
    assert judge(stored) == decision
    assert json.loads(JsonReporter().render(stored, decision))["decision"]["exit_code"] == 1
