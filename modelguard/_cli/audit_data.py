"""``modelguard audit-data``: a training set in, the samples to drop out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli import _complete
from modelguard._cli._options import (
    OutputOptions,
    check_file,
    output_options,
    parse_detector_options,
    plugin_option,
    policy_option,
    run_options,
)
from modelguard._cli._streams import complain
from modelguard.errors import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import RunOptions
    from modelguard.report import Decision, Report

METHODS = ("activation-clustering", "data-consistency", "early-loss", "roni", "spectral-signatures")
DECIDING = ("data-consistency", "spectral-signatures")
"""Those that have to have looked; the others give hints."""
NAMED = ("MG4001", "MG4005")
"""Rules whose samples --drop writes; the others are hints."""


@click.command("audit-data", short_help="Look for poisoned samples in a training set.")
@click.argument("dataset", shell_complete=_complete.files)
@click.option("--model", required=True, metavar="M", shell_complete=_complete.files, help="The model that was trained on it.")
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), help="Only this method. Repeatable.")
@click.option("--option", "options", multiple=True, metavar="ID.NAME=VALUE", help="Set a method's option. Repeatable.")
@click.option("--drop", metavar="FILE", help="Write the places of the samples to drop, one a line, from 0.")
@policy_option
@click.option("--factory", metavar="MODULE:FACTORY", help="Your own function that builds the torch module. Its code is run.")
@click.option("--input", "takes", metavar="SPEC", help="What the model takes, such as range=0..255,layout=NHWC.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the model runs [auto].")
@run_options
@output_options
@plugin_option
def command(
    dataset: str,
    model: str,
    methods: tuple[str, ...],
    options: tuple[str, ...],
    drop: str | None,
    policy: str | None,
    factory: str | None,
    takes: str | None,
    device: Any,
    run: RunOptions,
    quiet: bool,
    output: OutputOptions,
    without: tuple[str, ...],
) -> int:
    """Audit DATASET, a training set with labels: .npz, .safetensors, .jsonl, .parquet, or a folder of images.

    Exit codes: 0 nothing suspicious, 1 suspicious samples by policy, 2 usage or policy-file error, 3 the data set could not be audited.
    """
    from modelguard._cli.scan import perform
    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard.model import ModelOptions

    asked = parse_detector_options(options)
    if others := sorted(set(asked) - set(methods or METHODS)):
        raise UsageError(f"--option {others[0]}.*", "is of no method that runs", f"methods: {', '.join(methods or METHODS)}")
    prepared = prepare(
        ScanArguments(
            target=model,
            samples=dataset,
            policy=policy,
            detectors=methods or METHODS,
            options=asked,
            model=ModelOptions(factory, takes, device),
            run=run,
            without=without,
        )
    )
    if not methods:  # a hint that could not look decides nothing
        prepared = replace(prepared, policy=prepared.policy.requiring(DECIDING))
    inputs = (dataset, model, policy)
    if drop is not None:
        check_file(f"--drop {drop}", Path(drop), inputs)
    return perform(prepared, output, inputs, quiet, None if drop is None else _Drop(drop))


@dataclass(frozen=True)
class _Drop:
    """Writes the places of the samples that findings other than hints name."""

    path: str

    def write(self, report: Report, decision: Decision) -> bool:
        """Write them; whether that was possible. Nothing to drop is no answer where nobody looked."""
        from modelguard._reporters.output import write_atomically
        from modelguard.report import Verdict

        if decision.verdict is Verdict.INCOMPLETE:
            return True
        places = {int(place) for _, finding in report.findings() if finding.rule in NAMED for place in finding.evidence["indices"]}
        try:
            write_atomically(Path(self.path), "".join(f"{place}\n" for place in sorted(places)))
        except OutputError as error:
            complain(error)
            return False
        return True
