"""``--policy`` and ``--today`` on a stored report: judge it again."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard.report import Decision, Report

today_option = click.option(
    "--today", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="Judge waivers as of this date [today, UTC]."
)


def judge_again(
    report: Report, policy: str | None, registry: Registry, today: datetime.datetime | None, baseline: str | None = None
) -> tuple[Report, Decision]:
    """``report`` under another policy, and against the stored report ``baseline``.

    What the policy names must be installed, or have been where the report was made.
    """
    from modelguard.api import load_report
    from modelguard.policy import evaluate, load_policy

    chosen = load_policy(policy)
    chosen.check(
        {*registry.rules(), *(rule.id for rule in report.rules)},
        {**dict.fromkeys(outcome.detector for outcome in report.outcomes), **registry.detectors},
    )
    earlier = load_report(baseline)[0] if baseline is not None else None
    day = today.date() if today is not None else datetime.datetime.now(datetime.UTC).date()
    return replace(report, policy=chosen.info), evaluate(report, chosen, day, earlier)
