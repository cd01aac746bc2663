"""How reports look: golden files for one report that has everything, and the same report with hostile text everywhere.

Set MODELGUARD_UPDATE_GOLDEN=1 to rewrite the golden files, then read the difference.
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from everything import HOSTILE, everything, hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from modelguard._reporters import builtin_reporters
from modelguard._reporters.console import ConsoleReporter
from modelguard._reporters.escape import shorten, visible
from modelguard._reporters.html import HtmlReporter
from modelguard._reporters.json import JsonReporter, report_from_json
from modelguard._reporters.sarif import SarifReporter
from modelguard._schemas import report_schema
from modelguard.errors import UsageError
from modelguard.findings import Finding, Location, Rule, Severity
from modelguard.report import Decision, FileInfo, Outcome, PolicyInfo, Report, Reporter, Status, TargetInfo, Verdict, Violation

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
EVERYTHING = JsonReporter().render(*everything())
SARIF = jsonschema.Draft4Validator(json.loads((GOLDEN / "sarif-schema-2.1.0.json").read_text(encoding="utf-8")))
SUFFIX = {
    "json": "json",
    "sarif": "sarif",
    "html": "html",
    "console": "txt",
    "diff": "diff.txt",
    "diff-all": "diff-all.txt",
    "markdown": "md",
    "github": "github.txt",
    "gitlab-codequality": "codequality.json",
    "gitlab-sast": "gl-sast.json",
    "junit": "junit.xml",
    "csv": "csv",
}

# Golden files


def without_style(page: str) -> str:
    """The page without stylesheet and script and the hashes its security policy has of them: how it looks is no part of the golden file."""
    for tag in ("style", "script"):
        page = re.sub(rf"<{tag}>.*?</{tag}>", f"<{tag}></{tag}>", page, flags=re.DOTALL)
    return re.sub(r"-src 'sha256-[^']+'", "-src 'sha256-'", page)


# What a bill of materials looks like is the library's, which golden files would pin.
@pytest.mark.parametrize("reporter", [item for item in builtin_reporters() if item.format != "cyclonedx"], ids=lambda item: item.format)
def test_golden(reporter: type[Reporter]) -> None:
    path = GOLDEN / "reports" / f"everything.{SUFFIX[reporter.format]}"
    text = reporter().render(*everything())
    text = without_style(text) if reporter.format == "html" else text
    if os.environ.get("MODELGUARD_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("reporter", builtin_reporters(), ids=lambda item: item.format)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_everywhere_is_rendered_the_same_twice_and_encodable(reporter: type[Reporter], text: str) -> None:
    report, decision = everything()
    report, decision = hostile(report, text), hostile(decision, text)
    rendered = reporter().render(report, decision)
    assert rendered == reporter().render(report, decision)
    assert rendered.endswith("\n")
    rendered.encode("utf-8")
    assert rendered.replace("\n", "").isprintable()


# JSON


def test_json_is_canonical_and_valid_against_the_published_schema() -> None:
    document = json.loads(EVERYTHING)
    jsonschema.Draft202012Validator(report_schema()).validate(document)
    assert report_from_json(EVERYTHING) == everything()
    assert json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False).replace("\u202e", "\\u202e") + "\n" == EVERYTHING
    assert document["decision"]["verdict"] == "block"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_json_survives_the_round_trip_with_hostile_text(text: str) -> None:
    report, decision = everything()
    rendered = JsonReporter().render(hostile(report, text), hostile(decision, text))
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(rendered))
    again, decided = report_from_json(rendered)
    assert JsonReporter().render(again, decided) == rendered
    if text.isprintable() or text.encode("utf-8", "replace").decode() == text:
        assert again.target.uri == text


def test_a_report_of_a_failed_source_is_valid_too() -> None:
    failed = Report(
        "0.1.0", TargetInfo("hf://a/b", "", None, (), ()), None, None, PolicyInfo("x", "0" * 64), (), (), 0, (), failure="no; do"
    )
    decision = Decision(Verdict.INCOMPLETE, (Violation("source", "hf://a/b", "no; do", False, "MG9006"),))
    text = JsonReporter().render(failed, decision)
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(text))
    assert report_from_json(text) == (failed, decision)
    for reporter in (ConsoleReporter(), HtmlReporter()):
        assert "INCOMPLETE" in reporter.render(failed, decision)
        assert "no; do" in reporter.render(failed, decision)


def test_numbers_that_are_not_finite_never_leave() -> None:
    report, decision = everything()
    bad = replace(report, outcomes=(Outcome("x", Status.COMPLETED, "", {"score": float("nan")}),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        JsonReporter().render(bad, decision)


def edited(change: Callable[[dict[str, Any]], Any]) -> str:
    document = json.loads(EVERYTHING)
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not valid JSON"),
        ("[]", "is not a modelguard-report/1 document"),
        ('{"schema": "modelguard-report/1", "schema": "modelguard-report/1"}', "'schema' is given twice"),
        ('{"schema": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"schema": "modelguard-report/2"}', "'modelguard-report/2'"),
        (edited(lambda d: d.pop("outcomes")), "outcomes: Field required"),
        (edited(lambda d: d.update(new=1)), "new: unknown key, so it may come from a newer modelguard"),
        (edited(lambda d: d["outcomes"][0].update(status="fine")), "outcomes.0.status"),
        (edited(lambda d: d["target"]["files"][0].update(size="1")), "target.files.0.size"),
        (edited(lambda d: d["outcomes"][1]["findings"][0].update(severity="huge")), "severity"),
        (edited(lambda d: d["outcomes"][3]["findings"][0]["attachments"][0].update(data="@")), "is not base64"),
        (edited(lambda d: d["decision"].update(verdict="ok")), "decision.verdict"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        report_from_json(text, "r.json")
    assert words in str(caught.value)
    assert str(caught.value).startswith("r.json: ")
    assert "\n" not in str(caught.value)


# SARIF


def sarif(report: Report, decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SarifReporter().render(report, decision))
    SARIF.validate(document)
    run: dict[str, Any] = document["runs"][0]
    return run


def locations(run: dict[str, Any]) -> list[dict[str, Any]]:
    found = [item["location"] for item in run["artifacts"]]
    for result in run["results"]:
        for place in (*result["locations"], *result.get("relatedLocations", ())):
            found.append(place["physicalLocation"]["artifactLocation"])
    return found


def check_traps(run: dict[str, Any]) -> None:
    """Everything GitHub rejects a file for or silently drops."""
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == sorted({rule["id"] for rule in rules})
    for rule in rules:
        assert "security" in rule["properties"]["tags"]
        assert 0 < float(rule["properties"]["security-severity"]) <= 10
        assert rule["properties"]["precision"] in ("very-high", "high", "medium", "low")
        assert rule["help"]["text"].strip()
        assert rule["help"]["markdown"].strip()
        assert rule["fullDescription"]["text"].strip()
        assert len(rule["fullDescription"]["text"]) <= 1024
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert len(result["locations"]) == 1
        assert "region" not in result["locations"][0]["physicalLocation"]
        assert "suppressions" not in result
        assert re.fullmatch(r"[0-9a-f]{32}:\d+", result["partialFingerprints"]["primaryLocationLineHash"])
        for place in result.get("relatedLocations", ()):
            assert "startLine" not in place["physicalLocation"]["region"]
    prints = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
    assert len(prints) == len(set(prints))
    for place in locations(run):
        assert re.fullmatch(r"[A-Za-z0-9._~%-]+(/[A-Za-z0-9._~%-]+)*", place["uri"]), place
        assert ".." not in place["uri"].split("/")
        assert place["uriBaseId"] in run["originalUriBaseIds"]
    assert re.fullmatch(r"modelguard/[A-Za-z0-9._-]+/", run["automationDetails"]["id"])
    assert "Utc" not in json.dumps(run)


def test_sarif_has_a_result_for_every_finding_and_every_other_reason() -> None:
    report, decision = everything()
    run = sarif(report, decision)
    check_traps(run)
    by_rule = [result["ruleId"] for result in run["results"]]
    assert sorted(by_rule) == ["MG0104", "MG0291", "MG0292", "MG0293", "MG1110", "MG3001", "MG3002", "MG9002", "MG9003", "MG9004"]
    assert "MG1103" not in by_rule  # waived
    assert run["properties"]["waived"] == 1
    invocation = run["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 1
    told = [(note["descriptor"]["id"], note["level"]) for note in invocation["toolExecutionNotifications"]]
    assert told == [("MG9002", "error"), ("MG9003", "error"), ("MG9001", "warning"), ("MG9006", "note")]
    assert invocation["toolConfigurationNotifications"][0]["descriptor"]["id"] == "MG9007"
    place = next(result for result in run["results"] if result["ruleId"] == "MG0104")
    assert place["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/tampered/model-00002.safetensors"
    assert place["relatedLocations"][0]["physicalLocation"]["region"] == {"byteOffset": 1048640, "byteLength": 4096}


def test_sarif_takes_a_plugins_own_rules() -> None:
    report, decision = everything()
    finding = replace(report.findings()[0][1], rule="ACME-0001")
    rule = Rule("ACME-0001", "Acme", "an acme", Severity.LOW, "It is.", "Do.")
    run = sarif(replace(report, outcomes=(Outcome("acme", Status.COMPLETED, findings=(finding,)),), rules=(rule,)), decision)
    check_traps(run)
    assert "ACME-0001" in [result["ruleId"] for result in run["results"]]


def test_sarif_of_a_pass_says_that_it_succeeded() -> None:
    report, _ = everything()
    run = sarif(replace(report, outcomes=(), plugin_failures=()), Decision(Verdict.PASS))
    assert run["results"] == []
    assert run["invocations"][0]["executionSuccessful"] is True
    assert run["invocations"][0]["exitCode"] == 0


def test_sarif_of_a_failed_source_has_a_located_result() -> None:
    failed = Report(
        "0.1.0", TargetInfo("hf://acme/bert@main", "", None, (), ()), None, None, PolicyInfo("x", "0" * 64), (), (), 0, (), failure="no; do"
    )
    run = sarif(failed, Decision(Verdict.INCOMPLETE, (Violation("source", "hf://acme/bert@main", "no; do", False, "MG9006"),)))
    check_traps(run)
    assert [result["ruleId"] for result in run["results"]] == ["MG9006"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "acme/bert%40main"
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["toolExecutionNotifications"][0]["descriptor"]["id"] == "MG9006"


@pytest.mark.parametrize(
    ("uri", "paths", "expected", "base"),
    [
        ("models/a", ["x.safetensors"], "models/a/x.safetensors", "%SRCROOT%"),
        ("models/x.safetensors", ["x.safetensors"], "models/x.safetensors", "%SRCROOT%"),
        ("x.safetensors", ["x.safetensors"], "x.safetensors", "%SRCROOT%"),
        (".", ["x.safetensors"], "x.safetensors", "%SRCROOT%"),
        ("./a b/ü", ["x#1?.safetensors"], "a%20b/%C3%BC/x%231%3F.safetensors", "%SRCROOT%"),
        ("../elsewhere", ["x.safetensors"], "x.safetensors", "ARTIFACT"),
        ("hf://acme/bert@main", ["sub/x.safetensors"], "sub/x.safetensors", "ARTIFACT"),
        ("C:/x", ["y"], "C%3A/x/y", "%SRCROOT%"),
    ],
)
def test_sarif_paths(uri: str, paths: list[str], expected: str, base: str) -> None:
    target = TargetInfo(uri, "local:a", None, ("safetensors",), tuple(FileInfo(path, 1, None) for path in paths))
    finding = Finding("MG0101", "m", location=Location(paths[0]), fingerprint="modelguard/v1:" + "0" * 32)
    report = Report("0.1.0", target, None, None, PolicyInfo("x", ""), (), (), 0, (Outcome("d", Status.COMPLETED, findings=(finding,)),))
    place = sarif(report, Decision(Verdict.PASS))["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert (place["uri"], place["uriBaseId"], place["index"]) == (expected, base, 0)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_sarif_stays_valid_with_hostile_text(text: str) -> None:
    report, decision = everything()
    run = sarif(hostile(report, text), hostile(decision, text))
    check_traps(run)
    for result in run["results"]:
        assert "](" not in result["message"]["text"]
        assert not re.search(r"(?<!\{)\{\d+\}(?!\})", result["message"]["text"])


@settings(deadline=None)
@given(uri=st.text(max_size=30), path=st.text(max_size=30), message=st.text(max_size=30))
def test_sarif_stays_valid_with_any_path(uri: str, path: str, message: str) -> None:
    target = TargetInfo(uri, "local:a", None, (), (FileInfo(path, 1, None),))
    finding = Finding("MG0101", message, location=Location(path, path, byte_offset=0), fingerprint="modelguard/v1:" + "0" * 32)
    report = Report("0.1.0", target, None, None, PolicyInfo("x", ""), (), (), 0, (Outcome("d", Status.COMPLETED, findings=(finding,) * 2),))
    check_traps(sarif(report, Decision(Verdict.PASS)))


def test_sarif_fingerprints_do_not_follow_wording_or_severity() -> None:
    report, decision = everything()
    before = [result["partialFingerprints"] for result in sarif(report, decision)["results"]]
    outcomes = tuple(
        replace(item, findings=tuple(replace(finding, message="other words", severity=Severity.LOW) for finding in item.findings))
        for item in report.outcomes
    )
    after = [result["partialFingerprints"] for result in sarif(replace(report, outcomes=outcomes), decision)["results"]]
    assert before == after


# Console


def test_the_console_in_full_answers_first_then_why_then_what_was_not_looked_at() -> None:
    lines = ConsoleReporter(verbose=True).render(*everything()).splitlines()
    assert lines[0] == "BLOCKED  models/tampered"
    assert lines[4].startswith("  ✗ MG0291")
    assert lines.index("Not looked at") < lines.index("Findings")
    assert "  - rome-edit skipped: needs a reference: give --reference" in lines


def test_report_mode_is_said_beside_the_answer() -> None:
    report, decision = everything()
    assert "not enforced" in ConsoleReporter().render(report, replace(decision, enforced=False)).splitlines()[0]
    assert "not enforced" in HtmlReporter().render(report, replace(decision, enforced=False))


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_console_keeps_to_its_width_and_in_full_hides_nothing(width: int, text: str) -> None:
    report, decision = everything()
    for verbose in (False, True):
        rendered = ConsoleReporter(width, verbose=verbose).render(hostile(report, text), hostile(decision, text))
        for line in rendered.splitlines():
            assert sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line) <= width
    words = "".join(visible(text).split())
    assert words in "".join(rendered.split()) or len(words) > width


def test_colour_adds_styles_and_nothing_else() -> None:
    coloured = ConsoleReporter(color=True).render(*everything())
    assert "\x1b[1;31mBLOCKED\x1b[0m" in coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in plain.splitlines()] == ConsoleReporter().render(*everything()).splitlines()


def test_hostile_text_writes_no_terminal_escape_even_in_colour() -> None:
    report, decision = everything()
    for text in HOSTILE:
        coloured = ConsoleReporter(color=True).render(hostile(report, text), hostile(decision, text))
        rest = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
        assert "\x1b" not in rest
        assert "\x9b" not in rest


def test_many_findings_are_cut_with_a_word_about_where_the_rest_is() -> None:
    report, decision = everything()
    finding = report.findings()[0][1]
    many = tuple(replace(finding, message=f"number {n:04d}") for n in range(500))
    text = ConsoleReporter(verbose=True).render(replace(report, outcomes=(Outcome("d", Status.COMPLETED, findings=many),)), decision)
    assert "… and 460 more; -o json=PATH" in text
    assert len(text.splitlines()) < 300


def test_a_stream_gets_what_it_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert ConsoleReporter.for_stream(pipe) == ConsoleReporter(80, False, "utf-8")
    monkeypatch.setenv("COLUMNS", "133")
    assert ConsoleReporter.for_stream(pipe).width == 133
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert ConsoleReporter.for_stream(pipe).color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not ConsoleReporter.for_stream(pipe).color
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report, decision = everything()
    text = ConsoleReporter.for_stream(narrow).render(hostile(report, "名前"), decision)
    assert text.isascii()
    assert "x MG0291" in text


# Escaping


@given(st.text() | st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs", "Mn"])))
def test_visible_text_is_printable_one_line_and_stable(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.layers.0.weight", "model.layers.0.weight"),
        ("ünïcödé 名前", "ünïcödé 名前"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u00a0b", "a\\xa0b"),
        ("a\U000e0041b", "a\\U000e0041b"),
        ("a\ufe0fb\u3164", "a\\ufe0fb\\u3164"),
        ("a\nb", "a\\x0ab"),
        ("a\udc80b", "a\\udc80b"),
    ],
)
def test_what_is_not_plainly_visible_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_shortening_keeps_both_ends() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcdef…ijk"
    assert len(shorten("x" * 100, 17)) == 17
