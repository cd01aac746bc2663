"""``modelguard audit-data``: a training set in, the samples to drop out."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard import Report

METHODS = ("activation-clustering", "data-consistency", "early-loss", "roni", "spectral-signatures")
NAMED = ("MG4001", "MG4005")
"""Rules whose samples --drop writes; the others are hints."""


@click.command("audit-data", short_help="Look for poisoned samples in a training set.")
@click.argument("dataset", metavar="DATASET")
@click.option("--model", required=True, metavar="M", help="The model that was trained on it: a file or folder.")
@click.option("--method", "methods", multiple=True, metavar="ID", help=f"Only this method: {', '.join(METHODS)}. Repeatable.")
@click.option("--option", "options", multiple=True, metavar="ID.NAME=VALUE", help="Set a method's option. Repeatable.")
@click.option("--policy", metavar="F", help="Policy file, or builtin:NAME [builtin:baseline].")
@click.option("--factory", metavar="MODULE:FACTORY", help="Your own function that builds the torch module. Its code is run.")
@click.option("--input", "input_", metavar="SPEC", help="What the model takes, such as range=0..255,layout=NHWC.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the model runs [auto].")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Seed of every random choice [0].")
@click.option("--timeout", type=float, default=900.0, metavar="S", help="Seconds each method may run [900].")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads a method may use [all cores].")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FORMAT=PATH", help="Write a report to a file. Repeatable.")
@click.option("-f", "--format", "stdout_format", default="console", metavar="FORMAT", help="What goes to standard output [console].")
@click.option("--drop", metavar="FILE", help="Write the places of the samples to drop, one a line, from 0.")
def audit_data(
    dataset: str,
    model: str,
    methods: tuple[str, ...],
    options: tuple[str, ...],
    policy: str | None,
    factory: str | None,
    input_: str | None,
    device: Any,
    seed: int,
    timeout: float,
    threads: int | None,
    outputs: tuple[str, ...],
    stdout_format: str,
    drop: str | None,
) -> int:
    """Audit DATASET, a training set with labels: .npz, .safetensors, .jsonl, .parquet, or a folder of images.

    Exit codes: 0 nothing suspicious, 1 suspicious samples by policy, 2 usage or policy-file error, 3 the data set could not be audited.
    """
    from modelguard import evaluate, load_policy, render, scan

    if unknown := sorted(set(methods) - set(METHODS)):
        raise UsageError(f"--method {unknown[0]}", "there is no such method", f"methods: {', '.join(METHODS)}")
    chosen = methods or METHODS
    files = _outputs(outputs)
    written = [path for _, path in files] + ([Path(drop)] if drop is not None else [])
    check_outputs(written, (dataset, model, policy))
    rules = load_policy(policy).requiring(chosen)
    asked = _options(options)
    report = scan(
        model,
        samples=dataset,
        policy=rules,
        detectors=chosen,
        options={name: {**asked.get(name, {}), "dataset": True} for name in chosen},
        model=factory,
        input=input_,
        device=device,
        seed=seed,
        timeout=timeout,
        threads=threads,
    )
    decision = evaluate(report, rules, datetime.datetime.now(datetime.UTC).date())
    answers = [(path, render(report, decision, name)) for name, path in files]
    shown = render(report, decision, stdout_format)
    for path, text in answers:
        write(path, text)
    if drop is not None and not report.failure:
        write(Path(drop), "".join(f"{index}\n" for index in to_drop(report)))
    click.echo(shown, nl=False)
    return decision.exit_code


def to_drop(report: Report) -> list[int]:
    """Places of the samples that findings other than hints name, in order, from 0."""
    return sorted({int(index) for _, finding in report.findings() if finding.rule in NAMED for index in finding.evidence["indices"]})


def _options(values: Iterable[str]) -> dict[str, dict[str, str]]:
    parsed: dict[str, dict[str, str]] = {}
    for item in values:
        place, equals, value = item.partition("=")
        method, dot, name = place.rpartition(".")
        if not (equals and dot and name and method in METHODS):
            raise UsageError(f"--option {item}", "is not ID.name=value of a method", "write for example spectral-signatures.p_value=0.001")
        parsed.setdefault(method, {})[name] = value
    return parsed


def _outputs(specs: Iterable[str]) -> list[tuple[str, Path]]:
    files = []
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not (equals and name and path):
            raise UsageError(f"-o {spec}", "is not FORMAT=PATH", "write for example html=audit.html")
        files.append((name, Path(path)))
    return files


def check_outputs(paths: Iterable[Path], inputs: Iterable[str | None]) -> None:
    """Refuse a file that could not be written, that is written twice, or that is, or lies in, what is read. Raises :class:`UsageError`."""
    read = [os.path.realpath(path) for path in inputs if path and "://" not in path]
    taken: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if any(real == place or (os.path.isdir(place) and real.startswith(place + os.sep) and os.path.exists(real)) for place in read):
            raise UsageError(str(path), "is read by this command", "name another file")
        if real in taken:
            raise UsageError(str(path), "is given to two outputs", "name another file")
        if os.path.isdir(real):
            raise UsageError(str(path), "is a folder", "name a file in it")
        if not os.path.isdir(os.path.dirname(real)):
            raise UsageError(str(path), "lies in a folder that does not exist", "create it first")
        taken.add(real)


def write(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either what it held before or all of it. Raises :class:`OutputError`."""
    try:
        real = Path(os.path.realpath(path))
        handle, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name[:100]}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            mask = os.umask(0o077)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, real)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise OutputError(str(path), f"cannot be written ({error.strerror or error})", "check the folder and free space") from error
