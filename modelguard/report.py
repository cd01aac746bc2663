"""Reports: all outcomes over one target, and the decision a policy made of them. Pure data, deterministic."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Literal, Self, TextIO

from modelguard.artifact import LeftOut
from modelguard.display import Chart, Measure
from modelguard.findings import Finding, Rule, Severity, settled

SCHEMA = "modelguard-report/1"
CHECKPOINT = "part of a checkpoint"
"""What a file is (:class:`FileInfo`) whose weights detectors see."""
CORE = "modelguard-core"
"""The distribution that brings the core, as reports list it among the plugins."""


class Status(str, Enum):
    """What became of one detector."""

    COMPLETED = "completed"
    SKIPPED = "skipped"
    ERRORED = "errored"
    TIMED_OUT = "timed-out"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one detector, with the findings it made before it ended, whatever the end."""

    detector: str
    status: Status
    reason: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of an artifact. ``what`` completes the sentence "the file is ..."; it is empty for a file that nobody has read to its end."""

    path: str
    size: int
    sha256: str | None
    what: str = ""


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """An artifact as reports show it: no absolute path, no host.

    ``unread`` are paths that were not looked at, or not fetched; ``notes`` say, one sentence each, what could not be verified;
    ``left_out`` are files that are on purpose no part of it. ``licence`` and ``base_models`` (``org/name``) are what the model card claims;
    ``card`` says why it could not be read.
    """

    uri: str
    identity: str
    revision: str | None
    format: tuple[str, ...]
    files: tuple[FileInfo, ...]
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    licence: str | None = None
    base_models: tuple[str, ...] = ()
    card: str = ""


@dataclass(frozen=True, slots=True)
class SamplesInfo:
    """The samples as reports show them: where they came from, the digest of their bytes, how many, and whether they have labels."""

    origin: str
    sha256: str
    count: int
    labelled: bool


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """``alone`` are the detectors a scan was narrowed to where they are not all that the policy requires: it was not judged as a whole."""

    name: str
    sha256: str
    alone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A distribution that registered something. ``detectors`` are the ids it brings."""

    name: str
    version: str
    detectors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """An entry point that could not be used, and why."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True, slots=True)
class LockDifference:
    """One way in which an artifact is not what a lock pins: ``rule`` names it, ``subject`` is a file or URI, ``message`` completes it.

    ``blocks`` is False where something could not be compared.
    """

    rule: str
    subject: str
    message: str
    blocks: bool = True


@dataclass(frozen=True, slots=True)
class LockInfo:
    """The entry of a lock file that was scanned: its name, the file as it was named, the line that names it, and what does not agree."""

    name: str
    file: str
    line: int
    differences: tuple[LockDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one scan measured. ``rules`` are the rules of every detector that was planned, for reporters and policies.

    A report is complete and in one order from the moment it is made, whatever order plugins and workers delivered its parts in: lists
    are sorted, and every finding has a severity (its own, else its rule's, else the worst).
    ``options`` are the detector options that were set, by policy or user, by detector id and name.
    ``self_reference`` says, completing "the reference is the target itself: ...", why a comparison with it says nothing; usually empty.
    ``shows`` says how what each detector that ran measured is shown to people, by detector id.
    ``lock`` is the entry of a lock file that the target was scanned for.
    ``failure`` is set, and names thing, cause and remedy, when the artifact itself could not be brought or opened.
    ``confinement`` is what kept the worker that opened the artifact apart, in one word each: it depends on the machine.
    ``timings`` is the only part that differs between two runs over the same bytes, options, versions and seed on one machine.
    """

    tool_version: str
    target: TargetInfo
    reference: TargetInfo | None
    samples: SamplesInfo | None
    policy: PolicyInfo
    plugins: tuple[PluginInfo, ...]
    plugin_failures: tuple[PluginFailure, ...]
    seed: int
    outcomes: tuple[Outcome, ...]
    rules: tuple[Rule, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shows: Mapping[str, tuple[Measure | Chart, ...]] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    failure: str = ""
    self_reference: str = ""
    lock: LockInfo | None = None
    confinement: tuple[str, ...] = ()
    timings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        severities = {rule.id: rule.severity for rule in self.rules}
        outcomes = (
            replace(item, findings=tuple(sorted((settled(finding, severities) for finding in item.findings), key=_finding_order)))
            for item in sorted(self.outcomes, key=lambda item: (item.detector, item.status.value, item.reason))
        )
        parts = {
            "target": _in_order(self.target),
            "reference": _in_order(self.reference) if self.reference is not None else None,
            "plugins": tuple(sorted(self.plugins, key=lambda item: (item.name, item.version))),
            "plugin_failures": tuple(sorted(self.plugin_failures, key=lambda item: (item.distribution, item.name, item.reason))),
            "outcomes": tuple(outcomes),
            "rules": tuple(sorted(self.rules, key=lambda item: item.id)),
        }
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    def findings(self) -> list[tuple[str, Finding]]:
        """(detector, finding) for every finding, in report order."""
        return [(outcome.detector, finding) for outcome in self.outcomes for finding in outcome.findings]

    def severity(self, finding: Finding) -> Severity:
        """The severity of one of the report's findings."""
        assert finding.severity is not None, "only a finding of a report is sure to have a severity"
        return finding.severity


def _in_order(target: TargetInfo) -> TargetInfo:
    return replace(
        target,
        format=tuple(sorted(target.format)),
        files=tuple(sorted(target.files, key=lambda item: item.path)),
        unread=tuple(sorted(target.unread)),
    )


def _finding_order(finding: Finding) -> tuple[Any, ...]:
    """By what readers look for first; the rest makes the order total, so that it never depends on who delivered first."""
    place = finding.location
    offset = -1 if place.byte_offset is None else place.byte_offset
    first = (finding.rule, place.file or "", place.tensor or "", offset, finding.fingerprint, finding.message)
    return (*first, int(finding.confidence), finding.severity, json.dumps(dict(finding.evidence), sort_keys=True, default=repr))


class Verdict(str, Enum):
    """What a policy says of a report."""

    PASS = "pass"
    BLOCK = "block"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why the verdict is not *pass*.

    ``kind`` says what violated; ``subject`` is the rule's fingerprint, detector id, plugin name or source; ``blocks`` is whether
    it proves a violation (exit 1) or only that something was not looked at (exit 3); ``rule`` is the id reporters show it under.
    """

    kind: Literal["finding", "detector", "source", "plugin", "waiver"]
    subject: str
    message: str
    blocks: bool
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Waived:
    """A finding a waiver let through."""

    fingerprint: str
    rule: str
    reason: str
    owner: str
    expires: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy made of a report. ``enforced`` is False under ``mode: report``, which turns exit 1 into 0 and nothing else.

    ``warnings`` are fingerprints of findings whose action is ``warn``; ``known`` of those that would block or warn, but that the baseline
    has too; ``notes`` say what a reader should know that changes nothing:
    a waiver about to expire or never used, a detector that did not complete but was not required, a plugin that failed to load.
    """

    verdict: Verdict
    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()
    waived: tuple[Waived, ...] = ()
    notes: tuple[str, ...] = ()
    enforced: bool = True
    known: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 pass, 1 block, 3 incomplete."""
        if self.verdict is Verdict.BLOCK:
            return 1 if self.enforced else (3 if any(not item.blocks for item in self.violations) else 0)
        return 3 if self.verdict is Verdict.INCOMPLETE else 0


class Reporter(ABC):
    """Renders a report and its decision as text. Pure: the same arguments give the same text."""

    format: ClassVar[str]

    @classmethod
    def for_stream(cls, stream: TextIO) -> Self:
        """The reporter that suits ``stream``; one that looks the same everywhere need not override this."""
        return cls()

    def in_full(self) -> Self:
        """The reporter that shows what this one leaves out (``-v``); one that leaves nothing out need not override this."""
        return self

    @abstractmethod
    def render(self, report: Report, decision: Decision) -> str:
        """The whole document, ending in a newline."""
