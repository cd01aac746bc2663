"""Scans what is in quarantine, and decides whether it may leave."""

from __future__ import annotations

import datetime
from dataclasses import replace

from modelguard._guard.quarantine import Quarantine
from modelguard._policies.judge import evaluate
from modelguard._scanner.prepare import Prepared
from modelguard.report import Decision, Report


def of_quarantine(prepared: Prepared, quarantine: Quarantine) -> Prepared:
    """The same scan, of what ``quarantine`` brings."""
    return replace(prepared, request=replace(prepared.request, origin=quarantine))


def decided(prepared: Prepared, report: Report) -> Decision:
    """Whether it may leave. ``mode: report`` softens a report, and lets nothing out of quarantine."""
    return replace(evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date()), enforced=True)
