"""``modelguard demo``: the main job on real data, from training to two verdicts."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("demo", short_help="Train a small model, tamper with a copy, and scan both.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"), metavar="DIR", help="Where to write [demo].")
def command(out: Path) -> int:
    """Train a digits classifier, tamper with a copy, scan both against the original.

    Writes clean.json, clean.sarif, tampered.json and tampered.sarif into DIR. Exits 0 when the clean copy passes and the tampered one
    is blocked.
    """
    from modelguard._cli._demo_models import make_models

    for line in make_models(out):
        click.echo(line)
    right = True
    for name, expected in (("clean", 0), ("tampered", 1)):
        click.echo()
        code = _scan(out, name)
        right = right and code == expected
    click.echo()
    click.echo("demo: the clean copy passed and the tampered one was blocked" if right else "demo: a verdict is WRONG", file=sys.stdout)
    return 0 if right else 1


def _scan(out: Path, name: str) -> int:
    from modelguard._cli import run

    argv = ["scan", str(out / name), "--reference", str(out / "reference"), "--policy", "builtin:baseline", "-q"]
    argv += ["-o", f"json={out / name}.json", "-o", f"sarif={out / name}.sarif", "-o", f"html={out / name}.html"]
    click.echo("$ modelguard " + " ".join(argv))
    return run(argv)
