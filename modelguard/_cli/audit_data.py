"""``modelguard audit-data``: a training set in, the samples to drop out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli import _complete
from modelguard._cli._looking import ended, looked
from modelguard._cli._options import (
    OutputOptions,
    check_file,
    deliver,
    output_options,
    parse_detector_options,
    parse_outputs,
    plugin_option,
    policy_option,
    run_options,
)
from modelguard._cli._streams import complain
from modelguard.errors import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import RunOptions
    from modelguard.report import Report

METHODS = ("activation-clustering", "data-consistency", "early-loss", "roni", "spectral-signatures")
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
    import datetime

    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard.model import ModelOptions
    from modelguard.policy import evaluate
    from modelguard.report import Verdict

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
    inputs = (dataset, model, policy)
    files = parse_outputs(output, prepared.registry, inputs, drop)
    if drop is not None:
        check_file(f"--drop {drop}", Path(drop), inputs)
    report, interrupted = looked(prepared, quiet)
    decision = evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date())
    # Nothing to drop is no answer where nobody looked.
    written = drop is None or decision.verdict is Verdict.INCOMPLETE or _write(Path(drop), report)
    code = deliver(report, decision, prepared.registry, files, output)
    return ended(3 if code == 0 and not written else code, interrupted=interrupted)


def _write(path: Path, report: Report) -> bool:
    """Write the places of the samples that findings other than hints name; whether that was possible."""
    from modelguard._reporters.output import write_atomically

    places = {int(place) for _, finding in report.findings() if finding.rule in NAMED for place in finding.evidence["indices"]}
    try:
        write_atomically(path, "".join(f"{place}\n" for place in sorted(places)))
    except OutputError as error:
        complain(error)
        return False
    return True
