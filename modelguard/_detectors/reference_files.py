"""``reference-files``: is everything beside the weights as in the reference?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelguard._detectors.reference_rules import RULES
from modelguard._detectors.shows import FILES
from modelguard._diff.declared import Declaration, diff_declarations
from modelguard._diff.documents import Compared
from modelguard._diff.files import FileChange, diff_files
from modelguard.artifact import Artifact
from modelguard.detector import Capability, Detector, ScanContext, Skip, Target, option
from modelguard.findings import Confidence, Finding, Location, Severity

SEVERITIES = {rule.id: rule.severity for rule in RULES}
_RULES = {"missing": "MG0202", "added": "MG0203", "not compared": "MG0206"}
_SCORE = {Severity.INFO: 0.1, Severity.LOW: 0.25, Severity.MEDIUM: 0.5, Severity.HIGH: 0.8, Severity.CRITICAL: 1.0}


@dataclass(frozen=True)
class ReferenceFiles(Detector):
    """Compares every file beside the weights with the reference's, and what weight files say of themselves.

    The score is as weight-diff's: 0 where nothing differs, else by the severity of the worst finding, up to 1.
    """

    id = "reference-files"
    requires = frozenset({Capability.FILES, Capability.REFERENCE})
    rules = RULES
    shows = FILES

    max_findings: int = option(100, "findings of one rule that stand alone; the others share one", ge=1)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        if target.reference is None:
            raise Skip("there is no reference")
        diff = diff_files(target.reference, target, context.check_deadline, context.progress)
        found = [_of_file(change) for change in diff.changes]
        before, after = (_digests(item.artifact) for item in (target.reference, target))

        def same(old: str, new: str) -> bool:
            return new in after and before.get(old) == after[new]

        for declaration in diff_declarations(target.reference.checkpoints, target.checkpoints, same, context.check_deadline):
            found += _of_declaration(declaration)
        by_what = {what: [change.path for change in diff.changes if change.what == what] for what in ("changed", *_RULES)}
        context.summary(
            score=max((_SCORE[_severity(finding)] for finding in found), default=0.0),
            equal=diff.equal,
            restated=len(diff.restated),
            weights=diff.weights,
            **{what.replace(" ", "_"): len(paths) for what, paths in by_what.items()},
        )
        yield from self._capped(found)

    def _capped(self, found: list[Finding]) -> Iterator[Finding]:
        """The gravest findings of each rule, and one for all others of it."""
        by_rule: dict[str, list[Finding]] = {}
        for finding in found:
            by_rule.setdefault(finding.rule, []).append(finding)
        for rule, findings in sorted(by_rule.items()):
            findings.sort(key=lambda finding: (-_severity(finding), finding.location.file or ""))
            yield from findings[: self.max_findings]
            if rest := findings[self.max_findings :]:
                message = f"{len(rest)} more findings of this rule; the first: {rest[0].message}"
                yield Finding(rule, message, Confidence.HIGH, _severity(rest[0]), rest[0].location, {"count": len(rest)}, key="more")


def _severity(finding: Finding) -> Severity:
    return SEVERITIES[finding.rule] if finding.severity is None else finding.severity


def _digests(artifact: Artifact) -> dict[str, str]:
    return {file.path: file.sha256 for file in artifact.files if file.sha256 is not None}


def _of_file(change: FileChange) -> Finding:
    rule = _RULES.get(change.what) or ("MG0204" if change.role == "tokenizer" else "MG0201")
    if change.severity <= Severity.LOW and change.what == "changed":
        rule = "MG0205"
    evidence: dict[str, Any] = {"role": change.role, **({} if change.compared is None else _evidence(change.compared))}
    if change.same_as:
        evidence["same_as"] = change.same_as
    message = f"{change.path} {change.why}"
    return Finding(rule, message, Confidence.HIGH, change.severity, Location(change.path), evidence, key=change.digest)


def _of_declaration(declaration: Declaration) -> Iterator[Finding]:
    location = Location(declaration.file)
    if declaration.compared is None:
        message = f"what {declaration.file} declares was not compared with the reference's: {declaration.failure}"
        yield Finding("MG0206", message, Confidence.HIGH, location=location, key="declaration")
    elif declaration.compared.count:
        compared = declaration.compared
        low = compared.worst <= Severity.LOW
        places = ", ".join(f"{item.place} ({item.before or 'absent'} -> {item.after or 'absent'})" for item in compared.first[:2])
        message = f"{declaration.file} says something else of itself than the reference's: {places}{' ...' if compared.count > 2 else ''}"
        key = f"declared/{declaration.digest}"
        yield Finding("MG0205" if low else "MG0207", message, Confidence.HIGH, compared.worst, location, _evidence(compared), key=key)


def _evidence(compared: Compared) -> dict[str, Any]:
    found: dict[str, Any] = {"differences": [item.document() for item in compared.first], "count": compared.count}
    return found | ({"note": compared.note} if compared.note else {})
