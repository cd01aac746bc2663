"""``modelguard meta train|show``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from modelguard import ModelOptions, UsageError
from modelguard_meta._calibration import LEAST_HELD_OUT


@click.group()
def meta() -> None:
    """Make and look at meta-classifiers, which `scan --option mntd.meta=FILE` judges models by."""


@meta.command()
@click.option(
    "--architecture",
    required=True,
    metavar="MODEL",
    help="A model of the architecture, which has to run here: its graph is kept, its weights are shuffled.",
)
@click.option("--samples", required=True, metavar="F", help="Clean labelled samples of the task, to train shadow models on.")
@click.option("-o", "--output", "output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file that is written.")
@click.option("--shadows", type=click.IntRange(8, 10_000), default=64, show_default=True, help="Shadows of either kind to learn from.")
@click.option(
    "--held-out", type=click.IntRange(LEAST_HELD_OUT, 10_000), default=40, show_default=True, help="Shadows of either kind to calibrate on."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--input", "taken", metavar="SPEC", help="What the model takes, as for `scan --input`.")
@click.option("--model", "factory", metavar="M:F", help="Your function that builds the module, as for `scan --model`. Its code is run.")
def train(
    architecture: str, samples: str, output: Path, shadows: int, held_out: int, seed: int, taken: str | None, factory: str | None
) -> None:
    """Train shadow models of one architecture and a meta-classifier on them.

    MODEL is read in this process, not in the isolated one that scans use: name a model whose origin you trust, not the suspect.
    """
    from modelguard.testing import open_target
    from modelguard_meta._train import Plan, train

    if not output.parent.is_dir():
        raise UsageError(f"-o {output}", "its folder does not exist", "make it first")
    options = ModelOptions(factory=factory, input=taken, device="cpu", cwd=Path.cwd())
    target = open_target(architecture, samples=samples, model=options)
    made = train(target, output, Plan(shadows, held_out, seed), lambda note: click.echo(note, err=True))
    click.echo(f"{output}  sha256 {made.sha256}")
    _tell(made.facts.auroc, made.facts.shadows, made.facts.cpu_seconds)


def _tell(auroc: float, shadows: object, seconds: float) -> None:
    click.echo(f"AUROC {auroc:.3f} on held-out shadows, {seconds:.0f} CPU seconds, {shadows}", err=True)


@meta.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def show(file: Path) -> None:
    """Print how the meta-classifier in FILE was made, as JSON."""
    from modelguard_meta._file import read

    found = read(file)
    click.echo(json.dumps({"sha256": found.sha256, **asdict(found.facts)}, indent=1))
