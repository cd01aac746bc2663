"""The short report in a terminal: six lines for a pass, a line a reason otherwise, one a thing and not a copy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from everything import LOW_RANK, everything

from modelguard._reporters.console import MAX_LINES, ConsoleReporter
from modelguard._reporters.html import HtmlReporter
from modelguard._reporters.markdown import MarkdownReporter
from modelguard.findings import Finding, Location
from modelguard.report import Decision, Outcome, Report, Reporter, Status, Verdict, Violation

DONE = (
    Outcome("format-integrity", Status.COMPLETED, "", {"score": 0.0}),
    Outcome("weight-diff", Status.COMPLETED, "", {"score": 0.0}),
)
SKIPPED = tuple(Outcome(name, Status.SKIPPED, "needs clean samples (give --samples)") for name in ("abs", "neural-cleanse", "ulp"))


def passed() -> tuple[Report, Decision]:
    report, _ = everything()
    return replace(report, outcomes=(*DONE, *SKIPPED), plugin_failures=(), options={}), Decision(Verdict.PASS)


def blocked_by(*findings: Finding) -> tuple[Report, Decision]:
    report, _ = everything()
    violations = tuple(Violation("finding", item.fingerprint, f"{item.message} [rules[0]: x]", True, item.rule) for item in findings)
    return replace(report, outcomes=(Outcome("weight-diff", Status.COMPLETED, findings=findings),)), Decision(Verdict.BLOCK, violations)


def copy(finding: Finding, file: str, tensor: str, digit: str) -> Finding:
    return replace(
        finding,
        message=f"{file}/{tensor} changed",
        location=replace(finding.location, file=file, tensor=tensor),
        fingerprint=f"modelguard/v1:{digit * 32}",
    )


@pytest.mark.parametrize("width", [40, 80])
def test_a_pass_is_told_in_six_lines(width: int) -> None:
    report, decision = passed()
    report = replace(report, target=replace(report.target, unread=()), reference=None)
    lines = ConsoleReporter(width).render(report, decision).splitlines()
    assert lines[0] == "PASS  models/tampered"
    assert len(lines) <= 6
    text = " ".join(" ".join(lines).split())
    assert "looked: 2 of 5 detectors, 5 files (safetensors)" in text
    assert "not looked at: 3 detectors for want of --samples; -v says why" in text


@pytest.mark.parametrize("reporter", [ConsoleReporter(), ConsoleReporter(verbose=True), MarkdownReporter(), HtmlReporter()])
def test_a_pass_says_that_it_rests_on_a_baseline(reporter: Reporter) -> None:
    report, _ = everything()
    finding = next(item for _, item in report.findings())
    report = replace(report, outcomes=(replace(DONE[0], findings=(finding,)), DONE[1]))
    shown = " ".join(reporter.render(report, Decision(Verdict.PASS, known=(finding.fingerprint,))).split())
    assert "beyond 1 finding known from the baseline" in shown
    blocked = Decision(Verdict.BLOCK, (Violation("source", "x", "refused", True, "MG0291"),), known=(finding.fingerprint,))
    shown = " ".join(reporter.render(report, blocked).split())
    assert "1 known from the baseline" in shown or "1 finding known from the baseline" in shown


def test_reasons_come_a_line_each_the_most_severe_first_and_the_policy_before_findings() -> None:
    lines = ConsoleReporter().render(*everything()).splitlines()
    starts = [" ".join(line.split()[:3]) for line in lines if line[2:3] in ("✗", "?")]
    assert starts == [
        "✗ MG0291 models/tampered",
        "✗ MG0292 plugin",
        "✗ high MG0293",
        "✗ high MG3001",
        "? MG9002 required",
        "? MG9003 required",
        "? medium MG9004",
    ]


def test_copies_of_one_tensor_are_one_line_that_counts_the_files() -> None:
    both = copy(LOW_RANK, "model.onnx", "w", "1"), copy(LOW_RANK, "model.safetensors", "w", "2")
    lines = ConsoleReporter().render(*blocked_by(*both)).splitlines()
    assert [line for line in lines if "✗" in line] == ["  ✗ high MG1103 model.onnx/w changed (in 2 files)"]


def test_copies_under_other_names_are_known_by_what_was_measured() -> None:
    measured = replace(LOW_RANK, evidence={"cosine": 0.1234567891, "kurtosis": 3.21, "relative_norm": 0.4})
    other = replace(measured, evidence={"cosine": 0.1234567892, "kurtosis": 3.21, "relative_norm": 0.4})
    both = copy(measured, "model.onnx", "onnx::MatMul_7", "1"), copy(other, "model.safetensors", "h.0.w", "2")
    assert ConsoleReporter().render(*blocked_by(*both)).count("✗") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"tensor": "v"},
        {"message": "model.safetensors/w changed in another way"},
        {"evidence": {"rank": 2}},
    ],
)
def test_what_is_not_the_same_is_not_put_together(change: dict[str, object]) -> None:
    plain = replace(LOW_RANK, evidence={"rank": 1})
    one, two = copy(plain, "model.onnx", "w", "1"), copy(plain, "model.safetensors", str(change.pop("tensor", "w")), "2")
    assert ConsoleReporter().render(*blocked_by(one, replace(two, **change))).count("✗") == 2  # type: ignore[arg-type]


def test_findings_about_files_are_never_put_together() -> None:
    finding = Finding("MG9004", "a file was not looked at", location=Location("a"), severity=LOW_RANK.severity)
    two = tuple(replace(finding, location=Location(name), fingerprint=f"modelguard/v1:{name * 32}") for name in "ab")
    assert ConsoleReporter().render(*blocked_by(*two)).count("✗") == 2


def test_of_several_reasons_a_long_one_is_cut_where_the_terminal_ends_and_given_whole_in_full() -> None:
    long, other = replace(LOW_RANK, message="x" * 300), copy(LOW_RANK, "model.onnx", "w", "1")
    report, decision = blocked_by(long, other)
    short = ConsoleReporter(80).render(report, decision)
    assert max(map(len, short.splitlines())) == 80
    assert "…" in short
    assert "x" * 300 in "".join(ConsoleReporter(80).in_full().render(report, decision).split())


@pytest.mark.parametrize("width", [40, 80])
def test_a_single_reason_is_given_whole(width: int) -> None:
    shown = ConsoleReporter(width).render(*blocked_by(replace(LOW_RANK, message=f"{'word ' * 40}the remedy")))
    assert "the remedy" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= width


def test_reasons_that_differ_only_at_their_end_show_it() -> None:
    one, two = (copy(replace(LOW_RANK, evidence={}), "m", name, name) for name in "12")
    report, decision = blocked_by(replace(one, message=f"{'x' * 200} first"), replace(two, message=f"{'x' * 200} second"))
    text = ConsoleReporter(80).render(report, decision)
    assert "first" in text
    assert "second" in text
    assert max(map(len, text.splitlines())) <= 80


def test_very_many_reasons_are_counted() -> None:
    many = tuple(copy(replace(LOW_RANK, evidence={}), "m", f"t{n}", f"{n:02d}"[-1]) for n in range(10)) * 5
    many = tuple(
        replace(item, location=Location("m", f"t{n}"), message=f"t{n}", fingerprint=f"modelguard/v1:{n:032d}")
        for n, item in enumerate(many)
    )
    text = ConsoleReporter().render(*blocked_by(*many))
    assert text.count("✗") == MAX_LINES
    assert f"{50 - MAX_LINES} more reasons" in text


def test_what_is_no_finding_is_given_whole_and_what_could_not_be_verified_is_said() -> None:
    report, decision = everything()
    note = "main was resolved from the cache and may be out of date"
    long = Violation("source", "x", f"hf://a/b does not name a commit {'x ' * 80}; name 0123abcd", True, "MG0291")
    report = replace(report, target=replace(report.target, notes=(note,)))
    text = ConsoleReporter().render(report, replace(decision, violations=(long, *decision.violations)))
    assert "name 0123abcd" in " ".join(text.split())
    assert f"! models/tampered: {note}" in " ".join(text.split())


def test_what_a_baseline_knows_is_counted_by_thing_in_every_summary() -> None:
    both = copy(LOW_RANK, "model.onnx", "w", "1"), copy(LOW_RANK, "model.safetensors", "w", "2")
    report, _ = blocked_by(*both)
    decision = Decision(Verdict.PASS, known=tuple(item.fingerprint for item in both))
    for reporter in (ConsoleReporter(), HtmlReporter(), MarkdownReporter()):
        assert "1 known from the baseline" in reporter.render(report, decision)


def test_a_quick_look_is_said_to_be_one() -> None:
    report, decision = passed()
    text = ConsoleReporter().render(replace(report, options={"abs": {"quick": True}, "ulp": {"quick": True}}), decision)
    assert "quick=true for 2 detectors" in " ".join(text.split())


def test_a_model_run_on_a_guessed_range_is_said_even_in_short() -> None:
    report, decision = passed()
    model = {"input": {"low": 0.0, "high": 1.0, "source": {"high": "assumed"}}}
    assert "assumed range of values (--input)" in " ".join(ConsoleReporter().render(replace(report, model=model), decision).split())
