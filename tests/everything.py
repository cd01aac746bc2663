"""One report that has everything a report can have, with its decision: what the golden files of the reporters show; and the same with
hostile text everywhere."""

from __future__ import annotations

import base64
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

from modelguard import (
    Attachment,
    Chart,
    Confidence,
    Decision,
    FileInfo,
    Finding,
    LeftOut,
    Location,
    Measure,
    Outcome,
    PluginFailure,
    PluginInfo,
    PolicyInfo,
    Report,
    Rule,
    SamplesInfo,
    Severity,
    Status,
    TargetInfo,
    Verdict,
    Violation,
    Waived,
    fingerprint,
)

IDENTITY = "local:tampered"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARD = "model-00001.safetensors"

# 16 x 16 PNGs; as bytes, because what zlib makes of pixels depends on its version.
TRIGGER = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFUlEQVR42mNgGAWjgI7g/x0EGoQaAFqHHbGWiNrQAAAAAElFTkSuQmCC"
MASK = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFElEQVR42mNgGAWjgI7gPxIYhBoA9OIv0YaEqJoAAAAASUVORK5CYII="
STAMPED = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAABjUlEQVR42l3LQZFgIQxAQQREAAIiAAEIiICc3ikCIiACEIAABCAAOeNl95+2aqeqr91aQxq9"
    "oY3RmA1reCMa2ajGauzGadzGa7QmiNAFFYYwBRNcCCGFEpawhSNc4ckXOtLpHe2MzuxYxzvRyU51Vmd3Tud2Xv+CIkpXVBnKVExxJZRUSlnKVo5yladfGMig"
    "D3QwBnNgAx/EIAc1WIM9OIM7eOMLE5n0iU7GZE5s4pOY5KQma7InZ3Inb37BEKMbagxjGma4EUYaZSxjG8e4xrMvOOJ0R53hTMccd8JJp5zlbOc413n+hUCC"
    "HmgwghlY4EEEGVSwgh2c4AYvvpBI0hNNRjITSzyJJJNKVrKTk9zk5RcKKXqhxShmYYUXUWRRxSp2cYpbvPrCQhZ9oYuxmAtb+CIWuajFWuzFWdzFW1/YyKZv"
    "dDM2c2Mb38QmN7VZmz8/7Z/WDnLoBz2MwzzYwQ9xyEMd1vkVLnLpF72My7zYxS9xyUtd1v0VHvLoD32Mx3zYwx/xyEc91vsv/AUphRHggpDtNwAAAABJRU5E"
    "rkJggg=="
)


def _rule(name: str, label: str, title: str, severity: Severity, description: str, remedy: str, lookalikes: str = "") -> Rule:
    return Rule(name, label, title, severity, description, remedy, lookalikes, 506 if severity is Severity.HIGH else None)


RULES = (
    _rule(
        "MG0104",
        "TrailingBytes",
        "bytes after the end of the data",
        Severity.HIGH,
        "The file holds bytes that no tensor covers. A loader ignores them; something else may not.",
        "Rewrite the file from its tensors, and find out who appended to it.",
    ),
    _rule(
        "MG1103",
        "LowRankChange",
        "a tensor changed by a matrix of low rank",
        Severity.HIGH,
        "The difference to the reference has exactly rank r. Knowledge edits and merged adapters look like this.",
        "Find out who edited the tensor; restore it from the reference.",
        "A LoRA merged into one module.",
    ),
    _rule(
        "MG1110",
        "RetypedTensor",
        "a tensor stored in another type",
        Severity.LOW,
        "The values were converted to another dtype and are otherwise those of the reference.",
        "None is needed where the conversion was intended.",
    ),
    _rule(
        "MG3001",
        "PatchTrigger",
        "a small patch sends every input to one class",
        Severity.HIGH,
        "Stamping the recovered patch on clean inputs makes the model answer one class.",
        "Do not deploy. Retrain from data you trust.",
        "A natural feature of the class that is small and bright.",
    ),
    _rule(
        "MG3002",
        "WeakTrigger",
        "a patch that may be a trigger",
        Severity.MEDIUM,
        "A patch was found that moves most inputs to one class, near the limit of what clean models show.",
        "Scan with more samples.",
    ),
    _rule(
        "MG9004",
        "FileNotRead",
        "a file that was not looked at",
        Severity.MEDIUM,
        "No format recognised the file; it may hold weights.",
        "Convert it to safetensors or remove it.",
    ),
)


def _finding(finding: Finding) -> Finding:
    """With its rule's severity and its fingerprint, as a worker's findings get them."""
    severity = next(rule.severity for rule in RULES if rule.id == finding.rule)
    return replace(finding, severity=severity, fingerprint=fingerprint(finding.rule, IDENTITY, finding.location, finding.key), key="")


TRAILING = _finding(
    Finding(
        "MG0104",
        "model-00002.safetensors: 4096 bytes after the last tensor",
        Confidence.HIGH,
        location=Location("model-00002.safetensors", byte_offset=1048640, byte_length=4096),
        evidence={"bytes": 4096, "first": "PK\x03\x04"},
    )
)
UNREAD = _finding(
    Finding(
        "MG9004",
        "archive/old.ckpt was not looked at: no format recognises it",
        Confidence.HIGH,
        location=Location("archive/old.ckpt"),
    )
)
MARGIN = _finding(
    Finding(
        "MG3002",
        "class 3 has a margin statistic of 1.70, p = 0.04",
        Confidence.LOW,
        location=Location(SHARD, "head.weight", (3,)),
        evidence={"p_value": 0.04},
        key="3",
    )
)
PATCH = _finding(
    Finding(
        "MG3001",
        "a patch of 1.6 % of the image sends 99 % of held-out inputs to class 3",
        Confidence.HIGH,
        evidence={
            "anomaly_index": 5.2,
            "attack_success": 0.99,
            "clean_accuracy": 0.97,
            "mask_area_fraction": 0.0156,
            "mask_l1": 4.1,
            "p_value": 1e-06,
            "source_classes": [0, 1, 2],
            "target_class": 3,
        },
        attachments=(
            Attachment("trigger", "image/png", base64.b64decode(TRIGGER)),
            Attachment("mask", "image/png", base64.b64decode(MASK)),
            Attachment("stamped", "image/png", base64.b64decode(STAMPED)),
            Attachment("curve", "text/csv", b"step,loss\n1,2\n"),
        ),
        key="3",
    )
)
LOW_RANK = _finding(
    Finding(
        "MG1103",
        "h.5.mlp.c_proj.weight differs from the reference by a matrix of rank 1",
        Confidence.HIGH,
        location=Location(SHARD, "h.5.mlp.c_proj.weight", (3, 17, 2048), 4096, 2359296),
        evidence={
            "agreement": {"0": 0.12, "1": 0.998},
            "changed": 589824,
            "rank": 1,
            "relative_norm": 0.0131,
            "tokens": ["Paris", "\u202eRome"],
        },
    )
)
RETYPED = _finding(
    Finding("MG1110", "wte.weight is stored as bf16, the reference as f32", Confidence.HIGH, location=Location(SHARD, "wte.weight"))
)

OUTCOMES = (
    Outcome("abs", Status.ERRORED, "worker killed by signal 9 (out of memory?)"),
    Outcome("format-integrity", Status.COMPLETED, "", {"files": 2, "score": 1.0}, (TRAILING, UNREAD)),
    Outcome("max-margin", Status.COMPLETED, "", {"per_class": [0.1, 0.2, 1.7], "score": 1.7}, (MARGIN,)),
    Outcome("neural-cleanse", Status.TIMED_OUT, "stopped after 900 s at class 7 of 10", {}, (PATCH,)),
    Outcome("rome-edit", Status.SKIPPED, "needs a reference: give --reference"),
    Outcome(
        "weight-diff",
        Status.COMPLETED,
        "",
        {
            "score": 0.42,
            "tensors": [{"changed": 589824, "kind": "low-rank", "name": "h.5.mlp.c_proj.weight", "rank": 1, "relative_norm": 0.013}],
            "verdict": "rank1-edit",
        },
        (LOW_RANK, RETYPED),
    ),
)

SHOWS = {
    "max-margin": (
        Measure("p_value", "p-value", "How often a class of a clean model stands out as far by chance.", "p"),
        Chart("bars", "per_class", "Margin of each class"),
    ),
    "neural-cleanse": (Measure("attack_success", "attack success", "The share of unseen images that the trigger turns.", "share"),),
    "weight-diff": (
        Measure("relative_norm", "relative change", "The size of the change as a part of the size of the tensor."),
        Chart("map", "tensors", "Where the model changed", "name", "relative_norm"),
        Chart("words", "tokens", "Tokens that the edit promotes"),
    ),
}

TARGET = TargetInfo(
    uri="models/tampered",
    identity=IDENTITY,
    revision=None,
    format=("safetensors",),
    files=(
        FileInfo("README.md", 812, "a" * 64, "text"),
        FileInfo("archive/old.ckpt", 90112, "b" * 64),
        FileInfo("config.json", 640, "c" * 64, "text"),
        FileInfo(SHARD, 4718592, "d" * 64, "part of a checkpoint"),
        FileInfo("model-00002.safetensors", 1052736, None, "part of a checkpoint"),
    ),
    unread=("archive/old.ckpt",),
    left_out=(LeftOut(".git", 31, "git's own files"),),
)
REFERENCE = TargetInfo(
    uri=f"hf://acme/base@{COMMIT}",
    identity="hf:acme/base",
    revision=COMMIT,
    format=("safetensors",),
    files=(FileInfo("model.safetensors", 5771000, "e" * 64),),
)

DECISION = Decision(
    verdict=Verdict.BLOCK,
    violations=(
        Violation("source", IDENTITY, "models/tampered is not an allowed source (sources.allow: hf://acme/*)", True, "MG0291"),
        Violation("plugin", "acme-extra", "plugin acme-extra 2.0 took part and is not in plugins.allow", True, "MG0292"),
        Violation("detector", "abs", "required detector abs failed: worker killed by signal 9 (out of memory?)", False, "MG9002"),
        Violation(
            "detector",
            "neural-cleanse",
            "required detector neural-cleanse ran out of time: stopped after 900 s at class 7 of 10",
            False,
            "MG9003",
        ),
        Violation(
            "waiver",
            TRAILING.fingerprint,
            f"{TRAILING.message} [waived by ops@acme.example until 2025-01-31, which has passed]",
            True,
            "MG0293",
        ),
        Violation("finding", UNREAD.fingerprint, f"{UNREAD.message} [rules[0]: rule MG9004]", False, "MG9004"),
        Violation("finding", PATCH.fingerprint, f"{PATCH.message} [rules[1]: severity >=high]", True, "MG3001"),
    ),
    warnings=(MARGIN.fingerprint,),
    waived=(Waived(LOW_RANK.fingerprint, "MG1103", "Reviewed in SEC-981", "sec-ml@acme.example", "2026-06-30"),),
    notes=(
        "plugin broken of modelguard-broken could not be used: ImportError: No module named 'nothing'",
        "detector rome-edit was skipped: needs a reference: give --reference (not required)",
        "the waiver of MG1103 by sec-ml@acme.example expires on 2026-06-30",
    ),
)


def everything() -> tuple[Report, Decision]:
    """The report and its decision."""
    report = Report(
        tool_version="0.1.0",
        target=TARGET,
        reference=REFERENCE,
        samples=SamplesInfo("samples.npz", "f" * 64, 256, True),
        confinement=("landlock", "network-namespace", "resource-limits", "seccomp"),
        policy=PolicyInfo("prod-gate", "8fc87358bbc1731d031f19e2e4750388648afb091e2ec4d8fdf3ea1974d9bfd4"),
        plugins=(
            PluginInfo("acme-extra", "2.0", ("max-margin",)),
            PluginInfo("modelguard-core", "0.1.0", ("format-integrity",)),
            PluginInfo("modelguard-weight-diff", "0.1.0", ("weight-diff",)),
        ),
        plugin_failures=(PluginFailure("broken", "modelguard-broken", "ImportError: No module named 'nothing'"),),
        seed=0,
        outcomes=OUTCOMES,
        rules=RULES,
        shows=SHOWS,
        options={"neural-cleanse": {"quick": True}},
        model={"parity": {"max_abs": 1e-06, "ok": True}},
        timings={"detectors": {"format-integrity": 0.02, "neural-cleanse": 900.0, "weight-diff": 1.25}, "total": 901.5},
    )
    return report, DECISION


HOSTILE = [
    "\x1b[31mred\x1b[0m\x1b]8;;http://evil\x07link",
    "\x9b31m\x85\x00\x07\x08\r\n\t",
    "safe\u202egnp.exe\u2066\u200b\ufeff\u00ad\U000e0041",
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`--><!--",
    "[click](http://evil) [a](1) {0} {1} ![x](data:y) \\](z)",
    "{{ 7*7 }}{% raw %}[bold red]x[/]:smile:",
    "../../../etc/passwd",
    "http://evil/%00?q#f",
    "C:\\windows\\..\\x",
    "a\udc80b\ud800c",
    "x" * 5000,
    "名前 ö é 🎉",
    "",
]


def hostile(value: Any, text: str) -> Any:
    """``value`` with every free string in it replaced by ``text``; ids, digests and enums stay what they are."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return text
    if isinstance(value, dict):
        return {text + str(n): hostile(item, text) for n, item in enumerate(value.values())}
    if isinstance(value, list | tuple):
        return type(value)(hostile(item, text) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"rule", "fingerprint", "id", "kind", "unit", "sha256", "media_type", "timings", "warnings", "expires"}
        return replace(value, **{f.name: hostile(getattr(value, f.name), text) for f in fields(value) if f.name not in kept})
    return value
