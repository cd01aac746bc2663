"""Reports and policies for tests of the judgement."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

from modelguard._policies.file import PolicyFile
from modelguard.findings import Confidence, Finding, Location, Rule, Severity, fingerprint
from modelguard.policy import Policy
from modelguard.report import FileInfo, Outcome, PluginInfo, PolicyInfo, Report, SamplesInfo, Status, TargetInfo

TODAY = datetime.date(2026, 6, 15)
RULES = (
    Rule("MG0101", "Header", "a bad header", Severity.HIGH, "d", "r"),
    Rule("MG1104", "Changed", "a changed tensor", Severity.MEDIUM, "d", "r"),
    Rule("MG1111", "Cast", "a cast", Severity.INFO, "d", "r"),
    Rule("MG3001", "Trigger", "a trigger", Severity.HIGH, "d", "r"),
    Rule("MG9004", "Unread", "a file that was not read", Severity.MEDIUM, "d", "r"),
)
CORE = PluginInfo("modelguard-core", "0.1.0", ("format-integrity",))


def found(
    rule: str, *, severity: Severity | None = None, confidence: Confidence = Confidence.HIGH, tensor: str = "w", **more: Any
) -> Finding:
    location = Location("model.safetensors", tensor)
    mark = fingerprint(rule, "local:m", location, "")
    return Finding(rule, f"{rule} in {tensor}", confidence, severity, location, fingerprint=mark, **more)


def completed(detector: str, *findings: Finding) -> Outcome:
    return Outcome(detector, Status.COMPLETED, "", {"score": 0.0}, findings)


def report(*outcomes: Outcome, reference: bool = False, samples: bool = False, **more: Any) -> Report:
    target = TargetInfo("m", "local:m", None, ("safetensors",), (FileInfo("model.safetensors", 8, "a" * 64),))
    given: dict[str, Any] = {
        "tool_version": "0.1.0",
        "target": target,
        "reference": replace(target, uri="ref", identity="local:ref") if reference else None,
        "samples": SamplesInfo("clean.npz", "0" * 64, 400, True) if samples else None,
        "policy": PolicyInfo("x", "0" * 64),
        "plugins": (CORE,),
        "plugin_failures": (),
        "seed": 0,
        "outcomes": outcomes or (completed("format-integrity"), completed("remote-code")),
        "rules": RULES,
    }
    return Report(**{**given, **more})


def policy(**keys: Any) -> Policy:
    return PolicyFile.model_validate({"version": 1, "name": "x", "detectors": {"required": ["format-integrity"]}, **keys}).policy()
