"""The JSON report, version 1, as types: the published schema is generated from them, and a stored report is read through them.

Reading is closed (an unknown key is refused, because it may say something that matters), the published schema is open.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from modelguard.findings import RULE_ID

RuleId = Annotated[str, StringConstraints(pattern=rf"^({RULE_ID})$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^modelguard/v1:[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Severity = Literal["info", "low", "medium", "high", "critical"]
Confidence = Literal["low", "medium", "high"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ToolDocument(_Document):
    name: Literal["modelguard"]
    version: str


class FileDocument(_Document):
    path: str = Field(description="POSIX, relative to the artifact.")
    size: Annotated[int, Field(ge=0)] = Field(description="Bytes.")
    sha256: Sha256 | None = Field(description="null: the scan was asked not to hash.")
    what: str = Field(default="", description='Completes "the file is ..."; empty: nobody has read it to its end.')


class LeftOutDocument(_Document):
    """Files of the artifact's folder that are on purpose no part of it."""

    path: str = Field(description="The folder (or file) they lie in.")
    files: Annotated[int, Field(ge=0)]
    reason: str = Field(description="What they are.")


class TargetDocument(_Document):
    """An artifact."""

    uri: str
    identity: str = Field(description="Stable over revisions; enters fingerprints. Empty when the artifact could not be fetched.")
    revision: str | None = Field(description="Commit of a remote artifact.")
    format: list[str]
    files: list[FileDocument]
    unread: list[str] = Field(description="Paths that nobody has read to the end, or that were not fetched.")
    notes: list[str] = Field(default_factory=list, description="What could not be verified about where the files came from.")
    left_out: list[LeftOutDocument] = Field(
        default_factory=list, description="Records of git and of the Hub's client that were recognised, counted and not looked into."
    )

    licence: str | None = Field(default=None, description="What the model card claims, in lower case.")
    base_models: list[str] = Field(default_factory=list, description="What the model card claims to come from, as org/name.")
    card: str = Field(default="", description="Why the model card could not be read; empty when it could, or there is none.")


class SamplesDocument(_Document):
    origin: str
    sha256: Sha256
    count: int
    labelled: bool


class PolicyDocument(_Document):
    name: str
    sha256: Sha256 = Field(description="Of the resolved policy.")
    alone: list[str] = Field(
        default_factory=list,
        description="The detectors that the scan was narrowed to, where the policy requires others too: the decision is about these alone.",
    )


class PluginDocument(_Document):
    name: str
    version: str
    detectors: list[str]


class PluginFailureDocument(_Document):
    name: str
    distribution: str
    reason: str


class RuleDocument(_Document):
    """A rule of a detector that was planned."""

    id: RuleId
    name: str
    title: str
    severity: Severity
    description: str
    remedy: str
    lookalikes: str
    cwe: int | None


class LocationDocument(_Document):
    """Where in the artifact; byte positions are absolute in ``file``."""

    file: str | None
    tensor: str | None
    rows: list[int] | None
    byte_offset: int | None
    byte_length: int | None


class AttachmentDocument(_Document):
    name: str
    media_type: str
    data: str = Field(description="Base64.", json_schema_extra={"contentEncoding": "base64"})


class FindingDocument(_Document):
    rule: RuleId
    severity: Severity
    confidence: Confidence
    message: str
    location: LocationDocument
    evidence: dict[str, JsonValue]
    attachments: list[AttachmentDocument]
    fingerprint: Fingerprint = Field(description="The same for the same finding in every revision of the model.")


class MeasureDocument(_Document):
    """What a number in evidence or summary is called, and means."""

    key: str
    name: str
    meaning: str
    unit: Literal["", "share", "bytes", "p"] = ""


class ChartDocument(_Document):
    """What in evidence or summary is better looked at than read (``modelguard.display.Chart``)."""

    kind: Literal["bars", "curves", "map", "words"]
    key: str
    title: str
    label: str = ""
    value: str = ""
    unit: Literal["", "share", "bytes", "p"] = ""
    line: str = ""
    marked: str = ""


class ShowsDocument(_Document):
    measures: list[MeasureDocument]
    charts: list[ChartDocument]


class OutcomeDocument(_Document):
    """What became of one detector."""

    detector: str
    status: Literal["completed", "skipped", "errored", "timed-out"]
    reason: str
    summary: dict[str, JsonValue]
    findings: list[FindingDocument]


class ViolationDocument(_Document):
    """One reason why the verdict is not pass."""

    kind: Literal["finding", "detector", "source", "plugin", "waiver"]
    subject: str
    message: str
    blocks: bool = Field(description="true: proves a violation. false: something was not looked at.")
    rule: RuleId


class WaivedDocument(_Document):
    fingerprint: Fingerprint
    rule: RuleId
    reason: str
    owner: str
    expires: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class DecisionDocument(_Document):
    """What the policy made of the outcomes."""

    verdict: Literal["pass", "block", "incomplete"]
    violations: list[ViolationDocument]
    warnings: list[Fingerprint] = Field(description="Fingerprints of findings that the policy warns of.")
    waived: list[WaivedDocument]
    notes: list[str]
    enforced: bool = Field(description="false under mode: report.")
    known: list[Fingerprint] = Field(
        default_factory=list, description="Fingerprints of findings that would block or warn, but that the baseline has too."
    )
    exit_code: Literal[0, 1, 3]


class LockDifferenceDocument(_Document):
    """One way in which the target is not what the lock pins."""

    rule: RuleId
    subject: str
    message: str
    blocks: bool


class LockDocument(_Document):
    """The entry of a lock file that the target was scanned for."""

    name: str
    file: str = Field(description="The lock file, as it was named.")
    line: Annotated[int, Field(ge=1)] = Field(description="The line that names the model.")
    differences: list[LockDifferenceDocument]


class ReportDocument(_Document):
    """One scan: what was looked at, what was found, what was not looked at, and what the policy made of it."""

    schema_: Literal["modelguard-report/1"] = Field(alias="schema")
    tool: ToolDocument
    target: TargetDocument
    reference: TargetDocument | None
    samples: SamplesDocument | None
    model: dict[str, JsonValue] | None = Field(description="The runnable model that detectors used, if any.")
    policy: PolicyDocument
    plugins: list[PluginDocument]
    plugin_failures: list[PluginFailureDocument]
    seed: int
    options: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Detector options that were set, by policy or user: detector id, name, value."
    )
    failure: str = Field(description="Why the artifact could not be fetched or opened; empty when it was.")
    self_reference: str = Field(default="", description="How it is known that the reference is the target itself; empty when it is not.")
    lock: LockDocument | None = Field(default=None, description="Set for a model that `modelguard scan --lock` scanned.")
    confinement: list[str] = Field(
        default_factory=list, description="What kept the worker apart: landlock, network-namespace, resource-limits, seccomp."
    )
    rules: list[RuleDocument]
    shows: dict[str, ShowsDocument] = Field(
        default_factory=dict, description="How the numbers of each detector that ran are shown to people: detector id, measures, charts."
    )
    outcomes: list[OutcomeDocument]
    decision: DecisionDocument
    timings: dict[str, Any] = Field(
        description="Seconds, and what took none: `cached` lists the detectors whose outcome is from an earlier scan of the very same "
        "bytes, `cache` says why none could be kept. The only part that differs between two runs over the same input on one machine."
    )
