"""``modelguard report``: show a stored report in another form, or judge it by another policy."""

from __future__ import annotations

import datetime

import click

from modelguard._cli._options import OutputOptions, deliver, output_options, parse_outputs, plugin_option
from modelguard._cli._stored import judge_again, today_option
from modelguard.errors import UsageError


@click.command("report", short_help="Render or re-judge a stored JSON report.")
@click.argument("report", metavar="REPORT.json")
@click.option("--policy", metavar="F", help="Judge again by this policy file or builtin:NAME [keep the stored decision].")
@today_option
@output_options
@plugin_option
def command(report: str, policy: str | None, today: datetime.datetime | None, output: OutputOptions, without: tuple[str, ...]) -> int:
    """Render REPORT.json, with its stored decision or a new one, and exit with the decision's code.

    A stored decision is believed as it stands; give --policy where the file may have been touched.
    """
    from modelguard._plugins import load
    from modelguard.api import load_report

    if today is not None and policy is None:
        raise UsageError("--today", "has no effect on a stored decision", "give --policy as well")
    registry = load(disabled=without)
    files = parse_outputs(output, registry, (report, policy))
    stored, decision = load_report(report)
    if policy is not None:
        stored, decision = judge_again(stored, policy, registry, today)
    return deliver(stored, decision, registry, files, output)
