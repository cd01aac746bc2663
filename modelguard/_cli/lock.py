"""``modelguard lock``: pin models, check the pins, move them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelguard._cli._options import print_answer
from modelguard.errors import ModelguardError, UsageError

if TYPE_CHECKING:
    from modelguard._lock.file import Lock, LockedModel
    from modelguard._lock.pin import Pinned
    from modelguard.report import LockDifference

lock_option = click.option("--lock-file", "file", default="modelguard.lock", metavar="F", help="The lock file [modelguard.lock].")


@click.group("lock", short_help="Pin models to a commit and to the digest of every file.")
def command() -> None:
    """Keep a lock file: which models a project uses, each pinned to a commit and to size and sha256 of every file."""


@command.command("add", short_help="Add a model to the lock.")
@click.argument("uri", metavar="hf://ORG/NAME[@REV]")
@click.option("--name", required=True, metavar="NAME", help="What the model is called in the lock.")
@click.option("--policy", metavar="F", help="The policy that applies to it: builtin:NAME, or a path relative to the lock.")
@click.option("--reference", metavar="R", help="What it is compared with; on the Hub it is pinned to a commit too.")
@lock_option
def add(uri: str, name: str, policy: str | None, reference: str | None, file: str) -> int:
    """Pin the model that URI names now. Nothing is scanned: `modelguard scan --lock NAME` does that.

    Digests of large files are those that the Hub advertises; a scan compares the bytes with them. Exit codes: 0 written, 2 usage error,
    3 the Hub could not be asked.
    """
    from modelguard._lock.file import HEAD, LockedModel, parse_lock, read_lock, written
    from modelguard._lock.pin import pin

    path = Path(file)
    lock = read_lock(path) if path.exists() else parse_lock(path, HEAD)
    if name in lock.models:
        raise UsageError(f"{file}: {name}", "is in the lock", f"`modelguard lock update {name}` moves it; or choose another name")
    _check_entry(lock, uri, name, policy, reference)
    pinned = pin(uri)
    model = LockedModel(
        uri=uri,
        commit=pinned.commit,
        licence=pinned.card.licence,
        base_model=" ".join(pinned.card.base_models) or None,
        policy=policy,
        reference=_pinned_reference(reference),
        files=dict(pinned.files),
    )
    written(lock, name, model)
    print_answer(f"{name}: {_said(model)}, added to {file}")
    return 0


@command.command("verify", short_help="Check that the models are what the lock says.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--format", "stdout_format", type=click.Choice(["console", "json"]), default="console", help="Lines or JSON [console].")
@lock_option
def verify(names: tuple[str, ...], stdout_format: str, file: str) -> int:
    """Ask the Hub whether each model is as it was locked: the tag's commit, and size and digest of every file. Nothing is scanned.

    Exit codes: 0 all as locked, 1 something is not, 2 usage error, 3 something could not be compared.
    """
    from modelguard._lock.file import read_lock

    lock = read_lock(Path(file))
    found = {name: _verified(model) for name, model in lock.chosen(names).items()}
    if stdout_format == "json":
        document = {
            name: [{"rule": item.rule, "subject": item.subject, "message": item.message, "blocks": item.blocks} for item in items]
            for name, items in found.items()
        }
        print_answer(json.dumps(document, indent=2))
    else:
        print_answer("\n".join(line for name, items in found.items() for line in _lines(lock, name, items)))
    differences = [item for items in found.values() for item in items]
    return 1 if any(item.blocks for item in differences) else 3 if differences else 0


@command.command("diff", short_help="Show what a model has become since it was locked.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--no-weights", is_flag=True, help="Compare digests alone, not the weights.")
@lock_option
def diff(names: tuple[str, ...], no_weights: bool, file: str) -> int:
    """Compare what is locked with what the model's uri names now: commit, files, licence, and what was done to the weights.

    Exit codes: 0 nothing is different, 1 something is, 2 usage error, 3 not compared.
    """
    from modelguard._lock.file import read_lock

    lock = read_lock(Path(file))
    codes = [_show(_change(name, model, model.uri), weights=not no_weights) for name, model in lock.chosen(names).items()]
    return 3 if 3 in codes else max(codes)


@command.command("update", short_help="Take a model as it is now into the lock.")
@click.argument("name")
@click.option("--uri", metavar="URI", help="Another revision or place to take it from.")
@click.option("--no-weights", is_flag=True, help="Do not compare the weights of the two commits.")
@lock_option
def update(name: str, uri: str | None, no_weights: bool, file: str) -> int:
    """Show what NAME has become, what was done to its weights between the two commits, and write it to the lock.

    The lock is not written where the two could not be compared (--no-weights writes it all the same). Exit codes: 0 written, or nothing to
    write; 2 usage error; 3 not compared, or the Hub could not be asked.
    """
    from modelguard._lock.file import read_lock, written

    lock = read_lock(Path(file))
    model = lock.chosen((name,))[name]
    target = uri or model.uri
    _check_entry(lock, target, name, None, None)
    change = _change(name, model, target)
    code = _show(change, weights=not no_weights)
    if code == 3:
        print_answer(f"{name}: not written, because the two commits could not be compared; --no-weights writes it all the same")
        return 3
    new = change.new
    if new == model:
        return 0
    written(lock, name, new)
    print_answer(f"{name}: {_said(new)}, written to {file}; `modelguard scan --lock {name}` scans it")
    return 0


@dataclass(frozen=True, slots=True)
class _Change:
    """A model as it is locked, and as it is now."""

    name: str
    old: LockedModel
    new: LockedModel


def _change(name: str, model: LockedModel, uri: str) -> _Change:
    from modelguard._lock.pin import pin

    pinned = pin(uri)
    values = {
        "uri": uri,
        "commit": pinned.commit,
        "licence": pinned.card.licence,
        "base_model": " ".join(pinned.card.base_models) or None,
        "files": dict(pinned.files),
    }
    return _Change(name, model, model.model_copy(update=values))


def _show(change: _Change, *, weights: bool) -> int:
    """Print what is different; 0 for nothing, 1 for something, 3 where the weights could not be compared."""
    from modelguard._reporters.escape import visible

    old, new, name = change.old, change.new, change.name
    if new == old:
        print_answer(f"{name}: as locked, {_said(old)}")
        return 0
    lines = [f"{name}: {visible(new.uri)}"]
    for what in ("uri", "commit", "licence", "base_model"):
        before, now = getattr(old, what), getattr(new, what)
        if before != now:
            lines.append(f"  {what.replace('_', ' '):<11} {visible(before or 'none')} -> {visible(now or 'none')}")
    for path in sorted({*old.files, *new.files}):
        was, is_ = old.files.get(path), new.files.get(path)
        if was != is_:
            word = "added" if was is None else "removed" if is_ is None else "changed"
            sizes = " -> ".join(f"{item.size:,}" for item in (was, is_) if item is not None)
            lines.append(f"  {word:<11} {visible(path)} ({sizes} bytes)")
    print_answer("\n".join(lines))
    if not weights or old.files == new.files:
        return 1
    print_answer("")
    return 1 if _diffed(old, new) else 3


def _diffed(old: LockedModel, new: LockedModel) -> bool:
    """Print what was done to the weights between the two commits; whether they could be compared."""
    import datetime

    from modelguard._cli.diff import DETECTORS
    from modelguard._reporters.diff import DiffReporter
    from modelguard._scanner.prepare import ScanArguments, prepare
    from modelguard._scanner.run import Silent
    from modelguard.policy import evaluate
    from modelguard.report import Status

    prepared = prepare(ScanArguments(target=new.pinned, reference=old.pinned, detectors=DETECTORS, by_range=True, digest=False))
    report = prepared.scan(Silent())
    decision = evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date())
    print_answer(DiffReporter.for_stream(sys.stdout).render(report, decision), nl=False)
    return not report.failure and all(item.status is Status.COMPLETED for item in report.outcomes)


def _verified(model: LockedModel) -> list[LockDifference]:
    from modelguard._lock.check import differing, moved
    from modelguard._lock.pin import pin
    from modelguard._policies.rules import LOCK_NOT_CHECKED
    from modelguard._sources.hub import HubSource
    from modelguard.report import LockDifference

    hub = HubSource()
    found = list(moved(model, hub, offline=hub.offline))
    try:
        pinned: Pinned = pin(model.pinned)
    except ModelguardError as error:
        said = f"could not be compared with the lock: {error.cause}; {error.remedy}"
        return [*found, LockDifference(LOCK_NOT_CHECKED.id, model.pinned, said, blocks=False)]
    return [*found, *differing(model, {path: (file.size, f"sha256:{file.sha256}") for path, file in pinned.files.items()})]


def _lines(lock: Lock, name: str, differences: list[LockDifference]) -> list[str]:
    from modelguard._reporters.escape import visible

    if not differences:
        return [f"{name}: as locked, {_said(lock.models[name])}"]
    head = f"{lock.path}:{lock.lines[name]}: {name} is not as it was locked"
    if not any(item.blocks for item in differences):
        head = f"{lock.path}:{lock.lines[name]}: {name} could not be compared with the lock"
    return [head, *(f"  {item.rule} {visible(item.subject)}: {visible(item.message)}" for item in differences)]


def _said(model: LockedModel) -> str:
    size = sum(item.size for item in model.files.values())
    return f"{model.uri} at {model.commit}, {len(model.files)} files, {size / 1e6:,.1f} MB, licence {model.licence or 'not said'}"


def _check_entry(lock: Lock, uri: str, name: str, policy: str | None, reference: str | None) -> None:
    """Refuse what the lock could not hold, or nobody could read, before the Hub is asked."""
    from pydantic import TypeAdapter, ValidationError

    from modelguard._lock.file import Name
    from modelguard._sources.hub_uri import HubUri
    from modelguard.policy import load_policy

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(f"--name {name}", "must be letters, digits, dots, - and _, at most 64", "write for example encoder") from None
    if not uri.startswith("hf://"):
        raise UsageError(uri, "is not on the Hub, and only models there are pinned", "write hf://org/name[@revision]")
    HubUri.parse(uri)
    if policy is not None:
        load_policy(lock.beside(policy))
    if reference is not None and "://" not in reference and not Path(lock.beside(reference)).exists():
        raise UsageError(f"--reference {reference}", "does not exist beside the lock", "name a path relative to it, or hf://org/name")
    if lock.path.parent != Path() and not lock.path.parent.is_dir():
        raise UsageError(str(lock.path), f"the folder {lock.path.parent} does not exist", "create it first")


def _pinned_reference(reference: str | None) -> str | None:
    """A reference on the Hub at the commit that it means now."""
    from modelguard._sources.hub import HubSource
    from modelguard._sources.hub_uri import HubUri

    if reference is None or not reference.startswith("hf://"):
        return reference
    return HubUri.parse(reference).at(HubSource().commit(reference))
