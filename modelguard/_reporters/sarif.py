"""SARIF 2.1.0 (OASIS, errata 01) for GitHub code scanning and its like.

What shapes it, beyond the standard: GitHub refuses a file in which one result has no physical location, or a location has an
absolute URI; reads rules only from ``tool.driver``, a security severity only beside the tag ``security``, a category only before a
slash; shows suppressed results as open. Reading tools hash the text lines a region names, and the standard forbids text regions in
binary files (3.30.1), so a result points at the whole file and its byte range is a related location. Consumers see an incomplete
run only if it says so twice: ``executionSuccessful`` and a result of its own (standard, appendix I).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from modelguard._policies.rules import JUDGEMENT_RULES, PLUGIN_FAILED, SOURCE_UNREAD, STATUS_RULES
from modelguard._reporters.escape import shorten, visible
from modelguard._reporters.json import dump
from modelguard._reporters.places import Places
from modelguard._reporters.view import left_out
from modelguard.findings import Confidence, Finding, Location, Rule, Severity, fingerprint
from modelguard.report import CORE, Decision, LockInfo, Report, Reporter, Status, Verdict, Violation

HOME = "https://pypi.org/project/modelguard-core/"
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVEL: Mapping[Severity, str] = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
    Severity.INFO: "note",
}
# GitHub's bands: above 9.0 critical, 7.0 high, 4.0 medium, above 0.0 low.
_SCORE: Mapping[Severity, str] = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.5",
    Severity.LOW: "2.0",
    Severity.INFO: "0.1",
}
_FOLDER = "The folder modelguard was run in, taken to be the root of the repository."
_NOTIFICATIONS = {*STATUS_RULES.values(), SOURCE_UNREAD, PLUGIN_FAILED}


class SarifReporter(Reporter):
    """One run, one result per finding and per other reason why the verdict is not pass. Waived findings are left out."""

    format = "sarif"

    def render(self, report: Report, decision: Decision) -> str:
        return dump({"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(report, decision)]})


@dataclass(frozen=True)
class _Places:
    """Where the files of the target are, as URIs relative to ``base``."""

    places: Places
    base: str
    index: Mapping[str, int]

    @classmethod
    def of(cls, report: Report) -> _Places:
        places = Places.of(report)
        base = "%SRCROOT%" if places.in_repository else "ARTIFACT"
        return cls(places, base, {file.path: n for n, file in enumerate(report.target.files)})

    def location(self, path: str | None) -> dict[str, Any]:
        """The artifactLocation of an artifact-relative path, or of the artifact for None."""
        # Percent-encoding all but the unreserved characters leaves no scheme, no drive letter and no query to be read into a name.
        uri = "/".join(quote(part.encode("utf-8", "backslashreplace"), safe="") for part in self.places.parts(path))
        path = self.places.fallback if path is None else path
        index = {"index": self.index[path]} if path in self.index else {}
        return {"uri": uri, "uriBaseId": self.base, **index}


def _run(report: Report, decision: Decision) -> dict[str, Any]:
    places = _Places.of(report)
    waived = {(item.rule, item.fingerprint) for item in decision.waived}
    findings = [(detector, item) for detector, item in report.findings() if (item.rule, item.fingerprint) not in waived]
    others = [item for item in decision.violations if item.kind != "finding"]
    rules = _rules(report, [finding for _, finding in findings], others)
    number = {rule.id: n for n, rule in enumerate(rules)}
    refused = {item.subject for item in decision.violations if item.kind in ("finding", "waiver")}
    results = [_finding_result(report, places, number, detector, finding, finding.fingerprint in refused) for detector, finding in findings]
    results += [_violation_result(report, places, number, item) for item in others]
    if report.lock is not None:
        results = [_at_lock(report.lock, result) for result in results]
    target = report.target
    return {
        "tool": {
            "driver": {
                "name": "modelguard",
                "informationUri": HOME,
                "fullName": f"modelguard {visible(report.tool_version)}",
                "semanticVersion": visible(report.tool_version),
                "rules": [_rule(rule, [finding for _, finding in findings]) for rule in rules],
                "notifications": [_descriptor(rule) for rule in _notification_rules()],
            },
            "extensions": [{"name": name, "version": version} for name, version in _extensions(report)],
        },
        "policies": [{"name": visible(report.policy.name) or "policy", "properties": {"sha256": report.policy.sha256}}],
        "automationDetails": {"id": f"modelguard/{_category(target.identity or target.uri)}/"},
        "originalUriBaseIds": _bases(report, places),
        "invocations": [_invocation(report, decision)],
        "artifacts": [
            {
                "location": places.location(file.path),
                "length": file.size,
                "roles": ["analysisTarget"],
                **({"hashes": {"sha-256": file.sha256}} if file.sha256 else {}),
            }
            for file in target.files
        ],
        "results": _distinct(results),
        "properties": {
            "verdict": decision.verdict.value,
            "enforced": decision.enforced,
            "waived": len(decision.waived),
            "target": {"uri": visible(target.uri), "revision": target.revision and visible(target.revision)},
        },
    }


def _extensions(report: Report) -> list[tuple[str, str]]:
    """Name and version of every plugin; SARIF wants them distinct."""
    return sorted({(visible(item.name), visible(item.version)) for item in report.plugins if item.name != CORE})


def _finding_result(
    report: Report, places: _Places, number: Mapping[str, int], detector: str, finding: Finding, refused: bool
) -> dict[str, Any]:
    place = finding.location
    severity = report.severity(finding)
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": places.location(place.file)}}
    if place.tensor is not None:
        tensor = visible(place.tensor)
        full = f"{visible(place.file)}#{tensor}" if place.file else tensor
        location["logicalLocations"] = [{"name": tensor, "fullyQualifiedName": full, "kind": "tensor"}]
    result = {
        "ruleId": finding.rule,
        "ruleIndex": number[finding.rule],
        "kind": "fail",
        "level": "error" if refused else _LEVEL[severity],
        "message": {"text": _message(finding.message)},
        "locations": [location],
        "partialFingerprints": _fingerprints(finding.fingerprint),
        "properties": {"detector": visible(detector), "severity": severity.label, "confidence": finding.confidence.label},
    }
    if place.byte_offset is not None and place.file is not None:
        region = {"byteOffset": place.byte_offset} | ({"byteLength": place.byte_length} if place.byte_length is not None else {})
        physical = {"artifactLocation": places.location(place.file), "region": region}
        result["relatedLocations"] = [{"id": 1, "physicalLocation": physical, "message": {"text": "The bytes this is about."}}]
    return result


def _violation_result(report: Report, places: _Places, number: Mapping[str, int], violation: Violation) -> dict[str, Any]:
    identity = report.target.identity or report.target.uri
    return {
        "ruleId": violation.rule,
        "ruleIndex": number[violation.rule],
        "kind": "fail",
        "level": "error",
        "message": {"text": _message(violation.message)},
        "locations": [{"physicalLocation": {"artifactLocation": places.location(None)}}],
        "partialFingerprints": _fingerprints(fingerprint(violation.rule, identity, Location(), violation.subject)),
        "properties": {"kind": violation.kind, "subject": visible(violation.subject)},
    }


def _at_lock(lock: LockInfo, result: dict[str, Any]) -> dict[str, Any]:
    """The result at the line of the lock that names the model, which is a text of the repository; the model's file is related to it."""
    (place,) = result["locations"]
    uri = "/".join(quote(part, safe="") for part in PurePosixPath(lock.file).parts if part not in (".", ".."))
    there = {"artifactLocation": {"uri": uri, "uriBaseId": "%SRCROOT%"}, "region": {"startLine": lock.line}}
    related = {"id": 2, **place, "message": {"text": f"The file of {lock.name} that this is about."}}
    logical = {key: value for key, value in place.items() if key == "logicalLocations"}
    return {
        **result,
        "locations": [{"physicalLocation": there, **logical}],
        "relatedLocations": [*result.get("relatedLocations", []), related],
    }


def _fingerprints(value: str) -> dict[str, str]:
    digest = value.removeprefix("modelguard/v1:")
    return {"primaryLocationLineHash": digest, "modelguard/v1": digest}


def _distinct(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Number the results that share a fingerprint, as GitHub's ``hash:count`` form does, so that none hides another."""
    seen: dict[str, int] = {}
    for result in results:
        digest = result["partialFingerprints"]["primaryLocationLineHash"]
        seen[digest] = seen.get(digest, 0) + 1
        result["partialFingerprints"]["primaryLocationLineHash"] = f"{digest}:{seen[digest]}"
    return results


def _invocation(report: Report, decision: Decision) -> dict[str, Any]:
    complete = not report.failure and all(item.blocks for item in decision.violations)
    required = {item.subject for item in decision.violations if item.kind == "detector"}
    execution = [
        _notification(STATUS_RULES[item.status], "error" if item.detector in required else "warning", f"{item.detector}: {item.reason}")
        for item in report.outcomes
        if item.status is not Status.COMPLETED
    ]
    if report.failure:
        execution.insert(0, _notification(SOURCE_UNREAD, "error", report.failure))
    execution += [_notification(SOURCE_UNREAD, "note", note) for note in report.target.notes]
    execution += [_notification(SOURCE_UNREAD, "note", f"left out: {left_out(item)}") for item in report.target.left_out]
    configuration = [_notification(PLUGIN_FAILED, "warning", f"{item.distribution}: {item.reason}") for item in report.plugin_failures]
    alone = ", ".join(map(visible, report.policy.alone))
    words = {
        Verdict.PASS: f"no objection to what {alone} found; the policy was not judged as a whole" if alone else "pass",
        Verdict.BLOCK: "blocked by policy",
        Verdict.INCOMPLETE: "no verdict: what the policy requires was not looked at",
    }
    return {
        "executionSuccessful": complete,
        "exitCode": decision.exit_code,
        "exitCodeDescription": words[decision.verdict] + ("" if decision.enforced else " (mode: report)"),
        "toolExecutionNotifications": execution,
        "toolConfigurationNotifications": configuration,
    }


def _notification(rule: Rule, level: str, text: str) -> dict[str, Any]:
    index = _notification_rules().index(rule)
    return {"descriptor": {"id": rule.id, "index": index}, "level": level, "message": {"text": _message(text)}}


def _notification_rules() -> list[Rule]:
    return [rule for rule in JUDGEMENT_RULES if rule in _NOTIFICATIONS]


def _rules(report: Report, findings: Iterable[Finding], violations: Iterable[Violation]) -> list[Rule]:
    """Every rule of the planned detectors and of the results, by id; a rule nobody declared gets a stand-in."""
    used = {item.rule for item in violations}
    known = {rule.id: rule for rule in JUDGEMENT_RULES if rule.id in used} | {rule.id: rule for rule in report.rules}
    for name in {finding.rule for finding in findings} | used:
        known.setdefault(
            name, Rule(name, name, f"rule {name}", Severity.HIGH, "Its detector did not declare this rule.", "Ask its authors.")
        )
    return [known[name] for name in sorted(known)]


def _rule(rule: Rule, findings: Iterable[Finding]) -> dict[str, Any]:
    # SARIF has no precision per result, so a rule gets the best confidence that this report has for it.
    best = max((finding.confidence for finding in findings if finding.rule == rule.id), default=Confidence.MEDIUM)
    judged = any(rule.id == item.id for item in JUDGEMENT_RULES)
    return {
        **_descriptor(rule),
        "defaultConfiguration": {"level": _LEVEL[rule.severity]},
        "properties": {
            "tags": ["security", "model-integrity", *([f"external/cwe/cwe-{rule.cwe:03d}"] if rule.cwe is not None else [])],
            "precision": "very-high" if judged else best.label,
            "security-severity": _SCORE[rule.severity],
        },
    }


def _descriptor(rule: Rule) -> dict[str, Any]:
    description = visible(rule.description)
    parts = [("What it means", description), ("What else looks like it", visible(rule.lookalikes)), ("What to do", visible(rule.remedy))]
    markdown = "\n\n".join(f"**{heading}**\n\n{body}" for heading, body in parts if body)
    title = visible(rule.title) or rule.id
    return {
        "id": rule.id,
        "name": shorten(visible(rule.name) or rule.id, 255),
        "shortDescription": {"text": f"{title[:1].upper()}{title[1:].rstrip('.')}."},
        "fullDescription": {"text": (description if len(description) <= 1024 else f"{description[:1023]}…") or title},
        "help": {"text": f"{description} {visible(rule.remedy)}".strip() or title, "markdown": markdown or title},
    }


def _message(text: str) -> str:
    """``text`` as a SARIF message (3.11), whose links and placeholders are syntax that an artifact must not get to write."""
    text = visible(text).replace("](", "] (") or "(no message)"
    return re.sub(r"\{(\d+)\}", r"{{\1}}", text)


def _bases(report: Report, places: _Places) -> dict[str, Any]:
    root = {"%SRCROOT%": {"description": {"text": _FOLDER}}} if report.lock is not None else {}
    return {places.base: {"description": {"text": _base_text(report, places)}}, **root}


def _base_text(report: Report, places: _Places) -> str:
    if places.base == "%SRCROOT%":
        return _FOLDER
    revision = f" at {visible(report.target.revision)}" if report.target.revision else ""
    return f"The root of {visible(report.target.uri)}{revision}."


def _category(identity: str) -> str:
    """A name of its own for each model: two that differ only in what a category cannot hold would overwrite each other's alerts."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', identity).strip('-.')[:100] or 'artifact'}-{digest}"
