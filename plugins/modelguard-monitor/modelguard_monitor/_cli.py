"""``modelguard monitor make|replay``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from modelguard import ModelError, UsageError

STATISTICS = ("confidence", "features", "strip")
LEAST = 30
"""Lines below which nothing is concluded: with 20 % of triggered inputs the median delay is 20 to 46 (benchmarks/monitor.py)."""

_format = click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group()
def monitor() -> None:
    """Make a guard for a model that is in use, and judge logs of what it predicts."""


@monitor.command()
@click.argument("model")
@click.option("--samples", required=True, metavar="S", help="Clean samples with labels that the model was not trained on.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder that is made.")
@click.option(
    "--false-alarms",
    type=click.FloatRange(1e-6, 0.5),
    default=0.01,
    show_default=True,
    help="The part of clean inputs that may be rejected.",
)
@click.option(
    "--statistic", "statistics", multiple=True, type=click.Choice(STATISTICS), help="Judge by this [all that can be]. Repeatable."
)
@click.option("--factory", metavar="MODULE:FACTORY", help="Your own function that builds the torch module. Its code is run.")
@click.option("--input", "takes", metavar="SPEC", help="What the model takes, such as range=0..255,layout=NHWC.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where the model runs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split of the samples.")
@click.option("--timeout", type=click.FloatRange(1), default=1800.0, show_default=True, metavar="SECONDS", help="How long it may take.")
@_format
def make(
    model: str,
    samples: str,
    out: Path,
    false_alarms: float,
    statistics: tuple[str, ...],
    factory: str | None,
    takes: str | None,
    device: Any,
    seed: int,
    timeout: float,
    form: str,
) -> int:
    """Make a guard for MODEL from clean samples: guard.safetensors, guard.py, drift.py and guard.onnx in DIR.

    The guard rejects inputs that are unlike clean ones. It says nothing about MODEL: scan that first.

    Exit codes: 0 made, 2 usage error, 3 no guard could be made.
    """
    from modelguard_monitor._make import make as run

    options = {"false_alarms": false_alarms, "statistics": ",".join(dict.fromkeys(statistics))}
    facts = run(model, samples, out, options, model=factory, input=takes, device=device, seed=seed, timeout=timeout)
    if form == "json":
        click.echo(json.dumps(facts, indent=1, sort_keys=True))
        return 0
    used = facts["samples"]
    click.echo(f"guard made in {out}: rejects at most {false_alarms:g} of clean inputs, by {', '.join(facts['thresholds'])}")
    click.echo(
        f"  baselines of {used['fit']} samples, thresholds of {used['calibration']} others; {used['accuracy']:.1%} predicted as labelled"
    )
    if facts["layer"]:
        click.echo(f"  features are those of the layer {facts['layer']}, averaged over positions")
    for name, reason in facts["left_out"].items():
        click.echo(f"  {name} is left out: {reason}")
    return 0


@monitor.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--guard", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="What `monitor make` wrote.")
@click.option(
    "--statistic", "streams", multiple=True, type=click.Choice(["class", *STATISTICS]), help="Watch this [all the log has]. Repeatable."
)
@_format
def replay(log: Path, folder: Path, streams: tuple[str, ...], form: str) -> int:
    """Judge LOG, predictions of the guard's model in the order they were made, one JSON object a line.

    A line has "logits", or "label" and "confidence" (at least two decimals), or is a verdict of guard.py.

    Exit codes: 0 no drift, 1 drift, 2 usage error, 3 too few lines to judge.
    """
    from modelguard_monitor._replay import FALSE_ALARM, load_guard
    from modelguard_monitor._replay import replay as run

    if not log.is_file():
        raise UsageError(str(log), "there is no such file", "give a log of predictions")
    found = run(log, load_guard(folder), tuple(dict.fromkeys(streams)))
    if found.at is None and found.lines < LEAST:
        raise ModelError(str(log), f"has {found.lines} predictions, too few to judge", f"at least {LEAST} are needed")
    if form == "json":
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        said = f"drift at line {found.at}: {found.reason}" if found.at else f"no drift in {found.lines} predictions"
        click.echo(said)
        click.echo(f"  a clean log is said to drift with a chance of at most {FALSE_ALARM:.0%}")
        for name, part in found.evidence.items():
            click.echo(f"  {name}: {part:.3g} of the evidence that makes an alarm")
        by = "".join(f", {name} {count}" for name, count in found.rejected.items())
        click.echo(f"  {found.rejected_any} of {found.lines} predictions are above the guard's thresholds{by}")
    return 1 if found.at else 0
