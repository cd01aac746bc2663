"""Stored JSON reports: read one, and judge it again."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard.report import Decision, Report

MAX_BYTES = 1 << 28

today_option = click.option(
    "--today", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="Judge waivers as of this date [today, UTC]."
)


def read_report(path: str) -> tuple[Report, Decision]:
    """The report at ``path`` and the decision it was stored with. Raises :class:`UsageError`."""
    from modelguard._reporters.json import report_from_json

    remedy = "give a report written by `modelguard scan -o json=PATH`"
    try:
        with open(path, "rb") as handle:
            body = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(path, f"cannot be read ({error.strerror})", remedy) from error
    if len(body) > MAX_BYTES:
        raise UsageError(path, f"is larger than {MAX_BYTES} bytes", remedy)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(path, f"is not UTF-8 (byte {error.start})", remedy) from None
    return report_from_json(text, path)


def judge_again(report: Report, policy: str | None, registry: Registry, today: datetime.datetime | None) -> tuple[Report, Decision]:
    """``report`` under another policy. What it names must be installed, or have been where the report was made."""
    from modelguard.policy import evaluate, load_policy

    chosen = load_policy(policy)
    chosen.check(
        {*registry.rules(), *(rule.id for rule in report.rules)},
        {**dict.fromkeys(outcome.detector for outcome in report.outcomes), **registry.detectors},
    )
    day = today.date() if today is not None else datetime.datetime.now(datetime.UTC).date()
    return replace(report, policy=chosen.info), evaluate(report, chosen, day)
