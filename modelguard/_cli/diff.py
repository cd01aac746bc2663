"""``modelguard diff``: what was done to the weights."""

from __future__ import annotations

from typing import Any

import click

from modelguard._cli._options import deliver, output_options, plugin_option, run_options
from modelguard._cli.scan import perform, prepare
from modelguard.errors import UsageError

DETECTOR = "weight-diff"


@click.command("diff", short_help="Compare a checkpoint with a reference: what was done to the weights.")
@click.argument("reference")
@click.argument("target")
@click.option("--all", "every", is_flag=True, help="Show every tensor, not layers folded by pattern.")
@click.option("--policy", metavar="F", help="Policy file, or builtin:NAME [builtin:baseline].")
@click.option("--option", "options", multiple=True, metavar="ID.NAME=VALUE", help="Set a detector's option. Repeatable.")
@click.option("--digest", is_flag=True, help="Also hash every file, so that the report can be matched with others.")
@click.option("--download", is_flag=True, help="Download remote artifacts whole instead of reading only what differs.")
@run_options
@output_options
@plugin_option
def command(reference: str, target: str, every: bool, download: bool, stdout_format: str, options: tuple[str, ...], **given: Any) -> int:
    """Say what was done to REFERENCE's weights to get TARGET's.

    A scan with the detector weight-diff alone. Of two models from one Hub only what may differ is read. Exit codes: 0 nothing the policy
    objects to, 1 changed in a way it blocks, 2 usage error, 3 not compared.
    """
    if stdout_format == "console":
        stdout_format = "diff-all" if every else "diff"
    elif every:
        raise UsageError("--all", f"has no meaning with --format {stdout_format}", "every tensor is in that format anyway")
    prepared = prepare(
        target, reference=reference, detectors=(DETECTOR,), options=options, stdout_format=stdout_format, by_range=not download, **given
    )
    report, decision = perform(prepared)
    return deliver(report, decision, prepared.registry, prepared.outputs, prepared.stdout_format)
