"""``modelguard diff``: what was done to the weights, and which files beside them differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelguard._cli import _complete
from modelguard._cli._options import (
    OutputOptions,
    identity_option,
    output_options,
    parse_detector_options,
    plugin_option,
    policy_option,
    run_options,
)
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import RunOptions

DETECTORS = ("weight-diff", "reference-files")


@click.command("diff", short_help="Compare a model with a reference: what was done to the weights, which files differ.")
@click.argument("reference", shell_complete=_complete.files)
@click.argument("target", shell_complete=_complete.files)
@click.option("--all", "every", is_flag=True, help="Show every tensor, not layers folded by pattern.")
@policy_option
@identity_option
@click.option("--option", "options", multiple=True, metavar="ID.NAME=VALUE", help="Set a detector's option. Repeatable.")
@click.option(
    "--updates",
    metavar="DIR",
    shell_complete=_complete.files,
    help="Folder of client updates (federated learning) that made TARGET: one safetensors file each, a change or a whole model.",
)
@click.option("--digest", is_flag=True, help="Also hash every file, so that the report can be matched with others.")
@click.option("--download", is_flag=True, help="Download remote artifacts whole instead of reading only what differs.")
@run_options
@output_options
@plugin_option
def command(
    reference: str,
    target: str,
    every: bool,
    policy: str | None,
    identity: str | None,
    options: tuple[str, ...],
    updates: str | None,
    digest: bool,
    download: bool,
    run: RunOptions,
    quiet: bool,
    output: OutputOptions,
    without: tuple[str, ...],
) -> int:
    """Say what was done to REFERENCE's weights to get TARGET's, and which of the files beside them differ.

    A scan with the detectors weight-diff and reference-files alone. Of two models from one Hub only what may differ is read. Exit codes:
    0 nothing the policy's rules object to (the policy as a whole is not judged), 1 changed in a way they block, 2 usage error, 3 not
    compared.
    """
    from modelguard._cli.scan import perform
    from modelguard._scanner.prepare import ScanArguments, prepare

    if output.stdout_format == "console":
        output = replace(output, stdout_format="diff-all" if every else "diff")
    elif every:
        raise UsageError("--all", f"cannot be combined with --format {output.stdout_format}", "every tensor is in that format anyway")
    chosen = parse_detector_options(options)
    if updates is not None:
        _check(updates)
        chosen.setdefault("weight-diff", {})["updates"] = updates
    prepared = prepare(
        ScanArguments(
            target=target,
            reference=reference,
            policy=policy,
            detectors=DETECTORS,
            options=chosen,
            run=run,
            without=without,
            identity=identity,
            digest=digest,
            by_range=not download,
        )
    )
    return perform(prepared, output, (target, reference, policy), quiet)


def _check(updates: str) -> None:
    """Raise :class:`UsageError` where the folder of updates cannot hold any."""
    from modelguard._diff.updates import LEAST

    try:
        place = Path(updates).resolve(strict=True)
        count = sum(1 for path in place.rglob("*.safetensors"))
        folder = place.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        cause = (
            "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        )
        raise UsageError(f"--updates {updates}", cause, "name a folder with one safetensors file a client") from error
    if not folder:
        raise UsageError(f"--updates {updates}", "is no folder", "name a folder with one safetensors file a client")
    if count < LEAST:
        raise UsageError(
            f"--updates {updates}", f"holds {count} safetensors files", f"at least {LEAST} are needed to compare one with the others"
        )
