"""HTML: one file an analyst can read in a minute and mail to somebody. No script, nothing fetched, every string escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from modelguard._reporters.escape import visible
from modelguard._reporters.view import all_clear, answer, count, facts, fates, gaps, place, ran, reasons, settings, value, waiver_notes
from modelguard.findings import Attachment, Finding, Rule
from modelguard.report import CORE, Decision, Outcome, Report, Reporter, Verdict

if TYPE_CHECKING:
    from jinja2 import Template

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class HtmlReporter(Reporter):
    """A self-contained page."""

    format = "html"

    def render(self, report: Report, decision: Decision) -> str:
        found = sorted(report.findings(), key=lambda pair: -report.severity(pair[1]))
        fate, rules = fates(decision), {rule.id: rule for rule in report.rules}
        style = _resource("report.css")
        return _template().render(
            style=style,
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            verdict=decision.verdict.value,
            answer=answer(report, decision),
            enforced=decision.enforced or decision.verdict is not Verdict.BLOCK,
            report=report,
            decision=decision,
            facts=facts(report),
            reasons=reasons(report, decision),
            all_clear=all_clear(report),
            notes=waiver_notes(decision),
            gaps=gaps(report),
            findings=[_finding(report, fate, rules, detector, finding) for detector, finding in found],
            outcomes=[_outcome(report, outcome) for outcome in ran(report)],
            core=CORE,
        )


def png(attachment: Attachment) -> str | None:
    """The attachment as a data URI when it is a PNG by content, else None: nothing else is given to a browser to decode."""
    if attachment.media_type != "image/png" or not attachment.data.startswith(PNG_MAGIC):
        return None
    return "data:image/png;base64," + base64.b64encode(attachment.data).decode()


def _finding(report: Report, fate: Callable[[Finding], str], rules: Mapping[str, Rule], detector: str, finding: Finding) -> dict[str, Any]:
    images = [(item.name, uri) for item in finding.attachments if (uri := png(item)) is not None]
    others = [f"{item.name} ({item.media_type}, {count(len(item.data), 'byte')})" for item in finding.attachments if png(item) is None]
    return {
        "finding": finding,
        "detector": detector,
        "severity": report.severity(finding).label,
        "rule": rules.get(finding.rule),
        "fate": fate(finding),
        "place": place(finding),
        "evidence": [(key, value(item)) for key, item in sorted(finding.evidence.items())],
        "images": images,
        "others": others,
    }


def _outcome(report: Report, outcome: Outcome) -> dict[str, Any]:
    score = outcome.summary.get("score")
    return {
        "outcome": outcome,
        "findings": len(outcome.findings),
        "settings": ", ".join(settings(report, outcome.detector)),
        "score": value(float(score)) if isinstance(score, int | float) else "",
        "summary": json.dumps(dict(outcome.summary), indent=2, sort_keys=True, ensure_ascii=False).split("\n") if outcome.summary else [],
    }


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["visible"] = visible
    environment.filters["count"] = count
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return (resources.files("modelguard._reporters") / name).read_text(encoding="utf-8")
