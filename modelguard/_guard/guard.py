"""Scans what is in quarantine, and decides whether it may leave."""

from __future__ import annotations

import datetime
from dataclasses import replace

from modelguard._guard.quarantine import Quarantine
from modelguard._policies.judge import evaluate
from modelguard._scanner.prepare import Prepared
from modelguard._scanner.run import Progress
from modelguard._scanner.scan import Interrupted
from modelguard.report import Decision, Report


def guarded(prepared: Prepared, quarantine: Quarantine, progress: Progress) -> tuple[Report, Decision]:
    """The scan of what ``quarantine`` brings, and the decision. ``mode: report`` softens a report, and lets nothing out of quarantine.

    Ctrl-C while detectors run ends it as it ends a scan: the report says so, and the decision is no pass.
    """
    scanning = replace(prepared, request=replace(prepared.request, origin=quarantine))
    try:
        report = scanning.scan(progress)
    except Interrupted as error:
        report = error.report
    decision = evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date())
    return report, replace(decision, enforced=True)
