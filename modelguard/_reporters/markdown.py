"""Markdown for a review: a job summary, or a comment on a merge request. What comes out of the artifact stays text in it."""

from __future__ import annotations

import re

from modelguard._reporters.escape import shorten, visible
from modelguard._reporters.missing import lacks
from modelguard._reporters.things import Thing, besides, things, why, why_not
from modelguard._reporters.view import answer, compared, count, earlier, judged, looked, other_gaps, place, waiver_notes
from modelguard.report import Decision, Report, Reporter, Verdict

MAX_ROWS = 50
MAX_LETTERS = 300
_SYNTAX = re.compile(r"([\\`*_\[\]<>|~&$]|:(?=//)|(?<=www)\.)")
"""What means something inside a line of GitHub's and GitLab's Markdown, addresses they would link included."""
_REFERENCE = re.compile(r"@|[#!%]\w")
"""What they make mentions and references of after parsing, in all text but code."""


class MarkdownReporter(Reporter):
    """The answer, why, every finding in a row, what was not looked at and what to give for it."""

    format = "markdown"

    def render(self, report: Report, decision: Decision) -> str:
        found = things(report, decision)
        given = why_not(report, decision, found)
        lines = [f"## {answer(report, decision)}: {text(report.target.uri)}", ""]
        lines += [f"**{plain(why(report, decision, given))}**", ""]
        if not decision.enforced and decision.verdict is Verdict.BLOCK:
            lines += ["The policy is in report mode: this is not enforced.", ""]
        others = [reason.violation for reason in given if reason.thing is None]
        lines += [f"- {item.rule} {text(item.message)}" for item in others[:MAX_ROWS]] + ([""] if others else [])
        lines += _table(found)
        done = f"{looked(report)}{earlier(report)}{compared(report)}; {judged(report)}"
        lines += [f"Looked: {plain(done)}.", ""]
        lines += [f"{', '.join(others_found)}.", ""] if (others_found := besides(found)) else []
        lines += _not_looked_at(report)
        lines += [f"- {plain(note)}" for note in waiver_notes(decision)]
        for item in decision.waived:
            lines.append(f"- {item.rule} is waived until {plain(item.expires)} by {text(item.owner)}: {text(item.reason)}")
        return "\n".join(lines).rstrip("\n") + "\n"


def plain(shown: str) -> str:
    """A line that is safe to show already, as Markdown that means that text."""
    return code(shown) if _REFERENCE.search(shown) else _SYNTAX.sub(r"\\\1", shown)


def text(raw: str) -> str:
    """A string of the artifact as Markdown text, cut where it is long."""
    return plain(shorten(visible(raw), MAX_LETTERS))


def code(shown: str) -> str:
    """A code span, in which nothing means anything; a table's bar is escaped in it all the same (GFM 4.10)."""
    return f"`{shown.replace('`', chr(39)).replace('|', chr(92) + '|')}`" if shown.strip() else ""


def _table(found: list[Thing]) -> list[str]:
    if not found:
        return []
    lines = ["| severity | confidence | rule | what | where | policy |", "|---|---|---|---|---|---|"]
    for thing in found[:MAX_ROWS]:
        finding = thing.finding
        where = code(shorten(place(finding), MAX_LETTERS)) + (f" and {count(len(thing.copies), 'copy', 'copies')}" if thing.copies else "")
        cells = [thing.severity.label, finding.confidence.label, finding.rule, text(finding.message), where, plain(thing.fate)]
        lines.append(f"| {' | '.join(cells)} |")
    if len(found) > MAX_ROWS:
        lines += ["", f"{count(len(found) - MAX_ROWS, 'more finding')} in the JSON report."]
    return [*lines, ""]


def _not_looked_at(report: Report) -> list[str]:
    held, gaps = lacks(report), other_gaps(report)
    if not held and not gaps:
        return []
    lines = ["<details><summary>Not looked at</summary>", ""]
    for item in held:
        number = count(len(item.detectors), "detector")
        if item.option:
            how = f": {code(item.command)}" if item.command else f" ({code(item.option)})" if item.option not in item.give else ""
            lines.append(f"- {number} {'lacks' if len(item.detectors) == 1 else 'lack'} {plain(item.give)}{how}")
        else:
            lines.append(f"- {number} did not look, or not to the end, for other reasons")
        lines += [f"  - {text(names)}: {text(reason)}" for names, reason in item.reasons]
    return [*lines, *(f"- {text(line)}" for line in gaps), "", "</details>", ""]
