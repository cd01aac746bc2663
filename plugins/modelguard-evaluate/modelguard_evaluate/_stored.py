"""Triggers out of stored reports: what a search recovered, and its finding shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelguard import UsageError, load_report
from modelguard_evaluate._triggers import Phrase, Trigger, recovered

if TYPE_CHECKING:
    from modelguard import Finding, Report, RunnableModel
    from modelguard_evaluate._measure import Inputs


def from_report(path: Path, wanted: str, model: RunnableModel, inputs: Inputs) -> tuple[Trigger, int | None]:
    """The trigger of the finding ``wanted`` (its rule or fingerprint, or the beginning of either; of the only one where it is empty), and
    the class that it accuses. Raises :class:`UsageError`."""
    found = shown(load_report(path)[0])
    chosen = [item for item in found if any(name.startswith(wanted) for name in (item.rule, item.fingerprint or ""))]
    thing = f"--trigger {path.name}"
    if not found:
        raise UsageError(thing, "has no finding that shows a trigger as a patch or as a phrase", "give a picture and a mask")
    if len(chosen) != 1:
        listed = ", ".join(f"{item.rule} {item.fingerprint}" for item in (chosen or found)[:4])
        cause = f"has {len(chosen) or 'no'} findings {wanted}".rstrip() if wanted else f"has {len(found)} findings that show a trigger"
        raise UsageError(thing, cause, f"choose one with --finding: {listed}")
    return trigger_of(chosen[0], model, inputs, thing)


def shown(report: Report) -> list[Finding]:
    """The findings that show a trigger, as a patch or as a phrase."""
    return [item for _, item in report.findings() if _shows(item)]


def trigger_of(finding: Finding, model: RunnableModel, inputs: Inputs, thing: str) -> tuple[Trigger, int | None]:
    """The trigger that ``finding`` shows, and the class that it accuses. Raises :class:`UsageError` of ``thing``."""
    klass = finding.evidence.get("target_class")
    target = klass if isinstance(klass, int) else None
    if isinstance(inputs.samples, list):
        return Phrase(str(finding.evidence.get("phrase", ""))), target
    pictures = {item.name: item.data for item in finding.attachments}
    if not {"trigger", "mask"} <= set(pictures):
        raise UsageError(thing, f"{finding.rule} shows no patch", "choose a finding that does")
    name = thing.removeprefix("--trigger ")
    return recovered(pictures["trigger"], pictures["mask"], model.input, inputs.samples.shape[1:], name), target


def _shows(finding: Finding) -> bool:
    names = {item.name for item in finding.attachments}
    return {"trigger", "mask"} <= names or isinstance(finding.evidence.get("phrase"), str)
