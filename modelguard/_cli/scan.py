"""``modelguard scan``: artifact in, verdict out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import click

from modelguard._cli import _complete
from modelguard._cli._attest import Attester, AttestOptions, attest_options
from modelguard._cli._looking import ended, looked
from modelguard._cli._options import (
    OutputOptions,
    baseline_option,
    deliver,
    identity_option,
    model_options,
    output_options,
    parse_detector_options,
    parse_outputs,
    plugin_option,
    policy_option,
    print_answer,
    run_options,
    samples_option,
)
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._scanner.prepare import Prepared, RunOptions
    from modelguard.model import ModelOptions
    from modelguard.report import Decision, Report


@click.command("scan", short_help="Scan a model artifact and say whether it may be deployed.")
@click.argument("targets", nargs=-1, metavar="TARGET", shell_complete=_complete.files)
@click.option("--lock", "locked", is_flag=True, help="Scan what a lock file pins: TARGETs are names in it, none means all.")
@click.option("--lock-file", metavar="F", shell_complete=_complete.files, help="The lock file [modelguard.lock].")
@click.option(
    "--reference",
    metavar="R",
    shell_complete=_complete.files,
    help="A trusted artifact to compare with: path or hf://org/name@revision.",
)
@samples_option
@policy_option
@baseline_option
@identity_option
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="ID",
    shell_complete=_complete.detectors,
    help="Run only this detector, and require it. Repeatable.",
)
@click.option("--option", "options", multiple=True, metavar="ID.NAME=VALUE", help="Set a detector's option. Repeatable.")
@click.option(
    "--quick",
    is_flag=True,
    help="A shorter look: sets the option `quick` on every detector that has it and leaves out those that take long; misses more.",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="Time that all searches for backdoors may take together, such as 5m; each then says what it had no time for [policy's].",
)
@model_options
@run_options
@output_options
@attest_options
@plugin_option
@click.option("--plan", is_flag=True, help="Say which detectors would run and what the others lack, and stop.")
def command(
    targets: tuple[str, ...],
    locked: bool,
    lock_file: str | None,
    reference: str | None,
    samples: str | None,
    policy: str | None,
    baseline: str | None,
    identity: str | None,
    detectors: tuple[str, ...],
    options: tuple[str, ...],
    quick: bool,
    budget: str | None,
    model: ModelOptions,
    run: RunOptions,
    quiet: bool,
    output: OutputOptions,
    attestation: AttestOptions,
    without: tuple[str, ...],
    plan: bool,
) -> int:
    """Scan TARGET: a file, a folder, or hf://org/name[@revision][/path].

    Exit codes: 0 pass, 1 blocked by policy, 2 usage or policy-file error, 3 no verdict. Where --detector leaves out detectors that the
    policy requires, 0 says no more than that its rules object to nothing those named found.

    With --lock the models come from the lock, with its policies and references where none are given here. -o then takes {name} for a
    model's name, and the exit code is that of the worst.
    """
    from modelguard._scanner.prepare import ScanArguments, prepare

    if lock_file is not None and not locked:
        raise UsageError("--lock-file", "has no effect without --lock", "give --lock as well")
    if not locked and len(targets) != 1:
        if not targets:
            raise UsageError("scan", "names no model", "write for example `modelguard scan ./model` or `modelguard scan hf://org/name`")
        raise UsageError("scan", f"names {len(targets)} models", "name one, or several of a lock: `modelguard scan --lock NAME...`")
    target = targets[0] if targets else ""
    if plan and (output.outputs or output.stdout_format not in ("console", "json")):
        raise UsageError("--plan", "there is no report to write before the scan", "leave -o out; --format may be console or json")
    if plan and baseline is not None:
        raise UsageError("--baseline", "has no effect on a plan", "leave it out")
    earlier = None
    if baseline is not None:
        from modelguard.api import load_report

        earlier, _ = load_report(baseline)
    asked = ScanArguments(
        target=target,
        reference=reference,
        samples=samples,
        policy=policy,
        detectors=detectors or None,
        options=parse_detector_options(options),
        quick=quick,
        budget=budget,
        model=model,
        run=run,
        without=without,
        identity=identity,
        baseline=earlier,
    )
    if locked:
        from modelguard._cli._locked import scan_locked

        alone = {"--plan": plan, "--identity": identity is not None, "--baseline": baseline is not None}
        for name in (name for name, given in alone.items() if given):
            raise UsageError(name, "cannot be combined with --lock", "scan one model by its URI")
        return scan_locked(asked, targets, lock_file, output, attestation, quiet)
    prepared = prepare(asked)
    if plan:
        return _show_plan(prepared, output.stdout_format)
    inputs = (target, reference, samples, policy, baseline)
    return perform(prepared, output, inputs, quiet, Attester.of(attestation, inputs, prepared.alone))


class Beside(Protocol):
    """What a command writes beside its reports, to ``path``, if there is one; :meth:`write` says whether that was possible."""

    @property
    def path(self) -> str | None: ...

    def write(self, report: Report, decision: Decision) -> bool: ...


def perform(prepared: Prepared, output: OutputOptions, inputs: Iterable[str | None], quiet: bool, beside: Beside | None = None) -> int:
    """Scan, judge and deliver; the exit code. ``inputs`` are what the command reads, which no report may overwrite; ``beside`` writes
    another file."""
    import datetime

    from modelguard.policy import evaluate

    files = parse_outputs(output, prepared.registry, inputs, beside.path if beside is not None else None)
    report, interrupted = looked(prepared, quiet)
    today = datetime.datetime.now(datetime.UTC).date()
    decision = evaluate(report, prepared.policy, today, prepared.request.baseline)
    written = beside is None or beside.write(report, decision)
    code = deliver(report, decision, prepared.registry, files, output)
    return ended(3 if code == 0 and not written else code, interrupted=interrupted)


def _show_plan(prepared: Prepared, stdout_format: str) -> int:
    """Print the plan; exit 3 when the scan could not end in a pass: something the policy requires cannot run, or nothing is there."""
    from modelguard._reporters.escape import visible
    from modelguard._scanner.run import Silent

    described = prepared.describe(Silent())
    required = set(prepared.policy.required_for(reference=described.reference is not None, samples=prepared.request.samples is not None))
    if stdout_format == "json":
        steps = [
            {"detector": step.detector, "runnable": step.runnable, "required": step.detector in required, "reason": step.reason}
            for step in described.steps
        ]
        document = {
            "target": described.artifact.uri,
            "formats": list(described.facts.formats),
            "steps": steps,
            "failure": described.failure,
        }
        print_answer(json.dumps(document, indent=2))
    else:
        running = sum(step.runnable for step in described.steps)
        lines = [f"{visible(described.artifact.uri)}: {running} of {len(described.steps)} detectors would run"]
        if described.failure:
            lines.append(f"the scan would end without a verdict: {visible(described.failure)}")
        width = max((len(step.detector) for step in described.steps), default=0)
        for step in described.steps:
            mark = "required" if step.detector in required else ""
            lines.append(f"  {step.detector:<{width}}  {'run' if step.runnable else 'skip':<4}  {mark:<8}  {visible(step.reason)}".rstrip())
        print_answer("\n".join(lines))
    known = {step.detector for step in described.steps if step.runnable}
    return 0 if required <= known and not described.failure else 3
