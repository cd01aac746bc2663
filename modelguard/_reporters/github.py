"""Workflow commands of GitHub Actions (docs.github.com, "Workflow commands"): what they say becomes annotations of the run."""

from __future__ import annotations

from modelguard._reporters.console import ConsoleReporter
from modelguard._reporters.escape import visible
from modelguard._reporters.places import Places
from modelguard._reporters.things import things, why_not
from modelguard.report import Decision, Report, Reporter

MOST = 10
"""Annotations of one kind that a step may make; GitHub drops the others."""


class GithubReporter(Reporter):
    """An error for each reason (a warning where the policy is not enforced), a warning for each finding that the policy warns of, most
    severe first; then the short report."""

    format = "github"

    def render(self, report: Report, decision: Decision) -> str:
        found = things(report, decision)
        given = why_not(report, decision, found)
        places = Places.of(report)
        level = "error" if decision.enforced else "warning"
        errors = []
        for reason in given:
            finding = reason.thing.finding if reason.thing is not None else None
            file = finding.location.file if finding is not None else None
            severity = f" {reason.thing.severity.label}" if reason.thing is not None else ""
            message = finding.message if finding is not None and reason.violation.kind == "finding" else reason.violation.message
            errors.append(_command(level, f"{reason.violation.rule}{severity}", places, file, message))
        warnings = [
            _command("warning", f"{thing.finding.rule} {thing.severity.label}", places, thing.finding.location.file, thing.finding.message)
            for thing in found
            if thing.fate == "warns"
        ]
        lines = [*_at_most(errors, level), *_at_most(warnings, "warning")]
        return "".join(f"{line}\n" for line in lines) + ConsoleReporter(width=120).render(report, decision)


def _at_most(commands: list[str], level: str) -> list[str]:
    if len(commands) <= MOST:
        return commands
    return [*commands[: MOST - 1], f"::{level} title=modelguard::and {len(commands) - MOST + 1} more, in the log and the reports"]


def _command(level: str, title: str, places: Places, file: str | None, message: str) -> str:
    properties = {"title": title} | ({"file": visible("/".join(places.parts(file)))} if places.in_repository and file is not None else {})
    named = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{level} {named}::{_escaped(visible(message))}"


def _escaped(text: str, more: str = "") -> str:
    for char in "%\r\n" + more:
        text = text.replace(char, f"%{ord(char):02X}")
    return text
