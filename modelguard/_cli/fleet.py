"""``modelguard fleet``: many models, one summary."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli import _complete
from modelguard._cli._looking import ended
from modelguard._cli._options import check_file, plugin_option, policy_option, print_answer, quick_option, reports_folder, run_options
from modelguard._cli._streams import complain
from modelguard.errors import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard._fleet.journal import Journal
    from modelguard._fleet.run import Engine
    from modelguard._fleet.targets import FleetTarget
    from modelguard._scanner.prepare import Prepared, RunOptions

JOURNAL = "modelguard-fleet.journal"
MAX_ROWS = 50
MAX_REASONS = 3


@click.command("fleet", short_help="Scan many models, and sum them up.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGETS...", shell_complete=_complete.files)
@policy_option
@quick_option
@click.option("--budget", metavar="TIME", help="Time that all searches in one model may take together [policy's].")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Processes of this machine, or a Ray cluster (RAY_ADDRESS) [local].",
)
@click.option("--gpus", type=click.FloatRange(0, 8), default=0.0, metavar="N", help="With ray: GPUs that each model needs [0].")
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N", help="Models at the same time [all cores, or what the cluster takes]."
)
@click.option("--journal", metavar="F", default=JOURNAL, help=f"What is done is written here, and not done again [{JOURNAL}].")
@click.option("--fresh", is_flag=True, help="Begin anew, whatever the journal has.")
@click.option("--since", metavar="F", help="An earlier JSON summary: say what has changed.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FORMAT=PATH", help="Write the summary: json, csv or html. Repeatable.")
@click.option("--reports", metavar="DIR", help="Write the JSON report of each model into this folder, and its page if -o html= is given.")
@click.option(
    "-f", "--format", "stdout_format", type=click.Choice(["console", "json", "csv"]), default="console", help="Table, JSON or CSV."
)
@run_options
@plugin_option
def command(
    targets: tuple[str, ...],
    policy: str | None,
    quick: bool,
    budget: str | None,
    executor: str,
    gpus: float,
    workers: int | None,
    journal: str,
    fresh: bool,
    since: str | None,
    outputs: tuple[str, ...],
    reports: str | None,
    stdout_format: str,
    run: RunOptions,
    quiet: bool,
    without: tuple[str, ...],
) -> int:
    """Scan every model that TARGETS name: a file with a model a line (path or hf://org/name), hf://org/* for all of an organisation, or
    a lock (*.lock), whose policies and references are taken.

    What is done is in the journal at once: a run that was interrupted or killed goes on where it was, and a model that fails stops no
    other. Exit codes are those of one scan: 1 if any model is blocked, else 3 if any has no verdict, or there is none at all.
    """
    from modelguard._cli._fleet_display import FleetDisplay
    from modelguard._fleet.journal import Journal
    from modelguard._fleet.run import run_fleet
    from modelguard._fleet.summary import FORMATS, read_summary, render, summary
    from modelguard._fleet.targets import read_targets
    from modelguard._reporters.output import parse_output_spec, write_atomically
    from modelguard._scanner.prepare import ScanArguments, prepare

    files = [parse_output_spec(item, FORMATS) for item in outputs]
    for number, (spec, (_, path)) in enumerate(zip(outputs, files, strict=True)):
        check_file(f"-o {spec}", path, (*targets, policy, since, journal), [item for _, item in files[:number]])
    earlier = read_summary(since) if since is not None else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    engine = _engine(executor, workers, cores, run, gpus)
    number = workers or cores
    run = replace(run, threads=run.threads or (1 if executor == "ray" else max(1, cores // number)))
    prepared = prepare(ScanArguments(target=".", policy=policy, quick=quick, budget=budget, run=run, without=without))
    if executor == "local" and run.memory is None and (memory := prepared.request.limits.memory) is not None:
        run = replace(run, memory=max(memory // number, 1 << 30))
    asked = _asked(prepared, policy, quick, budget, run, without)
    folder = reports_folder(reports)
    wanted = read_targets(targets)
    lost = False
    links: dict[str, str] = {}
    with Journal(Path(journal), _digest(asked, prepared), fresh=fresh) as written:

        def tell(target: FleetTarget, row: Mapping[str, Any], report: str) -> None:
            display.ended(target, row)

        with FleetDisplay(len(wanted), quiet) as display:
            done = run_fleet(asked, wanted, engine, written, tell)
        if folder is not None:
            links, lost = _store(written, wanted, folder, pages=any(form == "html" for form, _ in files))
    document = summary(wanted, done, prepared.policy.info, earlier)
    _say(done.problem, done.resumed, document, quiet)
    for form, path in files:
        try:
            near = {key: os.path.relpath(name, path.parent) for key, name in links.items()}
            write_atomically(path, render(document, form, near))
        except OutputError as error:
            lost = True
            complain(error)
    print_answer("\n".join(_table(document)) if stdout_format == "console" else render(document, stdout_format).rstrip("\n"))
    code = int(document["exit_code"])
    return ended(3 if lost and code == 0 else code, interrupted=done.interrupted)


def _asked(
    prepared: Prepared, policy: str | None, quick: bool, budget: str | None, run: RunOptions, without: tuple[str, ...]
) -> dict[str, Any]:
    """What is asked of every model, as JSON that any process can be handed. Paths are absolute: it may run in another folder."""
    place = policy if policy is None or policy.startswith("builtin:") else str(Path(policy).absolute())
    return {
        "policy": place,
        "policy_sha256": prepared.policy.info.sha256,
        "quick": quick,
        "budget": budget,
        "without": sorted(without),
        "run": asdict(run),
    }


def _digest(asked: Mapping[str, Any], prepared: Prepared) -> str:
    """What has to be the same for a run to be gone on with. How fast it goes is none of that."""
    run = {name: value for name, value in asked["run"].items() if name not in ("memory", "threads", "cache")}
    plugins = [[item.name, item.version] for item in prepared.registry.plugins]
    whole = {**asked, "policy": None, "run": run, "plugins": plugins}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _engine(executor: str, workers: int | None, cores: int, run: RunOptions, gpus: float) -> Engine:
    if executor == "ray":
        from modelguard._fleet.on_ray import RayCluster

        return RayCluster(workers, cpus=run.threads or 1, gpus=gpus, memory=_bytes(run.memory))
    if gpus:
        raise UsageError("--gpus", "only a Ray cluster can be asked for GPUs", "give --executor ray as well")
    from modelguard._fleet.local import LocalPool

    return LocalPool(workers or cores)


def _bytes(memory: int | str | None) -> int | None:
    from modelguard._scanner.prepare import bytes_of

    return None if memory is None else bytes_of(memory)


def _store(journal: Journal, targets: list[FleetTarget], folder: Path, *, pages: bool) -> tuple[dict[str, str], bool]:
    """Where a person reads the report of each model, by key; and whether one could not be written."""
    from modelguard._fleet.work import stored
    from modelguard._reporters.html import HtmlReporter
    from modelguard._reporters.json import dump, report_from_json
    from modelguard._reporters.output import write_atomically

    links, lost = {}, False
    for target in targets:
        if not (report := journal.report(target.entry)):
            continue
        plain = re.sub(r"[^A-Za-z0-9._@-]+", "--", target.name or target.uri.removeprefix("hf://")).strip("-.")[:100]
        path = folder / f"{plain}-{hashlib.sha256(target.key.encode()).hexdigest()[:8]}.json"
        try:
            text = dump(stored(report))
            write_atomically(path, text)
            if pages:
                path = path.with_suffix(".html")
                write_atomically(path, HtmlReporter().render(*report_from_json(text)))
            links[target.key] = str(path)
        except OutputError as error:
            if not lost:
                complain(error)
            lost = True
    return links, lost


def _say(problem: str, resumed: int, document: Mapping[str, Any], quiet: bool) -> None:
    """What a reader of the table should know of how it came about."""
    import sys

    from modelguard._cli._streams import telling
    from modelguard._reporters.escape import visible

    uncached = next((item["uncached"] for item in document["models"] if item.get("uncached")), "")
    with telling():
        if problem:
            print(f"modelguard: error: {visible(problem)}", file=sys.stderr)
        if resumed and not quiet:
            print(f"modelguard: {resumed} of {len(document['models'])} models were done already, by the journal", file=sys.stderr)
        if uncached and not quiet:
            print(f"modelguard: went on without {visible(uncached)}", file=sys.stderr)


def _table(document: Mapping[str, Any]) -> Iterator[str]:
    """The answer first; then what is no pass, the worst first, with its first reasons below it."""
    from modelguard._reporters.escape import shorten, visible
    from modelguard._reporters.view import count

    models, counts = document["models"], document["counts"]
    words = {"block": "BLOCKED", "incomplete": "NO VERDICT", "pass": "PASS"}
    said = ", ".join(f"{number} {words[verdict]}" for verdict, number in counts.items() if number)
    yield f"{count(len(models), 'model')}: {said}" if models else "No model was scanned."
    if document["not_scanned"]:
        yield f"not scanned: {document['not_scanned']}; the same command goes on with them"
    shown = [item for item in models if item["exit_code"] != 0 or item["verdict"] != "pass" or item["change"]]
    if len(models) <= MAX_ROWS:
        shown = models
    for item in shown[:MAX_ROWS]:
        change = f"  ({', '.join(item['change'])})" if item["change"] else ""
        name = f"{item['name']}: " if item["name"] else ""
        yield f"  {words[item['verdict']]:<10}  {visible(name + item['uri'])}{change}"
        reasons = item["reasons"]
        for reason in reasons[:MAX_REASONS]:
            yield f"              {shorten(visible(' '.join(filter(None, (reason['rule'], reason['message'])))), 120)}"
        more = len(reasons) - MAX_REASONS + item.get("more_reasons", 0)
        if more > 0:
            yield f"              and {count(more, 'more reason')}"
    if len(shown) > MAX_ROWS:
        yield f"  and {len(shown) - MAX_ROWS} more; -o html=PATH has them all"
    if document["since"] is not None:
        gone = document["since"]["gone"]
        yield f"since the earlier summary: {document['since']['changed']} changed" + (f", {len(gone)} no longer there" if gone else "")
