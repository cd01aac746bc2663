"""``modelguard repair``."""

from __future__ import annotations

from pathlib import Path

import click

from modelguard import ModelOptions
from modelguard_repair._request import BEST, MAX_ASR, MAX_DROP, NAMES, KnownTrigger, Request

_path = click.Path(path_type=Path)


@click.command(short_help="Take the backdoor out of a model, and scan the result.")
@click.argument("model", type=_path)
@click.option("--samples", type=_path, required=True, metavar="F", help="Clean inputs with labels, a few hundred: half teach, half judge.")
@click.option("-o", "--out", type=_path, required=True, metavar="DIR", help="The folder that is made: model, record and reports.")
@click.option(
    "--method", "methods", multiple=True, metavar="M", help=f"{', '.join(NAMES)}, or {BEST}: all until one is fit [{BEST}]. Repeatable."
)
@click.option(
    "--trigger", metavar="T", help="A trigger that you know, as `modelguard evaluate` takes it. Those that a scan finds are used, too."
)
@click.option("--mask", metavar="M", help="Where the picture goes: white replaces.")
@click.option("--finding", metavar="ID", help="Which finding of a report given as --trigger.")
@click.option("--target", type=click.IntRange(0), metavar="C", help="The class the trigger is for [the one that gains most].")
@click.option("--report", type=_path, metavar="REPORT.json", help="A report of a scan of MODEL, so that it is not scanned again.")
@click.option("--policy", metavar="F", help="Policy file, or builtin:NAME [builtin:baseline].")
@click.option("--max-drop", type=float, default=MAX_DROP, show_default=True, metavar="P", help="Points of accuracy that may be lost.")
@click.option(
    "--max-asr", type=click.FloatRange(0, 1), default=MAX_ASR, show_default=True, metavar="P", help="Attack success that may be left."
)
@click.option("--detector", "detectors", multiple=True, metavar="ID", help="Scan by this detector only. Repeatable.")
@click.option("--quick", is_flag=True, help="Shorter looks, which miss more.")
@click.option("--budget", metavar="T", help="What all searches of one scan may take together, such as 5m.")
@click.option("--timeout", type=float, default=900.0, metavar="S", help="Seconds each detector may run [900].")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Seed of every random choice [0].")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads a detector may use [all cores].")
@click.option("--model", "factory", metavar="MODULE:FACTORY", help="Your own function that builds the torch module. Its code is run.")
@click.option("--input", "given", metavar="SPEC", help="What the model takes, such as range=0..255,layout=NHWC.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where models run [auto].")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
def repair(
    model: Path,
    samples: Path,
    out: Path,
    methods: tuple[str, ...],
    trigger: str | None,
    mask: str | None,
    finding: str | None,
    target: int | None,
    report: Path | None,
    policy: str | None,
    max_drop: float,
    max_asr: float,
    detectors: tuple[str, ...],
    quick: bool,
    budget: str | None,
    timeout: float,
    seed: int,
    threads: int | None,
    factory: str | None,
    given: str | None,
    device: str,
    quiet: bool,
) -> int:
    """Take the backdoor out of MODEL, write the result, measure it, and scan it again under the same policy.

    Exit codes: 0 the result is fit for deployment, 1 it is not (accuracy, a trigger that works, or its scan blocks), 2 usage error, 3 no
    verdict: no method could be used, or the scan of the result is incomplete.
    """
    from modelguard_repair import repair as run

    request = Request(
        model=model,
        samples=samples,
        out=out,
        methods=methods or (BEST,),
        trigger=None if trigger is None else KnownTrigger(trigger, mask or "", finding or "", target),
        report=report,
        policy=policy,
        max_drop=max_drop,
        max_asr=max_asr,
        seed=seed,
        detectors=detectors or None,
        quick=quick,
        budget=budget,
        timeout=timeout,
        options=ModelOptions(factory, given, device, threads=threads, cwd=Path.cwd()),  # type: ignore[arg-type]
        progress=(lambda note: None) if quiet else (lambda note: click.echo(note, err=True)),
    )
    done = run(request)
    click.echo(done.line)
    if done.folder is not None:
        click.echo(str(done.folder / "repair.json"))
    return done.code
