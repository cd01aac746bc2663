"""The JSON summary of a fleet, version 1, as types: the published schema is generated from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelguard._schemas.report import Fingerprint, Severity, Sha256, ToolDocument

Verdict = Literal["pass", "block", "incomplete"]
Count = Annotated[int, Field(ge=0)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FleetPolicyDocument(_Document):
    name: str
    sha256: Sha256 = Field(description="Of the resolved policy.")


class CountsDocument(_Document):
    """How many models have each verdict."""

    block: Count
    incomplete: Count
    # Named like the verdict, which is a word of Python's.
    passed: Count = Field(alias="pass")


class ReasonDocument(_Document):
    """One reason why a model's verdict is not pass."""

    rule: str = Field(description="Empty where the model was not scanned.")
    message: str
    blocks: bool = Field(description="true: proves a violation. false: something was not looked at.")


class RowDocument(_Document):
    """One model."""

    uri: str
    name: str = Field(description="In the lock that pins it; empty for a model that is only listed.")
    identity: str | None = Field(description="Stable over revisions. null: there is no report of this model.")
    revision: str | None = Field(description="Commit of a remote artifact.")
    verdict: Verdict
    exit_code: Literal[0, 1, 3]
    change: list[str] = Field(description="What has changed since the earlier summary; empty where none was given.")
    reasons: list[ReasonDocument] = Field(description="The first; those that block before the others.")
    more_reasons: Count = Field(description="Reasons beyond these; the report has them all.")
    findings: dict[Severity, Count]
    fingerprints: list[Fingerprint]
    formats: list[str]
    files: Count
    bytes: Count
    digest: Sha256 | None = Field(description="Over path, size and sha256 of every file.")
    completed: Count = Field(description="Detectors that completed.")
    detectors: Count = Field(description="Detectors that were planned.")
    cached: Count = Field(description="Detectors whose outcome was taken from the cache.")
    uncached: str = Field(description="Why nothing was kept of this scan, where it should have been.")
    seconds: float | None = Field(description="Of wall clock.")
    licence: str | None = Field(description="What the model card claims, in lower case.")


class SinceDocument(_Document):
    """The comparison with the earlier summary."""

    changed: Count
    gone: list[str] = Field(description="URIs of models that were there, and are no longer.")


class FleetDocument(_Document):
    """Many models, the worst first."""

    schema_: Literal["modelguard-fleet/1"] = Field(alias="schema")
    tool: ToolDocument
    policy: FleetPolicyDocument
    counts: CountsDocument
    not_scanned: Count = Field(description="Models without a row: the run was interrupted.")
    exit_code: Literal[0, 1, 3]
    models: list[RowDocument]
    since: SinceDocument | None
