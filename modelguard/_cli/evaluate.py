"""``modelguard evaluate``: what a trigger that you know does to a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli import _complete
from modelguard._cli._options import (
    OutputOptions,
    identity_option,
    model_options,
    output_options,
    plugin_option,
    policy_option,
    run_options,
    samples_option,
)
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import RunOptions
    from modelguard.model import ModelOptions

DETECTOR = "evaluate"


@click.command("evaluate", short_help="Say what a trigger that you know does to a model.")
@click.argument("target", shell_complete=_complete.files)
@samples_option
@click.option(
    "--trigger",
    metavar="T",
    required=True,
    shell_complete=_complete.files,
    help="PICTURE.png, a report's REPORT.json, module:function, or text:WORDS.",
)
@click.option("--mask", metavar="M", shell_complete=_complete.files, help="Where the picture goes: white replaces [its own transparency].")
@click.option("--finding", metavar="ID", help="Which finding of REPORT.json: its rule or fingerprint [the only one].")
@click.option("--target", "klass", type=click.IntRange(0), metavar="C", help="The class the trigger is for [the one that gains most].")
@click.option(
    "--max-asr", type=click.FloatRange(0.001, 1.0), metavar="P", help="Attack success that is allowed, 0.1 for 10 % [policy's, or 0.1]."
)
@click.option("--reference", metavar="R", shell_complete=_complete.files, help="A trusted model to evaluate the trigger on as well.")
@policy_option
@identity_option
@model_options
@run_options
@output_options
@plugin_option
def command(
    target: str,
    samples: str | None,
    trigger: str,
    mask: str | None,
    finding: str | None,
    klass: int | None,
    max_asr: float | None,
    reference: str | None,
    policy: str | None,
    identity: str | None,
    model: ModelOptions,
    run: RunOptions,
    quiet: bool,
    output: OutputOptions,
    without: tuple[str, ...],
) -> int:
    """Stamp a known trigger on clean samples, and say how many become its target: attack success, beside the base rate without the
    trigger and the clean accuracy, by class, place and strength.

    Exit codes: 0 the trigger does no more than allowed, 1 it works, 2 usage error, 3 not evaluated.
    """
    from modelguard._cli.scan import perform
    from modelguard._scanner.prepare import ScanArguments, prepare

    if samples is None:
        raise UsageError("evaluate", "has no samples", "give clean ones with labels: --samples F")
    given = _trigger(trigger, mask, finding)
    options: dict[str, Any] = {**given, "target": klass, "max_asr": max_asr}
    prepared = prepare(
        ScanArguments(
            target=target,
            reference=reference,
            samples=samples,
            policy=policy,
            detectors=(DETECTOR,),
            options={DETECTOR: {name: value for name, value in options.items() if value is not None}},
            model=model,
            run=run,
            without=without,
            identity=identity,
        )
    )
    return perform(prepared, output, (target, reference, samples, policy, given["trigger"], given.get("mask")), quiet)


def _trigger(trigger: str, mask: str | None, finding: str | None) -> dict[str, str]:
    """The detector's options that name the trigger. Raises :class:`UsageError`."""
    from modelguard._inputs.samples import IMAGES

    kind = Path(trigger).suffix.lower()
    if mask is not None and kind not in IMAGES:
        raise UsageError("--mask", f"has no effect with --trigger {trigger}", "give it with a picture")
    if finding is not None and kind != ".json":
        raise UsageError("--finding", f"has no effect with --trigger {trigger}", "give it with a report: --trigger REPORT.json")
    named = {"trigger": trigger}
    if ":" in trigger and kind not in (*IMAGES, ".json"):
        if not trigger.partition(":")[2].strip():
            raise UsageError(f"--trigger {trigger}", "names nothing after the colon", "write text:WORDS or module:function")
        return named
    for option, place in (("--trigger", trigger), ("--mask", mask)):
        if place is not None and not os.path.isfile(place):
            raise UsageError(f"{option} {place}", "there is no such file", "check the path; words are written text:WORDS")
    if kind not in (*IMAGES, ".json"):
        raise UsageError(f"--trigger {trigger}", "is no picture and no report", "give a .png, a .json, module:function or text:WORDS")
    if mask is not None:
        named["mask"] = mask
    if finding is not None:
        named["finding"] = finding
    return named
