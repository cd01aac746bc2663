"""The formats that reviews and pipelines read: each says what the report says, in a form that an artifact's text cannot leave."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from everything import HOSTILE, LOW_RANK, everything, hostile

from modelguard._reporters.csv import COLUMNS, CsvReporter
from modelguard._reporters.github import MOST, GithubReporter
from modelguard._reporters.gitlab import CodeQualityReporter, SastReporter
from modelguard._reporters.junit import JunitReporter
from modelguard._reporters.markdown import MarkdownReporter, plain
from modelguard._reporters.sarif import SarifReporter
from modelguard.report import Decision, Outcome, Report, Status, Verdict, Violation

ALL = range(len(HOSTILE))


def many(number: int) -> tuple[Report, Decision]:
    report, _ = everything()
    found = tuple(
        replace(LOW_RANK, message=f"t{n} changed", evidence={"n": n}, fingerprint=f"modelguard/v1:{n:032d}") for n in range(number)
    )
    violations = tuple(Violation("finding", item.fingerprint, item.message, True, item.rule) for item in found)
    return replace(report, outcomes=(Outcome("d", Status.COMPLETED, findings=found),)), Decision(Verdict.BLOCK, violations)


# Markdown


def test_the_summary_says_the_answer_why_and_every_finding() -> None:
    text = MarkdownReporter().render(*everything())
    assert text.startswith("## BLOCKED: models/tampered\n\n**models/tampered is not an allowed source")
    assert "| high | high | MG3001 | a patch of 1.6 % of the image" in text
    assert "1 detector lacks a reference you trust: `modelguard scan" in text
    assert "MG1103 is waived until 2026-06-30" in text
    assert len(re.findall(r"^\| (?:critical|high|medium|low|info) ", text, re.M)) == 6


def test_a_summary_of_very_many_findings_is_cut_with_a_word_about_the_rest() -> None:
    text = MarkdownReporter().render(*many(2000))
    assert "1950 more findings in the JSON report" in text
    assert len(text.encode()) < 100_000, "GitHub takes 1 MiB"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("<img src=x>", r"\<img src=x\>"),
        ("[click](http://evil)", r"\[click\](http\://evil)"),
        ("a | b", r"a \| b"),
        ("$x$ `y` ~~z~~", r"\$x\$ \`y\` \~\~z\~\~"),
        ("www.evil.example", r"www\.evil.example"),
        ("ask @admin", "`ask @admin`"),
        ("see org/name#1 `x`", "`see org/name#1 'x'`"),
        ("@a | b", r"`@a \| b`"),
    ],
)
def test_text_stays_text_in_markdown(raw: str, shown: str) -> None:
    assert plain(raw) == shown


@pytest.mark.parametrize("text", HOSTILE, ids=ALL)
def test_hostile_text_adds_no_row_link_or_tag_to_the_summary(text: str) -> None:
    report, decision = everything()
    shown = MarkdownReporter().render(hostile(report, text), hostile(decision, text))
    bare = re.sub(r"\\.|`[^`\n]*`", "", shown).replace("<details><summary>Not looked at</summary>", "").replace("</details>", "")
    assert not re.search(r"[<\[]|@|https?://", bare)
    for line in bare.splitlines():
        assert line.count("|") in (0, 7), "a row of six cells"


# GitHub annotations


def test_annotations_name_rule_severity_and_file_and_the_report_follows() -> None:
    lines = GithubReporter().render(*everything()).splitlines()
    assert lines[0] == "::error title=MG0291::models/tampered is not an allowed source (sources.allow: hf://acme/*)"
    assert lines[2].startswith("::error title=MG0293 high,file=models/tampered/model-00002.safetensors::")
    assert any(line.startswith("::warning title=MG3002 medium") for line in lines)
    assert "BLOCKED  models/tampered" in lines


def test_no_more_annotations_than_github_shows() -> None:
    lines = GithubReporter().render(*many(50)).splitlines()
    errors = [line for line in lines if line.startswith("::error")]
    assert len(errors) == MOST
    assert errors[-1] == "::error title=modelguard::and 41 more, in the log and the reports"


def test_a_policy_that_is_not_enforced_only_warns() -> None:
    report, decision = everything()
    assert "::error" not in GithubReporter().render(report, replace(decision, enforced=False))


def test_a_file_outside_the_repository_is_not_named_as_one_in_it() -> None:
    report, decision = everything()
    for uri in ("hf://org/name", "/srv/models/x", "../x"):
        shown = GithubReporter().render(replace(report, target=replace(report.target, uri=uri)), decision)
        assert ",file=" not in shown


@pytest.mark.parametrize("text", [*HOSTILE, "::error::x", "a,file=/etc/passwd::b", "50%0A::stop-commands::x"])
def test_hostile_text_writes_no_command_of_its_own(text: str) -> None:
    report, decision = everything()
    shown = GithubReporter().render(hostile(report, text), hostile(decision, text))
    plain = GithubReporter().render(hostile(report, "x"), hostile(decision, "x"))
    commands = [line.split("::")[1].split(" ")[0] for line in shown.splitlines() if line.startswith("::")]
    assert commands == [line.split("::")[1].split(" ")[0] for line in plain.splitlines() if line.startswith("::")]
    for line in shown.splitlines():
        if line.startswith("::"):
            properties = line[2:].split("::", 1)[0].partition(" ")[2]
            assert {part.split("=")[0] for part in properties.split(",")} <= {"title", "file"}


# GitLab


def sast(report: Report, decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SastReporter().render(report, decision))
    return document


def test_code_quality_has_what_gitlab_needs_of_each_issue() -> None:
    document = json.loads(CodeQualityReporter().render(*everything()))
    for issue in document:
        assert {"check_name", "description", "fingerprint", "location", "severity"} == set(issue)
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert issue["location"]["path"]
        assert issue["location"]["lines"]["begin"] == 1
    assert len({issue["fingerprint"] for issue in document}) == len(document)
    paths = {issue["check_name"]: issue["location"]["path"] for issue in document}
    assert paths["MG0104"] == "models/tampered/model-00002.safetensors"
    assert "MG1103" not in paths, "it is waived"
    assert "MG0291" in paths, "a reason that is about no finding"


def test_sast_has_what_the_schema_requires() -> None:
    document = sast(*everything())
    assert re.fullmatch(r"\d+\.\d+\.\d+", document["version"])
    scan = document["scan"]
    assert {"analyzer", "end_time", "scanner", "start_time", "status", "type"} <= set(scan)
    for time in (scan["start_time"], scan["end_time"]):
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}", time)
    assert {"id", "name", "vendor", "version"} <= set(scan["analyzer"])
    ids = [item["id"] for item in document["vulnerabilities"]]
    assert len(set(ids)) == len(ids) > 0
    for item in document["vulnerabilities"]:
        assert item["severity"] in ("Info", "Unknown", "Low", "Medium", "High", "Critical")
        assert len(item["name"]) <= 255
        assert item["identifiers"][0]["value"].startswith("MG")
        assert item["location"]["file"]


def test_a_scan_that_did_not_look_at_all_it_had_to_is_no_success() -> None:
    report, decision = everything()
    assert sast(report, decision)["scan"]["status"] == "failure"
    proven = replace(decision, violations=tuple(item for item in decision.violations if item.blocks))
    assert sast(report, proven)["scan"]["status"] == "success"


# JUnit


def test_junit_fails_errs_and_skips_as_the_decision_does() -> None:
    suite = ElementTree.fromstring(JunitReporter().render(*everything()))
    cases = {case.get("name"): [part.tag for part in case] for case in suite}
    assert "failure" in cases["neural-cleanse"], "what it found before it ran out of time blocks"
    assert "error" in cases["neural-cleanse"]
    assert cases["abs"] == ["error"], "required, and it died"
    assert cases["rome-edit"] == ["skipped"]
    assert cases["weight-diff"] == ["system-out"]
    assert "failure" in cases["policy"]
    assert int(suite.get("tests", 0)) == len(cases)
    assert suite.get("failures") == str(sum("failure" in parts for parts in cases.values()))


@pytest.mark.parametrize("text", HOSTILE, ids=ALL)
def test_junit_stays_well_formed_with_hostile_text(text: str) -> None:
    report, decision = everything()
    suite = ElementTree.fromstring(JunitReporter().render(hostile(report, text), hostile(decision, text)))
    assert {item.tag for item in suite.iter()} <= {"testsuite", "testcase", "failure", "error", "skipped", "system-out"}


# CSV


def test_csv_has_a_row_for_every_finding() -> None:
    report, decision = everything()
    rows = list(csv.DictReader(io.StringIO(CsvReporter().render(report, decision))))
    assert [row["fingerprint"] for row in rows] == [finding.fingerprint for _, finding in report.findings()]
    assert json.loads(rows[-2]["evidence"])["rank"] == 1
    assert rows[-2]["policy"] == "waived until 2026-06-30 by sec-ml@acme.example"


@pytest.mark.parametrize("text", [*HOSTILE, "=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://evil")'])
def test_no_cell_is_a_formula_and_no_row_is_added(text: str) -> None:
    report, decision = everything()
    rows = list(csv.reader(io.StringIO(CsvReporter().render(hostile(report, text), hostile(decision, text)))))
    assert len(rows) == len(report.findings()) + 1
    for row in rows:
        assert len(row) == len(COLUMNS)
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


# SARIF


def category(identity: str) -> str:
    report, decision = everything()
    document = json.loads(SarifReporter().render(replace(report, target=replace(report.target, identity=identity)), decision))
    found: str = document["runs"][0]["automationDetails"]["id"]
    return found


def test_every_model_has_a_category_of_its_own() -> None:
    names = ["local:a/model", "local:b/model", "local:a-model", "local:a_model", "local:a model", "hf:a/model", "x" * 200, "x" * 201]
    assert len({category(name) for name in names}) == len(names)
    assert category("local:a/model") == category("local:a/model")
    assert all(re.fullmatch(r"modelguard/[A-Za-z0-9._-]+/", category(name)) for name in names)


def test_sarif_says_where_the_tool_comes_from() -> None:
    driver = json.loads(SarifReporter().render(*everything()))["runs"][0]["tool"]["driver"]
    assert driver["informationUri"].startswith("https://")
