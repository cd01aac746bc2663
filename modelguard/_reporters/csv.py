"""CSV: a row for each finding, for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json

from modelguard._reporters.escape import visible
from modelguard._reporters.view import fates
from modelguard.report import Decision, Report, Reporter

COLUMNS = [
    "target",
    "rule",
    "title",
    "severity",
    "confidence",
    "policy",
    "detector",
    "file",
    "tensor",
    "message",
    "evidence",
    "fingerprint",
]


class CsvReporter(Reporter):
    """Every finding, copies and waived ones too."""

    format = "csv"

    def render(self, report: Report, decision: Decision) -> str:
        fate, titles = fates(decision), {rule.id: rule.title for rule in report.rules}
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for detector, item in report.findings():
            row = (
                report.target.uri,
                item.rule,
                titles.get(item.rule, ""),
                report.severity(item).label,
                item.confidence.label,
                fate(item),
                detector,
                item.location.file or "",
                item.location.tensor or "",
                item.message,
                json.dumps(dict(item.evidence), sort_keys=True, ensure_ascii=False),
                item.fingerprint,
            )
            writer.writerow([cell(text) for text in row])
        return out.getvalue()


def cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    shown = visible(text)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown
