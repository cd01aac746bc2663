"""``format-integrity``: are the files what they claim to be, and was every one of them looked at?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelguard._detectors.format_rules import NOT_LOOKED_AT, RULES
from modelguard._detectors.shows import INTEGRITY
from modelguard._formats.named import Kind, by_name
from modelguard._formats.names import deceptive, shown
from modelguard._formats.sniff import classify
from modelguard.artifact import ArtifactFile
from modelguard.checkpoint import FormatProblem
from modelguard.detector import Capability, Detector, ScanContext, Target
from modelguard.errors import ArtifactError
from modelguard.findings import Confidence, Finding, Location, Severity

LISTED = 500
"""Problems, and files not looked at, that get a finding of their own; the others share one per rule."""

SEVERITIES = {rule.id: rule.severity for rule in RULES}

_MALFORMED = "MG0102"
_NAME = "MG0112"
_UNREADABLE = "MG0114"


@dataclass(frozen=True)
class FormatIntegrity(Detector):
    """Turns what opening the artifact found into findings, and names what no other detector looked at either.

    The score is the highest severity found, from 0 (nothing, or information) to 4 (critical).
    """

    id = "format-integrity"
    requires = frozenset({Capability.FILES})
    rules = RULES
    shows = INTEGRITY
    runs_last = True

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        worst = Severity.INFO
        counts: Counter[str] = Counter()
        for finding in self._findings(target, context, counts):
            worst = max(worst, finding.severity if finding.severity is not None else SEVERITIES[finding.rule])
            counts["findings"] += 1
            yield finding
        context.summary(score=float(worst), **_coverage(target), **counts)

    def _findings(self, target: Target, context: ScanContext, counts: Counter[str]) -> Iterator[Finding]:
        counts.update(findings=0, inert_files=0, files_not_looked_at=0)
        yield from _first(self._problems(target, context))
        yield from _first(self._names(target, context))
        yield from _first(self._not_looked_at(target, context, counts))

    def _problems(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        for problem in target.problems:
            context.check_deadline()
            yield _of(problem)

    def _names(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        for path in [*(file.path for file in target.artifact.files), *(file.path for file in target.artifact.unfetched)]:
            context.check_deadline()
            if char := deceptive(path):
                message = f"the file name {shown(path)} contains the invisible or control character {char}; rename the file"
                yield Finding(_NAME, message, Confidence.HIGH, location=Location(path))

    def _not_looked_at(self, target: Target, context: ScanContext, counts: Counter[str]) -> Iterator[Finding]:
        broken = {problem.file for problem in target.problems if problem.fatal}
        for item in target.looked_at.values():
            if item.missed:
                counts["files_not_looked_at"] += 1
                yield _gap(item.path, f"is {item.what}, not all of it was read: {item.missed}", Kind(item.what, "code"), {})
        left = [file for file in target.unread if file.path not in target.looked_at and file.path not in broken]
        for done, file in enumerate(left):
            context.check_deadline()
            context.progress(done, len(left), file.path)
            try:
                kind = classify(file)
            except ArtifactError as error:
                yield Finding(_UNREADABLE, str(error), Confidence.HIGH, location=Location(file.path))
                continue
            if kind.matter == "inert":
                counts["inert_files"] += 1
                context.looked_at(file.path, kind.what)
                continue
            counts["files_not_looked_at"] += 1
            yield _gap(file.path, f"is {kind.what}, which no format or detector reads; what is in it is unknown", kind, {"size": file.size})
        for missing in target.artifact.unfetched:
            context.check_deadline()
            kind = by_name(missing.path)
            counts["files_not_looked_at"] += 1
            kind = Kind(kind.what, "unknown") if kind.matter == "inert" else kind
            evidence = {"size": missing.size, "digest": missing.digest}
            yield _gap(missing.path, f"is {kind.what} and was not fetched: {missing.reason}", kind, evidence)


def _of(problem: FormatProblem) -> Finding:
    known = problem.rule in SEVERITIES
    evidence = dict(problem.evidence) | ({"fatal": True} if problem.fatal else {}) | ({} if known else {"rule": problem.rule})
    return Finding(
        problem.rule if known else _MALFORMED,
        problem.message,
        Confidence.HIGH,
        location=Location(problem.file, problem.tensor, byte_offset=problem.byte_offset),
        evidence=evidence,
        key=str(problem.evidence.get("kind", "")),
    )


def _gap(path: str, message: str, kind: Kind, evidence: Mapping[str, object]) -> Finding:
    severity = Severity.LOW if kind.matter == "unknown" else None
    return Finding(NOT_LOOKED_AT, f"{path}: {message}", Confidence.HIGH, severity, Location(path), {"kind": kind.matter, **evidence})


def _first(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The first findings, and for all that follow one of each rule with the worst severity among them."""
    rest: dict[str, list[Finding]] = {}
    for number, finding in enumerate(findings):
        if number < LISTED:
            yield finding
        else:
            rest.setdefault(finding.rule, []).append(finding)
    for rule, others in sorted(rest.items()):
        message = f"{len(others)} more findings of this rule; the first: {others[0].message}"
        severity = max(SEVERITIES[rule] if item.severity is None else item.severity for item in others)
        yield Finding(rule, message, Confidence.HIGH, severity, others[0].location, {"count": len(others)}, key="more")


def _coverage(target: Target) -> dict[str, object]:
    """Per format: checkpoints, tensors and their bytes; and how much of the artifact's bytes that is."""
    formats: dict[str, dict[str, int]] = {}
    for checkpoint in target.checkpoints:
        found = formats.setdefault(checkpoint.format, {"checkpoints": 0, "tensors": 0, "bytes": 0})
        found["checkpoints"] += 1
        found["tensors"] += len(checkpoint.tensors)
        found["bytes"] += sum(info.byte_length for info in checkpoint.tensors.values())
    files: list[ArtifactFile] = list(target.artifact.files)
    return {
        "formats": dict(sorted(formats.items())),
        "files": len(files) + len(target.artifact.unfetched),
        "bytes": sum(file.size for file in files) + sum(file.size for file in target.artifact.unfetched),
        "bytes_in_tensors": sum(found["bytes"] for found in formats.values()),
    }
