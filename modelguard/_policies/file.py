"""The keys of a policy file, as pydantic checks them and as the published schema says them. What they come to is a :class:`Policy`."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from modelguard._policies.model import Action, L, Match, Policy, Threshold, meant, seconds
from modelguard._policies.rules import NOT_LOOKED_AT
from modelguard.errors import PolicyError
from modelguard.findings import RULE_ID, Confidence, Severity

LOCKABLE = (
    "mode", "sources", "sources.allow", "sources.pinned", "sources.digests", "sources.formats", "sources.remote_code",
    "sources.left_out", "sources.licences",
    "provenance", "provenance.locked", "provenance.signature", "provenance.base_model",
    "detectors", "detectors.required", "detectors.required_with_reference", "detectors.required_with_samples",
    "detectors.optional", "detectors.options", "detectors.timeouts", "detectors.budget",
    "rules", "default", "waivers", "baseline", "plugins", "plugins.allow", "plugins.failures",
)  # fmt: skip


def _threshold(scale: type[L]) -> Callable[[Any], Threshold[L]]:
    return lambda value: Threshold.parse(scale, value)


def _threshold_schema(scale: type[Severity] | type[Confidence]) -> dict[str, str]:
    return {"type": "string", "pattern": f"^(>=|<=)?({'|'.join(member.label for member in scale)})$"}


def _written_as_date(value: Any) -> Any:
    # pydantic would also take a number, as seconds since 1970.
    if not isinstance(value, datetime.date | str):
        raise ValueError("must be a date such as 2027-03-31")
    return value


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    for item in items:
        if items.count(item) > 1:
            raise ValueError(f"lists {item!r} twice")
    return items


def _lockable(items: tuple[str, ...]) -> tuple[str, ...]:
    for item in items:
        if item not in LOCKABLE:
            raise ValueError(f"{item!r} cannot be locked{meant(item, LOCKABLE)}")
    return items


SeverityTest = Annotated[
    Threshold[Severity], PlainValidator(_threshold(Severity)), PlainSerializer(str), WithJsonSchema(_threshold_schema(Severity))
]
ConfidenceTest = Annotated[
    Threshold[Confidence], PlainValidator(_threshold(Confidence)), PlainSerializer(str), WithJsonSchema(_threshold_schema(Confidence))
]
Duration = Annotated[
    int,
    PlainValidator(seconds),
    PlainSerializer(lambda seconds: f"{seconds}s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,6}[smh]$"}),
]
Day = Annotated[datetime.date, BeforeValidator(_written_as_date)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^?\[\]\x00-\x20]+$")]
DetectorId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RuleId = Annotated[str, StringConstraints(pattern=rf"^({RULE_ID})$")]
RulePattern = Annotated[str, StringConstraints(pattern=rf"^({RULE_ID}|(MG|[A-Z][A-Z0-9]{{1,15}}-)[0-9]{{0,3}}\*)$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^modelguard/v1:[0-9a-f]{32}$")]
Material = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Globs = Annotated[tuple[Glob, ...], Field(min_length=1), AfterValidator(_distinct)]
Detectors_ = Annotated[tuple[DetectorId, ...], Field(min_length=1), AfterValidator(_distinct)]
OptionValue = bool | int | float | str | tuple[bool | int | float | str, ...] | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourcesPart(_Model):
    """Which artifacts may be judged at all."""

    allow: Globs | None = Field(default=None, description="Globs (`*` only) over the target's URI; one must match. Absent: any source.")
    pinned: StrictBool = Field(
        default=False, description="A remote target must be named by its full 40-hex commit; a branch or tag can move."
    )
    digests: StrictBool = Field(default=False, description="Every file of the target must have been hashed.")
    formats: Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)] | None = Field(
        default=None, description="The only checkpoint formats accepted. Absent: whatever can be read."
    )
    remote_code: Literal["deny", "allow"] = Field(
        default="allow",
        description="deny: refuse Python or native code beside the weights, and configuration that points at code (`auto_map`).",
    )
    left_out: Literal["incomplete", "allow"] = Field(
        default="allow",
        description="incomplete: no verdict when records of git or of the Hub's client lie among the target's files and were left out.",
    )

    licences: Globs | None = Field(
        default=None,
        description="Globs (`*` only) over the licence that the model card names; one must match. No licence, no match. Absent: any.",
    )


class SignaturePart(_Model):
    """Who must have signed the model: a key, a certificate authority, or an identity that sigstore vouches for. Exactly one."""

    file: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f\\/][^\x00-\x1f\x7f\\]{0,200}$")] = Field(
        default="model.sig", description="The signature's path in the artifact."
    )
    key: Material | None = Field(default=None, description="Public key: a path relative to this file, or PEM.")
    certificate: Material | None = Field(default=None, description="Certificates of the authority: a path relative to this file, or PEM.")
    identity: Line | None = Field(default=None, description="Who signed, as sigstore's certificate names them, exactly; needs `issuer`.")
    issuer: Line | None = Field(default=None, description="The OpenID Connect issuer that vouched for the identity.")
    trust_root: Material | None = Field(
        default=None, description="sigstore's trusted root of a deployment of one's own: a path relative to this file, or JSON."
    )

    @model_validator(mode="after")
    def _names_one(self) -> SignaturePart:
        given = [name for name in ("key", "certificate", "identity") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"names {', '.join(given) or 'nobody'}; give one of key, certificate, and identity with issuer")
        if (self.identity is None) != (self.issuer is None):
            raise ValueError("identity and issuer go together")
        if self.trust_root is not None and self.identity is None:
            raise ValueError("trust_root is for an identity")
        return self

    def __str__(self) -> str:
        who = "a key" if self.key else "a certificate" if self.certificate else f"{self.identity} by {self.issuer}"
        return f"{self.file} of {who}"


class ProvenancePart(_Model):
    """What must vouch for the artifact."""

    locked: StrictBool = Field(default=False, description="Only what is scanned from a lock (`modelguard scan --lock`) passes.")
    signature: SignaturePart | None = Field(default=None, description="A signature (OpenSSF Model Signing) that must hold.")
    base_model: Literal["check", "allow"] = Field(
        default="allow",
        description="check: a base model that the model card claims must be the reference, and the weights must come from it.",
    )


class DetectorsPart(_Model):
    """Which detectors must have looked, and how they are set."""

    required: Detectors_ | None = Field(default=None, description="Not completed, for whatever reason: incomplete.")
    required_with_reference: Detectors_ | None = Field(default=None, description="Required as well whenever the scan has a reference.")
    required_with_samples: Detectors_ | None = Field(default=None, description="Required as well whenever the scan has samples.")
    optional: Detectors_ | None = Field(
        default=None, description="May fail or run out of time and leave a verdict; any other detector that ran may not."
    )
    options: dict[DetectorId, dict[str, OptionValue]] = Field(default={}, description="Detector options, by detector and name.")
    timeouts: dict[DetectorId, Duration] = Field(default={}, description="Wall-clock limit by detector: 90s, 15m, 2h.")
    budget: Duration | None = Field(default=None, description="Wall-clock limit of all searches for backdoors together: 5m, 2h.")


class MatchPart(_Model):
    """What a rule is about; every test given must hold. An empty match is refused: that is what `default` is for."""

    rule: RulePattern | None = Field(default=None, description="A rule id, or its beginning and `*`.")
    detector: DetectorId | None = None
    severity: SeverityTest | None = Field(default=None, description="info, low, medium, high or critical; alone, or after >= or <=.")
    confidence: ConfidenceTest | None = Field(default=None, description="low, medium or high; alone, or after >= or <=.")

    @model_validator(mode="after")
    def _says_something(self) -> MatchPart:
        if self.rule is None and self.detector is None and self.severity is None and self.confidence is None:
            raise ValueError("matches everything; use the key `default` for what no rule matches")
        return self

    def __str__(self) -> str:
        return str(Match(self.rule, self.detector, self.severity, self.confidence))


class RulePart(_Model):
    """What to do with the findings that match."""

    match: MatchPart
    action: Action


class WaiverPart(_Model):
    """One finding that somebody accepted, for a reason, until a date."""

    rule: RuleId
    fingerprint: Fingerprint
    reason: Line
    owner: Line
    expires: Day = Field(description="The last day on which it holds (UTC).")
    sha256: Sha256 | None = Field(default=None, description="Only for these bytes: the digest of the file the finding is in.")

    @model_validator(mode="after")
    def _not_for_gaps(self) -> WaiverPart:
        if self.rule.startswith(NOT_LOOKED_AT):
            raise ValueError(f"{self.rule} says that something was not looked at, and that cannot be waived")
        return self


class PluginsPart(_Model):
    """Which plugins may take part, and what a broken one means."""

    allow: Globs | None = Field(default=None, description="Globs (`*` only) over distribution names; modelguard itself is always allowed.")
    failures: Literal["report", "incomplete"] = Field(
        default="report",
        description="incomplete: no verdict when any plugin fails to load. report: the report says so, and the scan goes on.",
    )


class PolicyFile(_Model):
    """What is acceptable, as written in a file."""

    version: Literal[1]
    name: Name
    description: Line | None = None
    extends: tuple[Line, ...] = Field(default=(), description="Parents, `builtin:NAME` or a path relative to this file; later ones win.")
    locked: Annotated[tuple[str, ...], AfterValidator(_lockable), WithJsonSchema({"type": "array", "items": {"enum": list(LOCKABLE)}})] = ()
    mode: Literal["enforce", "report"] = Field(default="enforce", description="report: a block exits 0; an incomplete scan still exits 3.")
    sources: SourcesPart = SourcesPart()
    provenance: ProvenancePart = ProvenancePart()
    detectors: DetectorsPart = DetectorsPart()
    rules: tuple[RulePart, ...] = Field(default=(), description="First match wins.")
    default: Action = Field(default="warn", description="What happens to a finding that no rule matches.")
    waivers: tuple[WaiverPart, ...] = ()
    baseline: Literal["deny", "allow"] = Field(
        default="deny", description="allow: findings that an earlier report of the artifact has (`--baseline`) are known and do not block."
    )
    plugins: PluginsPart = PluginsPart()

    @model_validator(mode="after")
    def _requires_something(self) -> PolicyFile:
        if not self.extends and self.detectors.required is None:
            raise ValueError("detectors.required names no detector; a policy that requires nothing passes what nobody looked at")
        return self

    def policy(self) -> Policy:
        """The policy that the file comes to. Raises :class:`PolicyError` while there are parents to be merged."""
        if self.extends:
            raise PolicyError(f"policy {self.name}", "its extends are not resolved", "read it with load_policy")
        return Policy.read(self.model_dump(mode="json"))
