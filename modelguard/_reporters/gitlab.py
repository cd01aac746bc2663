"""GitLab's own reports: Code Quality (docs.gitlab.com/ci/testing/code_quality) and SAST (security-report-schemas 15)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelguard._policies.rules import JUDGEMENT_RULES
from modelguard._reporters.escape import shorten, visible
from modelguard._reporters.markdown import plain
from modelguard._reporters.places import Places
from modelguard._reporters.things import things, why_not
from modelguard._reporters.view import place
from modelguard.findings import Location, Rule, Severity, fingerprint
from modelguard.report import Decision, Report, Reporter, Status

SAST = "15.0.7"
EPOCH = "1970-01-01T00:00:00"
"""The time GitLab wants of a scan. A report holds no clock: the same bytes give the same report."""
_QUALITY: Mapping[Severity, str] = {
    Severity.CRITICAL: "blocker",
    Severity.HIGH: "critical",
    Severity.MEDIUM: "major",
    Severity.LOW: "minor",
    Severity.INFO: "info",
}


@dataclass(frozen=True)
class _Issue:
    """A thing, or a reason that is about no finding."""

    rule: Rule
    severity: Severity
    message: str
    path: str
    where: str
    digest: str
    """Of this issue alone."""


class CodeQualityReporter(Reporter):
    """The findings as the widget of a merge request shows them. Waived findings are left out."""

    format = "gitlab-codequality"

    def render(self, report: Report, decision: Decision) -> str:
        document = [
            {
                "check_name": issue.rule.id,
                "description": issue.message,
                "fingerprint": issue.digest,
                "location": {"lines": {"begin": 1}, "path": issue.path},
                "severity": _QUALITY[issue.severity],
            }
            for issue in _issues(report, decision)
        ]
        return _dump(document)


class SastReporter(Reporter):
    """The findings as vulnerabilities. Waived findings are left out."""

    format = "gitlab-sast"

    def render(self, report: Report, decision: Decision) -> str:
        tool = {"id": "modelguard", "name": "modelguard", "vendor": {"name": "modelguard"}, "version": visible(report.tool_version) or "0"}
        # One that saw nothing must not close what an earlier one found.
        complete = not report.failure and all(item.blocks for item in decision.violations)
        messages = [
            {"level": "warn", "value": visible(f"{item.detector} {item.status.value}: {item.reason}")}
            for item in report.outcomes
            if item.status is not Status.COMPLETED
        ]
        return _dump(
            {
                "schema": f"https://gitlab.com/gitlab-org/security-products/security-report-schemas/-/raw/v{SAST}/dist/sast-report-format.json",
                "version": SAST,
                "scan": {
                    "analyzer": tool,
                    "scanner": tool,
                    "type": "sast",
                    "start_time": EPOCH,
                    "end_time": EPOCH,
                    "status": "success" if complete else "failure",
                    "messages": messages,
                },
                "vulnerabilities": [_vulnerability(issue) for issue in _issues(report, decision)],
            }
        )


def _vulnerability(issue: _Issue) -> dict[str, Any]:
    rule = issue.rule
    identifiers = [{"type": "modelguard", "name": rule.id, "value": rule.id}]
    if rule.cwe is not None:
        identifiers.append({"type": "cwe", "name": f"CWE-{rule.cwe}", "value": str(rule.cwe)})
    parts = [issue.message, issue.where, visible(rule.description), visible(rule.lookalikes)]
    return {
        "id": str(uuid.UUID(hex=issue.digest)),
        "name": shorten(visible(rule.title) or rule.id, 255),
        "description": "\n\n".join(plain(part) for part in parts if part),  # GitLab reads Markdown in it
        "severity": issue.severity.label.capitalize(),
        "solution": shorten(plain(visible(rule.remedy)), 7000),
        "identifiers": identifiers,
        "location": {"file": issue.path, "start_line": 1},
    }


def _issues(report: Report, decision: Decision) -> Iterator[_Issue]:
    """Every thing that no waiver covers, and every other reason, each with a digest of its own."""
    places, rules = Places.of(report), {rule.id: rule for rule in (*JUDGEMENT_RULES, *report.rules)}
    found = things(report, decision)
    seen: dict[str, int] = {}

    def made(rule: str, severity: Severity, message: str, file: str | None, where: str, print: str) -> _Issue:
        digest = print.removeprefix("modelguard/v1:")
        seen[digest] = seen.get(digest, 0) + 1
        own = digest if seen[digest] == 1 else uuid.uuid5(uuid.NAMESPACE_URL, f"{digest}:{seen[digest]}").hex
        known = rules.get(rule) or Rule(rule, rule, f"rule {rule}", severity, "Its detector did not declare this rule.", "Ask its authors.")
        return _Issue(known, severity, visible(message) or "(no message)", visible("/".join(places.parts(file))), where, own)

    for thing in found:
        finding = thing.finding
        if not thing.fate.startswith("waived"):
            yield made(finding.rule, thing.severity, finding.message, finding.location.file, place(finding), finding.fingerprint)
    identity = report.target.identity or report.target.uri
    for reason in why_not(report, decision, found):
        item = reason.violation
        if reason.thing is None:
            print = fingerprint(item.rule, identity, Location(), item.subject)
            yield made(item.rule, Severity.HIGH, item.message, None, "", print)


def _dump(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.replace("##[", "#\\u0023[").replace("##vso[", "#\\u0023vso[") + "\n"
