"""``modelguard report``: show a stored report in another form, judge it by another policy, or compare it with an earlier one."""

from __future__ import annotations

import datetime

import click

from modelguard._cli import _complete
from modelguard._cli._options import (
    OutputOptions,
    baseline_option,
    deliver,
    output_options,
    parse_outputs,
    plugin_option,
    print_answer,
)
from modelguard._cli._stored import judge_again, today_option
from modelguard.errors import UsageError


@click.command("report", short_help="Render, re-judge or compare stored JSON reports.")
@click.argument("report", metavar="REPORT.json", shell_complete=_complete.files)
@click.option(
    "--compare",
    "earlier",
    metavar="OLD.json",
    shell_complete=_complete.files,
    help="Say what is new, gone and changed since this earlier report of the same artifact; -f is console or json.",
)
@click.option(
    "--policy",
    metavar="F",
    shell_complete=_complete.policies,
    help="Judge again by this policy file or builtin:NAME [keep the stored decision].",
)
@baseline_option
@today_option
@output_options
@plugin_option
def command(
    report: str,
    earlier: str | None,
    policy: str | None,
    baseline: str | None,
    today: datetime.datetime | None,
    output: OutputOptions,
    without: tuple[str, ...],
) -> int:
    """Render REPORT.json, with its stored decision or a new one, and exit with the decision's code.

    A stored decision is believed as it stands; give --policy where the file may have been touched.
    """
    from modelguard._plugins import load
    from modelguard.api import load_report

    for name, value in (("--today", today), ("--baseline", baseline)):
        if value is not None and policy is None:
            raise UsageError(name, "has no effect on a stored decision", "give --policy as well")
    if earlier is not None and (output.outputs or output.stdout_format not in ("console", "json")):
        raise UsageError("--compare", "is no report that can be written", "leave -o out; --format may be console or json")
    registry = load(disabled=without)
    files = parse_outputs(output, registry, (report, policy, earlier, baseline))
    stored, decision = load_report(report)
    if policy is not None:
        stored, decision = judge_again(stored, policy, registry, today, baseline)
    if earlier is not None:
        from modelguard._cli._comparison import compared

        print_answer(compared(*load_report(earlier), stored, decision, as_json=output.stdout_format == "json"), nl=False)
        return decision.exit_code
    return deliver(stored, decision, registry, files, output)
