"""JSON: the contract. ``docs/report.md`` describes it, ``modelguard schema report`` publishes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modelguard._schemas.display import read_shows, write_shows
from modelguard._schemas.finding import read_finding, write_finding
from modelguard.artifact import LeftOut
from modelguard.errors import UsageError
from modelguard.findings import Rule, Severity
from modelguard.report import (
    SCHEMA,
    Decision,
    FileInfo,
    LockDifference,
    LockInfo,
    Outcome,
    PluginFailure,
    PluginInfo,
    PolicyInfo,
    Report,
    Reporter,
    SamplesInfo,
    Status,
    TargetInfo,
    Verdict,
    Violation,
    Waived,
)

if TYPE_CHECKING:
    from modelguard._schemas.report import LockDocument, ReportDocument, TargetDocument


class JsonReporter(Reporter):
    """The whole report in canonical form: keys and lists sorted, two spaces, UTF-8, finite numbers."""

    format = "json"

    def render(self, report: Report, decision: Decision) -> str:
        return dump(report_document(report, decision))


def dump(document: Mapping[str, Any]) -> str:
    """``document`` as canonical JSON text. Raises ``ValueError`` for a number that is not finite."""
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    # Legal in JSON and harmful where a report is looked at: DEL, C1 controls, bidi and zero-width characters, line separators.
    text = text.translate({ord(char): _escaped(char) for char in set(text) if not char.isprintable() and char != "\n"})
    # What the log of a GitHub or Azure job would take for a command anywhere in a line; JSON has these characters in strings only.
    return text.replace("##[", "#\\u0023[").replace("##vso[", "#\\u0023vso[") + "\n"


def _escaped(char: str) -> str:
    if "\ud800" <= char <= "\udfff":
        # An undecodable byte of a file name is neither UTF-8 nor an escape that every JSON parser takes: it becomes visible text.
        return f"\\\\u{ord(char):04x}"
    return json.dumps(char)[1:-1]


def report_document(report: Report, decision: Decision) -> dict[str, Any]:
    """The report as plain JSON values, in canonical order."""
    return {
        "schema": SCHEMA,
        "tool": {"name": "modelguard", "version": report.tool_version},
        "target": _target(report.target),
        "reference": _target(report.reference) if report.reference is not None else None,
        "samples": asdict(report.samples) if report.samples is not None else None,
        "model": dict(report.model) if report.model is not None else None,
        "policy": {**asdict(report.policy), "alone": list(report.policy.alone)},
        "plugins": [{"name": item.name, "version": item.version, "detectors": sorted(item.detectors)} for item in report.plugins],
        "plugin_failures": [asdict(item) for item in report.plugin_failures],
        "seed": report.seed,
        "options": {name: dict(item) for name, item in report.options.items()},
        "failure": report.failure,
        "self_reference": report.self_reference,
        "lock": asdict(report.lock) if report.lock is not None else None,
        "confinement": sorted(report.confinement),
        "rules": [{**asdict(rule), "severity": rule.severity.label} for rule in report.rules],
        "shows": {detector: write_shows(items) for detector, items in report.shows.items()},
        "outcomes": [
            {
                "detector": outcome.detector,
                "status": outcome.status.value,
                "reason": outcome.reason,
                "summary": dict(outcome.summary),
                "findings": [write_finding(finding) for finding in outcome.findings],
            }
            for outcome in report.outcomes
        ],
        "decision": {
            "verdict": decision.verdict.value,
            "violations": [asdict(item) for item in decision.violations],
            "warnings": list(decision.warnings),
            "waived": [asdict(item) for item in decision.waived],
            "notes": list(decision.notes),
            "known": list(decision.known),
            "enforced": decision.enforced,
            "exit_code": decision.exit_code,
        },
        "timings": dict(report.timings),
    }


def _target(target: TargetInfo) -> dict[str, Any]:
    return {
        "uri": target.uri,
        "identity": target.identity,
        "revision": target.revision,
        "format": list(target.format),
        "files": [asdict(file) for file in target.files],
        "unread": list(target.unread),
        "notes": list(target.notes),
        "left_out": [asdict(item) for item in target.left_out],
        "licence": target.licence,
        "base_models": list(target.base_models),
        "card": target.card,
    }


def report_from_json(text: str, name: str = "report") -> tuple[Report, Decision]:
    """A stored report and the decision it was stored with. ``name`` is what errors call it.

    Strict: duplicate or unknown keys, NaN, wrong types raise :class:`UsageError`. ``Finding.key`` is not stored and comes back empty.
    """
    from pydantic import ValidationError

    from modelguard._schemas.report import ReportDocument

    remedy = "give a report written by `modelguard scan -o json=PATH`"
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise UsageError(name, f"is not valid JSON ({error})", remedy) from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise UsageError(name, f"is not a {SCHEMA} document (schema: {found!r})", remedy)
    try:
        document = ReportDocument.model_validate(data)
        return _report(document), _decision(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        cause = "unknown key, so it may come from a newer modelguard" if first["type"] == "extra_forbidden" else first["msg"]
        raise UsageError(name, f"{place}: {cause}", remedy) from None
    except ValueError as error:
        raise UsageError(name, f"an attachment is not base64 ({error})", remedy) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} is given twice")
    return found


def _not_finite(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def _report(document: ReportDocument) -> Report:
    return Report(
        tool_version=document.tool.version,
        target=_target_info(document.target),
        reference=_target_info(document.reference) if document.reference is not None else None,
        samples=SamplesInfo(**document.samples.model_dump()) if document.samples is not None else None,
        policy=PolicyInfo(document.policy.name, document.policy.sha256, tuple(document.policy.alone)),
        plugins=tuple(PluginInfo(item.name, item.version, tuple(item.detectors)) for item in document.plugins),
        plugin_failures=tuple(PluginFailure(item.name, item.distribution, item.reason) for item in document.plugin_failures),
        seed=document.seed,
        outcomes=tuple(
            Outcome(
                item.detector,
                Status(item.status),
                item.reason,
                item.summary,
                tuple(read_finding(finding.model_dump()) for finding in item.findings),
            )
            for item in document.outcomes
        ),
        rules=tuple(Rule(**{**item.model_dump(), "severity": Severity.parse(item.severity)}) for item in document.rules),
        options=document.options,
        shows={detector: read_shows(item.model_dump()) for detector, item in document.shows.items()},
        model=document.model,
        failure=document.failure,
        self_reference=document.self_reference,
        lock=_lock(document.lock) if document.lock is not None else None,
        confinement=tuple(document.confinement),
        timings=document.timings,
    )


def _lock(lock: LockDocument) -> LockInfo:
    return LockInfo(lock.name, lock.file, lock.line, tuple(LockDifference(**item.model_dump()) for item in lock.differences))


def _target_info(target: TargetDocument) -> TargetInfo:
    return TargetInfo(
        uri=target.uri,
        identity=target.identity,
        revision=target.revision,
        format=tuple(target.format),
        files=tuple(FileInfo(file.path, file.size, file.sha256, file.what) for file in target.files),
        unread=tuple(target.unread),
        notes=tuple(target.notes),
        left_out=tuple(LeftOut(item.path, item.files, item.reason) for item in target.left_out),
        licence=target.licence,
        base_models=tuple(target.base_models),
        card=target.card,
    )


def _decision(document: ReportDocument) -> Decision:
    decision = document.decision
    return Decision(
        verdict=Verdict(decision.verdict),
        violations=tuple(Violation(**item.model_dump()) for item in decision.violations),
        warnings=tuple(decision.warnings),
        waived=tuple(Waived(**item.model_dump()) for item in decision.waived),
        notes=tuple(decision.notes),
        enforced=decision.enforced,
        known=tuple(decision.known),
    )
