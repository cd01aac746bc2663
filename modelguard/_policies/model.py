"""The policy file as typed, frozen values. A :class:`Policy` that exists is valid; what it means is in ``judge.py``."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
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

from modelguard._options import check_options, options_of
from modelguard._policies import catalogue
from modelguard._policies.rules import BLOCKS, JUDGEMENT_RULES, NOT_LOOKED_AT
from modelguard.detector import Detector
from modelguard.errors import PolicyError, UsageError
from modelguard.findings import RULE_ID, Confidence, Severity
from modelguard.report import CORE, PolicyInfo

Action = Literal["block", "incomplete", "warn", "allow"]
STRICTNESS: Mapping[Action, int] = {"allow": 0, "warn": 1, "incomplete": 2, "block": 3}

LOCKABLE = (
    "mode", "sources", "sources.allow", "sources.pinned", "sources.digests", "sources.formats", "sources.remote_code",
    "sources.left_out",
    "detectors", "detectors.required", "detectors.required_with_reference", "detectors.required_with_samples",
    "detectors.optional", "detectors.options", "detectors.timeouts", "detectors.budget",
    "rules", "default", "waivers", "plugins", "plugins.allow", "plugins.failures",
)  # fmt: skip


def glob_matches(pattern: str, text: str) -> bool:
    """Whether ``pattern``, in which ``*`` stands for any run of characters and nothing else is special, covers all of ``text``."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class Threshold:
    """``high``, ``>=high`` or ``<=high``: a test on a severity or confidence."""

    sign: Literal["", ">=", "<="]
    level: Severity | Confidence

    def holds(self, value: Severity | Confidence) -> bool:
        """Whether ``value`` passes the test."""
        if self.sign == ">=":
            return value >= self.level
        return value <= self.level if self.sign == "<=" else value == self.level

    def __str__(self) -> str:
        return f"{self.sign}{self.level.label}"


def _threshold(scale: type[Severity] | type[Confidence]) -> Callable[[Any], Threshold]:
    labels = "|".join(member.label for member in scale)

    def parse(value: Any) -> Threshold:
        match = re.fullmatch(rf"(>=|<=|)({labels})", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"must be one of {labels.replace('|', ', ')}, alone or after >= or <=")
        sign: Any = match[1]
        return Threshold(sign, scale.parse(match[2]))

    return parse


def _threshold_schema(scale: type[Severity] | type[Confidence]) -> dict[str, str]:
    return {"type": "string", "pattern": f"^(>=|<=)?({'|'.join(member.label for member in scale)})$"}


_UNITS = {"s": 1, "m": 60, "h": 3600}


def duration(value: Any) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smh])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a whole number of s, m or h, such as 90s, 15m or 2h")
    return int(match[1]) * _UNITS[match[2]]


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
            raise ValueError(f"{item!r} cannot be locked{_meant(item, LOCKABLE)}")
    return items


def _meant(word: str, known: Collection[str]) -> str:
    """``; did you mean X`` when something known is close to ``word``."""
    close = get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


SeverityTest = Annotated[Threshold, PlainValidator(_threshold(Severity)), PlainSerializer(str), WithJsonSchema(_threshold_schema(Severity))]
ConfidenceTest = Annotated[
    Threshold, PlainValidator(_threshold(Confidence)), PlainSerializer(str), WithJsonSchema(_threshold_schema(Confidence))
]
Duration = Annotated[
    int,
    PlainValidator(duration),
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
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Globs = Annotated[tuple[Glob, ...], Field(min_length=1), AfterValidator(_distinct)]
Detectors_ = Annotated[tuple[DetectorId, ...], Field(min_length=1), AfterValidator(_distinct)]
OptionValue = bool | int | float | str | tuple[bool | int | float | str, ...] | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sources(_Model):
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


class Detectors(_Model):
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


class Match(_Model):
    """What a rule is about; every test given must hold. An empty match is refused: that is what `default` is for."""

    rule: RulePattern | None = Field(default=None, description="A rule id, or its beginning and `*`.")
    detector: DetectorId | None = None
    severity: SeverityTest | None = Field(default=None, description="info, low, medium, high or critical; alone, or after >= or <=.")
    confidence: ConfidenceTest | None = Field(default=None, description="low, medium or high; alone, or after >= or <=.")

    @model_validator(mode="after")
    def _says_something(self) -> Match:
        if self.rule is None and self.detector is None and self.severity is None and self.confidence is None:
            raise ValueError("matches everything; use the key `default` for what no rule matches")
        return self

    def __str__(self) -> str:
        parts = (("rule", self.rule), ("detector", self.detector), ("severity", self.severity), ("confidence", self.confidence))
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None)


class PolicyRule(_Model):
    """What to do with the findings that match."""

    match: Match
    action: Action


class Waiver(_Model):
    """One finding that somebody accepted, for a reason, until a date."""

    rule: RuleId
    fingerprint: Fingerprint
    reason: Line
    owner: Line
    expires: Day = Field(description="The last day on which it holds (UTC).")
    sha256: Sha256 | None = Field(default=None, description="Only for these bytes: the digest of the file the finding is in.")

    @model_validator(mode="after")
    def _not_for_gaps(self) -> Waiver:
        if self.rule.startswith(NOT_LOOKED_AT):
            raise ValueError(f"{self.rule} says that something was not looked at, and that cannot be waived")
        return self


class Plugins(_Model):
    """Which plugins may take part, and what a broken one means."""

    allow: Globs | None = Field(default=None, description="Globs (`*` only) over distribution names; modelguard itself is always allowed.")
    failures: Literal["report", "incomplete"] = Field(
        default="report",
        description="incomplete: no verdict when any plugin fails to load. report: the report says so, and the scan goes on.",
    )


class Policy(_Model):
    """What is acceptable. As written in a file, or, with no ``extends`` left, resolved and ready to judge."""

    version: Literal[1]
    name: Name
    description: Line | None = None
    extends: tuple[Line, ...] = Field(default=(), description="Parents, `builtin:NAME` or a path relative to this file; later ones win.")
    locked: Annotated[tuple[str, ...], AfterValidator(_lockable), WithJsonSchema({"type": "array", "items": {"enum": list(LOCKABLE)}})] = ()
    mode: Literal["enforce", "report"] = Field(default="enforce", description="report: a block exits 0; an incomplete scan still exits 3.")
    sources: Sources = Sources()
    detectors: Detectors = Detectors()
    rules: tuple[PolicyRule, ...] = Field(default=(), description="First match wins.")
    default: Action = Field(default="warn", description="What happens to a finding that no rule matches.")
    waivers: tuple[Waiver, ...] = ()
    plugins: Plugins = Plugins()

    @model_validator(mode="after")
    def _requires_something(self) -> Policy:
        if not self.extends and self.detectors.required is None:
            raise ValueError("detectors.required names no detector; a policy that requires nothing passes what nobody looked at")
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """Ids that must complete whatever is scanned, sorted."""
        return tuple(sorted(self.detectors.required or ()))

    def required_for(self, *, reference: bool, samples: bool) -> tuple[str, ...]:
        """Ids that must complete in a scan with or without a reference and samples, sorted."""
        compared = self.detectors.required_with_reference or () if reference else ()
        searched = self.detectors.required_with_samples or () if samples else ()
        return tuple(sorted({*self.required, *compared, *searched}))

    @property
    def sha256(self) -> str:
        """Digest of the resolved policy's canonical JSON: 64 hex digits, the same wherever and however it is written down."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(body.encode()).hexdigest()

    @property
    def info(self) -> PolicyInfo:
        """What a report records of it."""
        return PolicyInfo(self.name, self.sha256)

    def allows_plugin(self, distribution: str) -> bool:
        """Whether a plugin of this distribution may take part."""
        allow = self.plugins.allow
        return distribution == CORE or allow is None or any(glob_matches(item, distribution) for item in allow)

    def requiring(self, detectors: Collection[str]) -> Policy:
        """The same policy, requiring exactly ``detectors`` (what ``--detector`` on the command line asks for).

        The digest differs from the file's, so a report never passes a narrowed policy off as the whole one.
        """
        named = {"required": tuple(sorted(detectors)), "required_with_reference": None, "required_with_samples": None}
        changed = self.detectors.model_copy(update=named)
        return self.model_copy(update={"detectors": changed})

    def check(self, known_rules: Collection[str], known_detectors: Mapping[str, type[Detector] | None]) -> None:
        """Refuse names that nobody declares, and detector options that a detector would refuse: a mistyped id would silently never match.

        ``known_rules`` and ``known_detectors`` are what is installed; a detector without its class took part in a stored report. Ids of
        modelguard's own distributions that are not installed pass: whatever they name is incomplete then. Raises :class:`PolicyError`
        naming the place, with the closest known name.
        """
        ours = catalogue.detectors()
        detectors = {*known_detectors, *ours}
        for place, name in self._detector_ids():
            if name not in detectors:
                raise PolicyError(
                    f"policy {self.name}: {place}",
                    f"no installed plugin brings a detector {name!r}{_meant(name, detectors)}",
                    "`modelguard plugins list` shows the detectors there are",
                )
        rules = {*known_rules, *(rule.id for rule in JUDGEMENT_RULES), *(rule.id for known in ours.values() for rule in known.rules)}
        for place, pattern in self._rule_patterns():
            if not _names_a_rule(pattern, rules):
                raise PolicyError(
                    f"policy {self.name}: {place}",
                    f"no installed detector declares a rule {pattern}{_meant(pattern, rules)}",
                    "`modelguard rules` lists them",
                )
        for number, rule in enumerate(self.rules):
            if rule.match.rule in {item.id for item in JUDGEMENT_RULES}:
                raise PolicyError(
                    f"policy {self.name}: rules[{number}].match.rule",
                    f"{rule.match.rule} is given by the policy itself and is never a finding",
                    "it follows from detectors.required, sources, plugins and waivers",
                )
        self._check_options(known_detectors)

    def _check_options(self, known_detectors: Mapping[str, type[Detector] | None]) -> None:
        """By the detector's class where it is installed, else by the catalogue. Nothing is known of a detector that is in neither."""
        for name, values in self.detectors.options.items():
            detector, known = known_detectors.get(name), catalogue.detectors().get(name)
            if detector is None and known is None:
                continue
            try:
                check_options(name, options_of(detector) if detector is not None else known.options if known is not None else (), values)
            except UsageError as error:
                raise PolicyError(f"policy {self.name}: detectors.options: {error.thing}", error.cause, error.remedy) from None

    def _detector_ids(self) -> Iterator[tuple[str, str]]:
        for name in self.detectors.required or ():
            yield "detectors.required", name
        for name in self.detectors.required_with_reference or ():
            yield "detectors.required_with_reference", name
        for name in self.detectors.required_with_samples or ():
            yield "detectors.required_with_samples", name
        for name in self.detectors.optional or ():
            yield "detectors.optional", name
        for name in self.detectors.options:
            yield "detectors.options", name
        for name in self.detectors.timeouts:
            yield "detectors.timeouts", name
        for number, rule in enumerate(self.rules):
            if rule.match.detector is not None:
                yield f"rules[{number}].match.detector", rule.match.detector

    def _rule_patterns(self) -> Iterator[tuple[str, str]]:
        for number, rule in enumerate(self.rules):
            if rule.match.rule is not None:
                yield f"rules[{number}].match.rule", rule.match.rule
        for number, waiver in enumerate(self.waivers):
            yield f"waivers[{number}].rule", waiver.rule


def _names_a_rule(pattern: str, rules: Collection[str]) -> bool:
    """Whether ``pattern`` matches a rule there is, or covers a documented block of ours."""
    start = pattern.rstrip("*")
    return any(glob_matches(pattern, rule) for rule in rules) or (start != pattern and any(block.startswith(start) for block in BLOCKS))
