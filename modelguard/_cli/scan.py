"""``modelguard scan``: artifact in, verdict out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelguard._cli._options import (
    choose_detectors,
    chosen_model,
    deliver,
    existing_path,
    load_registry,
    model_options,
    output_options,
    parse_detector_options,
    parse_memory,
    parse_outputs,
    plugin_option,
    print_answer,
    run_options,
    thread_count,
)
from modelguard.errors import UsageError

if TYPE_CHECKING:
    from modelguard._plugins import Registry
    from modelguard._scanner.scan import Request
    from modelguard.policy import Policy
    from modelguard.report import Decision, Report


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a scan needs, checked before anything is downloaded or opened."""

    request: Request
    registry: Registry
    policy: Policy
    outputs: tuple[tuple[str, Path], ...]
    stdout_format: str
    quiet: bool


@click.command("scan", short_help="Scan a model artifact and say whether it may be deployed.")
@click.argument("target")
@click.option("--reference", metavar="R", help="A trusted artifact to compare with: path or hf://org/name@revision.")
@click.option("--samples", metavar="F", help="Clean inputs: .npz, .safetensors, .jsonl, or a folder of images.")
@click.option("--policy", metavar="F", help="Policy file, or builtin:NAME [builtin:baseline].")
@click.option("--detector", "detectors", multiple=True, metavar="ID", help="Run only this detector, and require it. Repeatable.")
@click.option("--option", "options", multiple=True, metavar="ID.NAME=VALUE", help="Set a detector's option. Repeatable.")
@click.option(
    "--quick",
    is_flag=True,
    help="A shorter look: sets the option `quick` on every detector that has it and leaves out those that take long; misses more.",
)
@model_options
@run_options
@output_options
@plugin_option
@click.option("--plan", is_flag=True, help="Say which detectors would run and what the others lack, and stop.")
def command(target: str, plan: bool, **given: Any) -> int:
    """Scan TARGET: a file, a folder, or hf://org/name[@revision][/path].

    Exit codes: 0 pass, 1 blocked by policy, 2 usage or policy-file error, 3 no verdict.
    """
    prepared = prepare(target, **given)
    if plan:
        if prepared.outputs or prepared.stdout_format not in ("console", "json"):
            raise UsageError("--plan", "there is no report to write before the scan", "leave -o out; --format may be console or json")
        return _show_plan(prepared)
    report, decision = perform(prepared)
    return deliver(report, decision, prepared.registry, prepared.outputs, prepared.stdout_format)


def prepare(
    target: str,
    *,
    reference: str | None,
    samples: str | None = None,
    policy: str | None = None,
    detectors: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    quick: bool = False,
    factory: str | None = None,
    input_spec: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    seed: int,
    timeout: float,
    memory: str | None,
    threads: int | None,
    offline: bool,
    quiet: bool,
    outputs: tuple[str, ...],
    stdout_format: str,
    plugins: tuple[str, ...],
    digest: bool = True,
    by_range: bool = False,
) -> Prepared:
    """Check everything the user said. Raises :class:`UsageError`, before any download, naming what is wrong."""
    from modelguard._scanner.protocol import Limits
    from modelguard._scanner.scan import Request
    from modelguard.artifact import SourceContext
    from modelguard.detector import configure
    from modelguard.policy import load_policy

    rules = load_policy(policy)
    registry = load_registry(plugins, rules.allows_plugin)
    rules.check(registry.rules(), registry.detectors)
    chosen = choose_detectors(detectors, registry)
    if detectors:
        rules = rules.requiring([detector.id for detector in chosen])
    values = {name: dict(item) for name, item in rules.detectors.options.items() if name in registry.detectors}
    if quick:
        for detector in chosen:
            if detector.when_quick == "shorter":
                values.setdefault(detector.id, {})["quick"] = True
    for name, item in parse_detector_options(options, registry.detectors).items():
        values.setdefault(name, {}).update(item)
    for name, item in values.items():
        configured = configure(registry.detectors[name], item)
        values[name] = {option: getattr(configured, option) for option in item}
    files = parse_outputs(outputs, stdout_format, registry, (target, reference, samples, policy))
    request = Request(
        target=target,
        detectors=chosen,
        reference=reference,
        samples=existing_path(samples, "--samples"),
        model=chosen_model(factory, input_spec, device, precision, threads),
        options=values,
        timeouts={name: float(seconds) for name, seconds in rules.detectors.timeouts.items()},
        timeout=timeout,
        seed=seed,
        limits=Limits(memory=parse_memory(memory), threads=thread_count(threads)),
        source=SourceContext(offline=offline, digest=digest),
        quick=quick,
        by_range=by_range,
    )
    return Prepared(request, registry, rules, files, stdout_format, quiet)


def perform(prepared: Prepared) -> tuple[Report, Decision]:
    """Scan and judge."""
    import datetime
    from dataclasses import replace

    from modelguard._cli._progress import ProgressDisplay
    from modelguard._scanner.scan import scan
    from modelguard.policy import evaluate

    with ProgressDisplay(prepared.quiet) as display:
        request = replace(prepared.request, source=replace(prepared.request.source, progress=display.bytes))
        report = scan(request, prepared.registry, prepared.policy.info, display)
    return report, evaluate(report, prepared.policy, datetime.datetime.now(datetime.UTC).date())


def _show_plan(prepared: Prepared) -> int:
    """Print the plan; exit 3 when the scan could not end in a pass: something the policy requires cannot run, or nothing is there."""
    from modelguard._reporters.escape import visible
    from modelguard._scanner.run import Silent
    from modelguard._scanner.scan import describe

    described = describe(prepared.request, prepared.registry, Silent())
    required = set(prepared.policy.required_for(reference=described.reference is not None, samples=prepared.request.samples is not None))
    if prepared.stdout_format == "json":
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
