"""``modelguard scan --lock``: the models that a lock pins, one after another."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from modelguard._cli._attest import Attester, AttestOptions
from modelguard._cli._looking import ended, looked
from modelguard._cli._options import OutputOptions, deliver, parse_outputs
from modelguard._lock.check import LockedSource
from modelguard._lock.file import DEFAULT, Lock, LockedModel, read_lock
from modelguard._scanner.prepare import Prepared, ScanArguments, prepare
from modelguard.errors import UsageError
from modelguard.policy import Policy, evaluate, load_policy
from modelguard.report import LockInfo


def scan_locked(
    asked: ScanArguments, names: tuple[str, ...], file: str | None, output: OutputOptions, attestation: AttestOptions, quiet: bool
) -> int:
    """Scan the models called ``names``, all for none, as the lock says; the exit code of the worst. Everything is checked first."""
    lock = read_lock(Path(file or DEFAULT))
    chosen = lock.chosen(names)
    _check_outputs(output, attestation, chosen)
    inputs = (str(lock.path), str(asked.policy or ""), str(asked.reference or ""), str(asked.samples or ""))
    attester = Attester.of(attestation, inputs)
    work = []
    for name, model in chosen.items():
        prepared = _prepared(asked, lock, model)
        mine = replace(output, outputs=tuple(item.replace("{name}", name) for item in output.outputs))
        if prepared.alone:
            Attester.of(attestation, inputs, prepared.alone)
        attested = None if attestation.attest is None else attestation.attest.replace("{name}", name)
        work.append((name, model, prepared, parse_outputs(mine, prepared.registry, inputs, attested)))
    codes = []
    for name, model, prepared, files in work:
        source = LockedSource(model)
        report, interrupted = looked(replace(prepared, request=replace(prepared.request, origin=source)), quiet)
        report = replace(report, lock=LockInfo(name, _shown(lock.path), lock.lines[name], source.differences))
        decision = evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date())
        kept = attester.write(report, decision, name)
        code = deliver(report, decision, prepared.registry, files, output)
        codes.append(3 if code == 0 and not kept else code)
        if interrupted:
            return ended(codes[-1], interrupted=True)
    return 1 if 1 in codes else max(codes)


def _shown(path: Path) -> str:
    """The lock as reports name it: by its path below the working directory, where code scanning finds it, else by its name alone."""
    whole, here = Path(os.path.realpath(path)), Path(os.path.realpath(Path.cwd()))
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else path.name


def _prepared(asked: ScanArguments, lock: Lock, model: LockedModel) -> Prepared:
    """What was said on the command line goes before what the lock says: whoever runs the gate may not trust who edits the lock."""
    named = asked.policy if asked.policy is not None else lock.policy(model)
    policy = named if isinstance(named, Policy) else load_policy(named)
    reference = asked.reference if asked.reference is not None else lock.reference(model)
    if reference is None and policy.provenance.base_model == "check":
        reference = lock.base_of(model)
    return prepare(replace(asked, target=model.pinned, policy=policy, reference=reference))


def _check_outputs(output: OutputOptions, attestation: AttestOptions, chosen: Mapping[str, LockedModel]) -> None:
    if len(chosen) < 2:
        return
    files = [*(f"-o {item}" for item in output.outputs), *([f"--attest {attestation.attest}"] if attestation.attest else [])]
    for item in files:
        if "{name}" not in item:
            raise UsageError(item, f"one file cannot hold {len(chosen)} reports", "write {name} where the model's name is to stand")
    if output.stdout_format != "console":
        remedy = f"name one model, or write -o {output.stdout_format}={{name}}.{output.stdout_format}"
        raise UsageError(f"--format {output.stdout_format}", f"one document cannot hold {len(chosen)} reports", remedy)
