"""``modelguard policy``: check, show and try out policy files."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from modelguard._cli import _complete
from modelguard._cli._options import baseline_option, plugin_option, policy_option, print_answer
from modelguard._cli._stored import judge_again, today_option
from modelguard._cli._streams import complain

if TYPE_CHECKING:
    from modelguard.report import Decision, Report


@click.group("policy", short_help="Write, validate, show and evaluate policy files.")
def command() -> None:
    """Policy files say what is acceptable. POLICY is a path or builtin:NAME."""


@command.command("init")
@click.argument("path", default="modelguard-policy.yaml", metavar="[FILE]", shell_complete=_complete.files)
def init(path: str) -> int:
    """Write a commented policy to FILE [modelguard-policy.yaml], to be edited. A file that is there already is left alone."""
    from importlib import resources

    from modelguard._reporters.escape import visible
    from modelguard.errors import UsageError

    body = (resources.files("modelguard._cli") / "policy_init.yaml").read_text(encoding="utf-8")
    body = body.replace("THIS_FILE", visible(os.path.basename(path)))
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(body)
    except FileExistsError:
        raise UsageError(path, "is there already", "name another file") from None
    except (OSError, ValueError) as error:
        raise UsageError(path, f"cannot be written ({getattr(error, 'strerror', None) or error})", "name another file") from error
    print_answer(f"wrote {visible(path)}: edit it, then `modelguard scan MODEL --policy {visible(path)}`")
    return 0


@command.command("validate")
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...", shell_complete=_complete.policies)
@plugin_option
def validate(policies: tuple[str, ...], without: tuple[str, ...]) -> int:
    """Check policy files, their parents, every name they use and every detector option they set; exit 2 when one is wrong."""
    from modelguard._plugins import load
    from modelguard._reporters.escape import visible
    from modelguard.errors import PolicyError
    from modelguard.policy import load_policy

    registry = load(disabled=without)
    rules, failed = registry.rules(), False
    for name in policies:
        try:
            policy = load_policy(name)
            policy.check(rules, registry.detectors)
        except PolicyError as error:
            complain(error)
            failed = True
        else:
            print_answer(f"{visible(name)}: valid, {policy.name}, sha256 {policy.sha256}")
    return 2 if failed else 0


@command.command("show")
@click.argument("policy", default="builtin:baseline", shell_complete=_complete.policies)
@click.option("--resolved", is_flag=True, help="Merge the parents in, and say where each part comes from.")
def show(policy: str, resolved: bool) -> int:
    """Print POLICY as written, or as it is applied once its parents are merged."""
    from modelguard._policies.load import read_text, resolve
    from modelguard._policies.show import render_resolved

    merged = resolve(policy)
    print_answer(render_resolved(merged) if resolved else read_text(policy), nl=False)
    return 0


@command.command("eval")
@click.argument("report", metavar="REPORT.json", shell_complete=_complete.files)
@policy_option
@baseline_option
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@today_option
@plugin_option
def evaluate(
    report: str, policy: str | None, baseline: str | None, as_json: bool, today: datetime.datetime | None, without: tuple[str, ...]
) -> int:
    """Judge a stored report: print the decision, every line with its reason, and exit with its code."""
    from modelguard._plugins import load
    from modelguard._reporters.json import dump, report_document
    from modelguard.api import load_report
    from modelguard.errors import OutputError

    stored, _ = load_report(report)
    judged, decision = judge_again(stored, policy, load(disabled=without), today, baseline)
    if as_json:
        document = report_document(judged, decision)
        answer = dump({"policy": document["policy"], "decision": document["decision"]})
    else:
        answer = "".join(f"{line}\n" for line in _lines(judged, decision))
    try:
        print_answer(answer, nl=False)
    except OutputError as error:
        complain(error)
        return decision.exit_code or error.exit_code  # that nobody was told is no pass, and hides no violation
    return decision.exit_code


def _lines(judged: Report, decision: Decision) -> Iterator[str]:
    from modelguard._reporters.escape import visible

    enforced = "" if decision.enforced else " (policy in report mode: not enforced)"
    yield f"{decision.verdict.value}: {visible(judged.target.uri)}, policy {judged.policy.name}, sha256 {judged.policy.sha256}{enforced}"
    for violation in decision.violations:
        yield f"  {'blocks' if violation.blocks else 'incomplete'}  {violation.rule}  {visible(violation.message)}"
    messages = {finding.fingerprint: finding for _, finding in judged.findings()}
    for name in decision.warnings:
        yield f"  warns  {messages[name].rule}  {visible(messages[name].message)}"
    for name in decision.known:
        yield f"  known  {messages[name].rule}  {visible(messages[name].message)}"
    for waiver in decision.waived:
        yield f"  waived  {waiver.rule}  {visible(waiver.reason)} ({visible(waiver.owner)}, until {waiver.expires})"
    for note in decision.notes:
        yield f"  note  {visible(note)}"
