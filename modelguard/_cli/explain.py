"""``modelguard explain``: what a rule means, and what one finding of a stored report says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from modelguard._cli import _complete
from modelguard._cli._options import plugin_option, print_answer
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard.findings import Finding
    from modelguard.report import Decision, Report

_DIGITS = re.compile(r"(?:modelguard/v1:)?([0-9a-f]{6,32})")
_SHOWN = 20


@click.command("explain", short_help="Say what a rule or a finding means, and what to do.")
@click.argument("what", metavar="RULE|FINGERPRINT", shell_complete=_complete.rules)
@click.option("--report", metavar="REPORT.json", shell_complete=_complete.files, help="The stored report that the finding is in.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@plugin_option
def command(what: str, report: str | None, as_json: bool, without: tuple[str, ...]) -> int:
    """Say what RULE means, what else looks like it and what to do; with --report, where it was found.

    With --report a finding may be named by its FINGERPRINT, or the first six or more of its hex digits.
    """
    from modelguard._cli._rule import document, every_rule, find_rule, reporters, text
    from modelguard._plugins import load
    from modelguard._reporters.json import dump
    from modelguard._schemas.finding import write_finding
    from modelguard.api import load_report

    registry = load(disabled=without)
    stored, decision = load_report(report) if report is not None else (None, None)
    rules = every_rule(registry, stored.rules if stored is not None else ())
    digits = _DIGITS.fullmatch(what)
    if digits is not None and stored is None:
        raise UsageError(f"explain {what}", "a fingerprint says nothing without its report", "give --report REPORT.json")
    if digits is not None and stored is not None:
        found = _named(digits[1], stored)
        rule = find_rule(found[0][1].rule, rules)
    else:
        rule = find_rule(what, rules)
        found = [pair for pair in stored.findings() if pair[1].rule == rule.id] if stored is not None else []
    detectors = reporters(rule, registry) or sorted({detector for detector, _ in found})
    if as_json:
        listed = {"findings": [write_finding(finding) for _, finding in found]} if stored is not None else {}
        print_answer(dump({**document(rule, detectors), **listed}), nl=False)
        return 0
    parts = list(text(rule, detectors))
    if stored is not None and decision is not None:
        parts.append("\n".join(_findings(found, stored, decision)) + "\n")
        if digits is not None and not rule.id.startswith("MG9"):
            parts.append(_waiver(found[0][1]))
    print_answer("\n".join(parts), nl=False)
    return 0


def _named(digits: str, report: Report) -> list[tuple[str, Finding]]:
    """The findings (they may share a fingerprint) whose fingerprint begins so. Raises :class:`UsageError` for none, or several."""
    found = [pair for pair in report.findings() if pair[1].fingerprint.rpartition(":")[2].startswith(digits)]
    if not found:
        raise UsageError(f"fingerprint {digits}", "the report has no such finding", "copy it from the report's findings")
    if len({finding.fingerprint for _, finding in found}) > 1:
        raise UsageError(f"fingerprint {digits}", f"{len(found)} findings of the report begin so", "write more of its digits")
    return found


def _findings(found: list[tuple[str, Finding]], report: Report, decision: Decision) -> Iterator[str]:
    from modelguard._reporters.escape import visible
    from modelguard._reporters.view import count, fates, place, value

    fate = fates(decision)
    yield f"{count(len(found), 'finding')} in {visible(report.target.uri)}"
    for detector, finding in found[:_SHOWN]:
        yield click.wrap_text(visible(finding.message), width=78, initial_indent="  - ", subsequent_indent="    ")
        yield f"    {report.severity(finding).label}, confidence {finding.confidence.label}, {fate(finding)}; by {visible(detector)}"
        if where := place(finding):
            yield f"    in {where}"
        if len(found) == 1:
            yield from (f"    {visible(str(key))} = {value(item)}" for key, item in sorted(finding.evidence.items()))
        yield f"    {finding.fingerprint}"
    if len(found) > _SHOWN:
        yield f"  and {len(found) - _SHOWN} more, in the report itself"


def _waiver(finding: Finding) -> str:
    return (
        "To accept it for a while, once somebody has looked: in the policy\n"
        "  waivers:\n"
        f"    - rule: {finding.rule}\n"
        f'      fingerprint: "{finding.fingerprint}"\n'
        "      reason: ...\n      owner: ...\n      expires: YYYY-MM-DD\n"
    )
