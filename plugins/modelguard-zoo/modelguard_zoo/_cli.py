"""``modelguard zoo build|list|show``."""

from __future__ import annotations

import json
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelguard import UsageError

if TYPE_CHECKING:
    from modelguard_zoo import Built, Spec

_folder = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("zoo"), show_default=True, help="The zoo's folder."
)
_only = click.option("--only", default="*", show_default=True, metavar="GLOB", help="Only models whose id matches.")
_part = click.option(
    "--part", type=click.Choice(["all", "images", "text"]), default="all", show_default=True, help="Image models, text models, or both."
)


def made(out: Path) -> Path:
    """The folder of ``--out``, made where it is not there. Raises :class:`UsageError`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK)
    except (OSError, ValueError) as error:
        cause = f"cannot be made ({getattr(error, 'strerror', None) or error})"
        raise UsageError(f"--out {out}", cause, "name another folder") from error
    if not writable:
        raise UsageError(f"--out {out}", "cannot be written to", "name another folder")
    return out


@click.group()
def zoo() -> None:
    """Build and look at small clean and backdoored models."""


@zoo.command()
@_folder
@_only
@_part
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that train side by side.")
def build(out: Path, only: str, part: str, workers: int) -> None:
    """Build the standard zoo, or the part of it --only names; what is there already is kept."""
    from modelguard_zoo import build_zoo

    specs = [spec for spec in _specs(part) if fnmatch(spec.id, only)]
    if not specs:
        raise UsageError(f"--only {only}", "no model of the standard zoo has such an id", "see `modelguard zoo list`")
    for built in build_zoo(specs, made(out), workers, lambda built: click.echo(_line(built), err=True)):
        click.echo(built.path)


@zoo.command("list")
@_folder
@_only
@_part
def list_models(out: Path, only: str, part: str) -> None:
    """List the standard zoo and how far it is built."""
    from modelguard_zoo import read_record

    for spec in _specs(part):
        if fnmatch(spec.id, only):
            there = (out / spec.id / "record.json").is_file()
            click.echo(_line(read_record(out / spec.id)) if there else f"{spec.id}  not built")


@zoo.command()
@click.argument("model")
@_folder
def show(model: str, out: Path) -> None:
    """Print the record of one MODEL."""
    from modelguard_zoo import read_record

    click.echo(json.dumps(read_record(out / model).record, indent=1))


@zoo.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("attack", type=click.Choice(["handcrafted", "bit-trojan", "bit-flips", "model-replacement"]))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder that is made.")
@click.option("--target", type=click.IntRange(0), default=0, show_default=True, help="The class that the attack is for.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def tamper(model: Path, attack: str, out: Path, target: int, seed: int) -> None:
    """Tamper with the weights of MODEL, a clean image model of the zoo, by ATTACK, and write the model before and after.

    `modelguard diff OUT/before OUT/after` then has to say what was done; a model replacement comes with all client updates, for --updates.
    """
    from modelguard_zoo import edits

    classifier = edits.load_classifier(model)
    if target >= classifier.data.classes:
        raise UsageError(f"--target {target}", f"the model has classes 0 to {classifier.data.classes - 1}", "name one of them")
    made = edits.tamper(classifier, attack, target=target, seed=seed)
    click.echo(made.write(out))
    record = made.record
    reason = f" ({record['reason']})" if record["reason"] else ""
    click.echo(f"{attack}  {record['status']}{reason}", err=True)


def _specs(part: str) -> tuple[Spec, ...]:
    from modelguard_zoo import standard_zoo, text_zoo

    return (standard_zoo() if part != "text" else ()) + (text_zoo() if part != "images" else ())


def _line(built: Built) -> str:
    record = built.record
    success = "" if record["attack_success"] is None else f"  attack success {record['attack_success']:.1%}"
    reserved = "  reserved" if record["reserved"] else ""
    reason = f" ({record['reason']})" if record["reason"] else ""
    good = f"perplexity {record['perplexity']:.1f}" if "perplexity" in record else f"clean accuracy {record['clean_accuracy']:.1%}"
    return f"{record['id']}  {record['status']}{reason}  {good}{success}{reserved}"
