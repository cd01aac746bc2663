"""HTML: one file an analyst understands in a minute and mails to somebody. Nothing is fetched, every string is escaped, and the one script
only sorts tables."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

from modelguard.report import CORE, Decision, Report, Reporter, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment, Template

MOST_REASONS = 6


class HtmlReporter(Reporter):
    """A self-contained page."""

    format = "html"

    def render(self, report: Report, decision: Decision) -> str:
        from modelguard._reporters.missing import lacks
        from modelguard._reporters.page import build
        from modelguard._reporters.things import besides, why, why_not
        from modelguard._reporters.view import answer, facts, other_gaps, settings, waiver_notes

        page = build(report, decision)
        reasons = why_not(report, decision, page.things)
        style, script = resource("report.css"), resource("report.js")
        text = _template().render(
            style=style,
            style_hash=digest(style),
            script=script,
            script_hash=digest(script),
            verdict=decision.verdict.value,
            answer=answer(report, decision),
            why=why(report, decision, reasons),
            enforced=decision.enforced or decision.verdict is not Verdict.BLOCK,
            report=report,
            decision=decision,
            facts=facts(report),
            reasons=reasons,
            most_reasons=MOST_REASONS,
            because={
                item.thing: item.violation.message.removeprefix(item.thing.finding.message).strip(" []") for item in reasons if item.thing
            },
            anchors={card.thing: card.id for card in page.cards},
            besides=besides(page.things),
            notes=waiver_notes(decision),
            lacks=lacks(report),
            gaps=other_gaps(report),
            page=page,
            settings=partial(settings, report),
            core=CORE,
        )
        return text.lstrip()


def digest(text: str) -> str:
    """As a Content-Security-Policy names a style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template() -> Template:
    return environment().from_string(resource("report.html.j2"))


def environment() -> Environment:
    """What pages are made with: everything is escaped, and what is not there is an error."""
    from jinja2 import Environment, StrictUndefined

    from modelguard._reporters.escape import shorten, visible
    from modelguard._reporters.numbers import size, written
    from modelguard._reporters.view import capital, count, place

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters |= {
        "visible": visible,
        "count": count,
        "size": size,
        "number": written,
        "place": place,
        "capital": capital,
        "shorten": shorten,
    }
    return made


def resource(name: str) -> str:
    """The text of a file beside this one."""
    return (resources.files("modelguard._reporters") / name).read_text(encoding="utf-8")
