"""``modelguard cache``: what lies in a Hugging Face cache already, and what is kept of earlier scans."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli._ending import Terminated
from modelguard._cli._looking import ended, tell_uncached
from modelguard._cli._options import plugin_option, policy_option, print_answer, quick_option, reports_folder, run_options
from modelguard._cli._streams import complain
from modelguard.errors import OutputError, UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import Prepared, RunOptions
    from modelguard._scanner.run import Progress
    from modelguard._sources.cached import Cached
    from modelguard.report import Decision, Report


@click.group("cache", short_help="Scan a Hugging Face cache; look after what is kept of scans.")
def command() -> None:
    """Scan a Hugging Face cache (scan), or look after what modelguard keeps of its own scans (stats, verify, clear).

    What is kept lies in MODELGUARD_CACHE [modelguard in the user's cache folder]; MODELGUARD_CACHE=off keeps nothing.
    """


def _own() -> Path:
    """Where outcomes are kept. Raises :class:`UsageError` where they are not."""
    from modelguard._cache.store import OFF, VARIABLE, folder

    if (place := folder()) is None:
        raise UsageError(f"{VARIABLE}={OFF}", "nothing is kept", f"unset {VARIABLE}, or name a folder in it")
    return place


@command.command("stats", short_help="What is kept of earlier scans.")
@click.option("-f", "--format", "stdout_format", type=click.Choice(["console", "json"]), default="console", help="Text or JSON [console].")
def stats(stdout_format: str) -> int:
    """Say where outcomes are kept, how many of each detector, and how large they are."""
    from modelguard._cache.store import DATABASE, Stats, Store
    from modelguard._reporters.escape import visible
    from modelguard._reporters.view import count

    place, found = _own(), Stats({}, 0, 0)
    if (place / DATABASE).exists():
        with Store(place) as store:
            found = store.stats()
    number = sum(found.kinds.values())
    if stdout_format == "json":
        print_answer(
            json.dumps({"folder": str(place), "entries": dict(found.kinds), "bytes": found.size, "on_disk": found.on_disk}, indent=2)
        )
        return 0
    size = f", {found.on_disk / 1e6:,.1f} MB on disk" if number else ""
    width = max(map(len, found.kinds), default=0)
    lines = [f"{visible(str(place))}: {count(number, 'entry', 'entries')}{size}"]
    print_answer("\n".join(lines + [f"  {visible(kind):<{width}}  {number:>8,}" for kind, number in found.kinds.items()]))
    return 0


@command.command("clear", short_help="Remove what is kept of earlier scans.")
def clear() -> int:
    """Remove every outcome that is kept, and the key that vouches for them. Scans then ask every detector again."""
    from modelguard._cache.store import clear as remove
    from modelguard._reporters.escape import visible

    place = _own()
    freed = remove(place)
    print_answer(f"{visible(str(place))}: {f'{freed / 1e6:,.1f} MB removed' if freed else 'there was nothing'}")
    return 0


@command.command("verify", short_help="Check what is kept of earlier scans.")
def verify() -> int:
    """Check the database and every entry in it. A scan takes only what its key vouches for in any case; what it does not is removed here.

    Exit codes: 0 all is well, 3 entries were removed, or the database cannot be read.
    """
    from modelguard._cache.store import DATABASE, Store
    from modelguard._reporters.escape import visible
    from modelguard._reporters.view import count

    place, good, bad = _own(), 0, 0
    if (place / DATABASE).exists():
        with Store(place) as store:
            good, bad = store.verify()
    said = f"; {count(bad, 'other')} removed, which somebody changed or wrote with another key" if bad else ""
    print_answer(f"{visible(str(place))}: {count(good, 'entry', 'entries')} good{said}")
    return 3 if bad else 0


@dataclass(frozen=True, slots=True)
class _Row:
    """A snapshot with what became of it; ``same`` is the earlier one whose files, blob for blob, it has."""

    snapshot: Cached
    report: Report
    decision: Decision
    same: Cached | None = None


@command.command("scan", short_help="Scan every snapshot in a Hugging Face cache.")
@click.argument("place", required=False, metavar="[CACHE]")
@policy_option
@quick_option
@click.option("--reports", metavar="DIR", help="Write the JSON report of each snapshot into this folder.")
@click.option("-f", "--format", "stdout_format", type=click.Choice(["console", "json"]), default="console", help="Table or JSON [console].")
@run_options
@plugin_option
def scan(
    place: str | None,
    policy: str | None,
    quick: bool,
    reports: str | None,
    stdout_format: str,
    run: RunOptions,
    quiet: bool,
    without: tuple[str, ...],
) -> int:
    """Scan every snapshot of a model in CACHE [HF_HUB_CACHE], without the network, and say which pass.

    A blob is hashed once, and snapshots with the same files are scanned once. Files of a snapshot that were never downloaded are no part
    of it. Exit codes are those of one scan: 1 if the policy blocks any, else 3 if there is no verdict for any, or no snapshot at all.
    """
    from modelguard._cli._progress import ProgressDisplay
    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard._sources.cached import others, snapshots

    cache = _cache(place)
    found = snapshots(cache)
    folder = reports_folder(reports)
    prepared = prepare(ScanArguments(target=str(cache), policy=policy, quick=quick, run=replace(run, offline=True), without=without))
    rows: list[_Row] = []
    interrupted = False
    try:
        with ProgressDisplay(quiet) as display:
            for row in _scanned(prepared, cache, found, display):
                rows.append(row)
    except Terminated:  # nobody waits for a table
        raise
    except KeyboardInterrupt:
        interrupted = True
    tell_uncached((row.report for row in rows), quiet)
    lost = False
    for row in rows if folder is not None else []:
        assert folder is not None
        try:
            _store(row, folder)
        except OutputError as error:
            lost = True
            complain(error)
    left = others(cache)
    unscanned = len(found) - len(rows)
    if stdout_format == "json":
        print_answer(json.dumps(_document(rows, left, unscanned), indent=2))
    else:
        print_answer("\n".join(_table(rows, left, unscanned)))
    codes = {row.decision.exit_code for row in rows} | ({3} if unscanned or not rows else set())
    code = 1 if 1 in codes else max(codes)
    return ended(3 if lost and code == 0 else code, interrupted=interrupted)


def _cache(named: str | None) -> Path:
    if named is not None:
        return Path(named)
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _scanned(prepared: Prepared, cache: Path, found: list[Cached], progress: Progress) -> Iterator[_Row]:
    """A row for each snapshot; Ctrl-C is raised once the row of the one that it interrupted was given."""
    from modelguard._scanner.scan import Interrupted
    from modelguard._sources.cached import CachedSource
    from modelguard.policy import evaluate

    source = CachedSource(cache)
    today = datetime.datetime.now(datetime.UTC).date()
    done: dict[tuple[str, tuple[tuple[str, str], ...]], _Row] = {}
    for snapshot in found:
        known = done.get((snapshot.repo_id, snapshot.files))
        if known is not None and snapshot.files:
            target = replace(known.report.target, uri=snapshot.uri, revision=snapshot.commit)
            report = replace(known.report, target=target)
        else:
            request = replace(prepared.request, target=snapshot.uri, origin=source)
            try:
                report = replace(prepared, request=request).scan(progress)
            except Interrupted as error:
                yield _Row(snapshot, error.report, evaluate(error.report, prepared.policy, today))
                raise
        row = _Row(snapshot, report, evaluate(report, prepared.policy, today), known.snapshot if known is not None else None)
        done.setdefault((snapshot.repo_id, snapshot.files), row)
        yield row


def _name(row: _Row) -> str:
    return f"{row.snapshot.repo_id.replace('/', '--')}@{row.snapshot.commit}.json"


def _store(row: _Row, folder: Path) -> None:
    from modelguard._reporters.json import JsonReporter
    from modelguard._reporters.output import write_atomically

    write_atomically(folder / _name(row), JsonReporter().render(row.report, row.decision))


def _document(rows: list[_Row], left: tuple[str, ...], unscanned: int) -> dict[str, Any]:
    return {
        "not_models": list(left),
        "not_scanned": unscanned,
        "snapshots": [
            {
                "uri": row.snapshot.uri,
                "refs": list(row.snapshot.refs),
                "files": len(row.snapshot.files),
                "same_files_as": row.same.uri if row.same is not None else None,
                "verdict": row.decision.verdict.value,
                "exit_code": row.decision.exit_code,
                "reasons": [{"rule": item.rule, "message": item.message, "blocks": item.blocks} for item in row.decision.violations],
                "report": _name(row),
            }
            for row in rows
        ],
    }


def _table(rows: list[_Row], left: tuple[str, ...], unscanned: int) -> Iterator[str]:
    """The answer first; then a row for each snapshot, the worst first, with its first reasons below it."""
    from modelguard._reporters.escape import visible
    from modelguard._reporters.view import answer, count, reasons

    words = [answer(row.report, row.decision) for row in rows]
    said = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    blobs = {blob for row in rows for _, blob in row.snapshot.files}
    models = {row.snapshot.repo_id for row in rows}
    if rows:
        yield f"{count(len(rows), 'snapshot')} of {count(len(models), 'model')}, {count(len(blobs), 'blob')}: {said}"
    elif not unscanned:
        yield "No snapshot of a model is in this cache; nothing was looked at."
    if unscanned:
        yield f"Not scanned: {count(unscanned, 'snapshot')}"
    width = max(map(len, words), default=0)
    order = {1: 0, 3: 1, 0: 2}
    for row, word in sorted(zip(rows, words, strict=True), key=lambda pair: order[pair[0].decision.exit_code]):
        refs = f" ({', '.join(map(visible, row.snapshot.refs))})" if row.snapshot.refs else ""
        yield f"  {word:<{width}}  {visible(row.snapshot.repo_id)}@{visible(row.snapshot.commit[:12])}{refs}"
        indent = " " * (width + 4)
        if row.same is not None:
            yield f"{indent}the same files as {visible(row.same.commit[:12])}"
            continue
        shown = reasons(row.report, row.decision)
        for item in shown[:3]:
            yield f"{indent}{item.rule} {visible(item.message)}"
        if len(shown) > 3:
            yield f"{indent}and {count(len(shown) - 3, 'more reason')}; --reports DIR has them"
    if left:
        yield f"Not looked at, because they are no models: {', '.join(map(visible, left))}"
