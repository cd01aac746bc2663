"""A policy as typed, frozen values, ready to judge. What a file may say is in ``file.py``, what a policy means in ``judge.py``."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from modelguard._options import check_options, options_of
from modelguard._policies import catalogue
from modelguard._policies.rules import BLOCKS, JUDGEMENT_RULES
from modelguard.detector import Detector
from modelguard.errors import PolicyError, UsageError
from modelguard.findings import Confidence, Severity
from modelguard.report import CORE, PolicyInfo, Report

Action = Literal["block", "incomplete", "warn", "allow"]
STRICTNESS: Mapping[Action, int] = {"allow": 0, "warn": 1, "incomplete": 2, "block": 3}


def glob_matches(pattern: str, text: str) -> bool:
    """Whether ``pattern``, in which ``*`` stands for any run of characters and nothing else is special, covers all of ``text``."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


L = TypeVar("L", Severity, Confidence)


@dataclass(frozen=True, slots=True)
class Threshold(Generic[L]):
    """``high``, ``>=high`` or ``<=high``: a test on a severity or confidence."""

    sign: Literal["", ">=", "<="]
    level: L

    @classmethod
    def parse(cls, scale: type[L], value: Any) -> Threshold[L]:
        """The test that ``value`` says. Raises ``ValueError``."""
        labels = "|".join(member.label for member in scale)
        match = re.fullmatch(rf"(>=|<=|)({labels})", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"must be one of {labels.replace('|', ', ')}, alone or after >= or <=")
        sign: Any = match[1]
        return Threshold(sign, scale.parse(match[2]))

    def holds(self, value: L) -> bool:
        """Whether ``value`` passes the test."""
        if self.sign == ">=":
            return value >= self.level
        return value <= self.level if self.sign == "<=" else value == self.level

    def __str__(self) -> str:
        return f"{self.sign}{self.level.label}"


_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(value: Any) -> int:
    """The seconds of ``90s``, ``15m`` or ``2h``. Raises ``ValueError``."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smh])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a whole number of s, m or h, such as 90s, 15m or 2h")
    return int(match[1]) * _UNITS[match[2]]


def meant(word: str, known: Collection[str]) -> str:
    """``; did you mean X`` when something known is close to ``word``."""
    from difflib import get_close_matches

    close = get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass(frozen=True, slots=True)
class Sources:
    """Which artifacts may be judged at all; the keys are those of a policy file."""

    allow: tuple[str, ...] | None
    pinned: bool
    digests: bool
    formats: tuple[str, ...] | None
    remote_code: Literal["deny", "allow"]
    left_out: Literal["incomplete", "allow"]
    licences: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What must vouch for an artifact; ``signature`` holds the options of the detector of that name."""

    locked: bool
    signature: Mapping[str, str] | None
    base_model: Literal["check", "allow"]


@dataclass(frozen=True, slots=True)
class Detectors:
    """Which detectors must have looked, and how they are set; ``timeouts`` and ``budget`` are in seconds."""

    required: tuple[str, ...] | None
    required_with_reference: tuple[str, ...] | None
    required_with_samples: tuple[str, ...] | None
    optional: tuple[str, ...] | None
    options: Mapping[str, Mapping[str, Any]]
    timeouts: Mapping[str, int]
    budget: int | None


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule is about; every test that is not None must hold."""

    rule: str | None
    detector: str | None
    severity: Threshold[Severity] | None
    confidence: Threshold[Confidence] | None

    def __str__(self) -> str:
        parts = (("rule", self.rule), ("detector", self.detector), ("severity", self.severity), ("confidence", self.confidence))
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """What to do with the findings that match."""

    match: Match
    action: Action


@dataclass(frozen=True, slots=True)
class Waiver:
    """One finding that somebody accepted, for a reason, until the day ``expires`` (UTC), perhaps only for the bytes with one digest."""

    rule: str
    fingerprint: str
    reason: str
    owner: str
    expires: datetime.date
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Plugins:
    """Which plugins may take part, and what a broken one means."""

    allow: tuple[str, ...] | None
    failures: Literal["report", "incomplete"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is acceptable, with every parent merged in. ``document`` is the same as the canonical JSON values of a policy file."""

    document: Mapping[str, Any]
    name: str
    mode: Literal["enforce", "report"]
    sources: Sources
    provenance: Provenance
    detectors: Detectors
    rules: tuple[PolicyRule, ...]
    default: Action
    waivers: tuple[Waiver, ...]
    baseline: Literal["deny", "allow"]
    plugins: Plugins

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Policy:
        """The policy that ``document`` describes, which a :class:`~modelguard._policies.file.PolicyFile` without parents wrote."""
        detectors = document["detectors"]
        lists = {key: _tuple(detectors[key]) for key in ("required", "required_with_reference", "required_with_samples", "optional")}
        options = {
            name: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            for name, values in detectors["options"].items()
        }
        return cls(
            document=document,
            name=document["name"],
            mode=document["mode"],
            sources=Sources(**{key: _tuple(value) for key, value in document["sources"].items()}),
            provenance=_provenance(document["provenance"]),
            detectors=Detectors(
                **lists,
                options=options,
                timeouts={name: seconds(value) for name, value in detectors["timeouts"].items()},
                budget=None if detectors["budget"] is None else seconds(detectors["budget"]),
            ),
            rules=tuple(PolicyRule(_match(rule["match"]), rule["action"]) for rule in document["rules"]),
            default=document["default"],
            waivers=tuple(
                Waiver(**{**waiver, "expires": datetime.date.fromisoformat(waiver["expires"])}) for waiver in document["waivers"]
            ),
            baseline=document["baseline"],
            plugins=Plugins(**{key: _tuple(value) for key, value in document["plugins"].items()}),
        )

    @property
    def required(self) -> tuple[str, ...]:
        """Ids that must complete whatever is scanned, sorted."""
        return tuple(sorted(self.detectors.required or ()))

    def required_for(self, *, reference: bool, samples: bool) -> tuple[str, ...]:
        """Ids that must complete in a scan with or without a reference and samples, sorted."""
        compared = self.detectors.required_with_reference or () if reference else ()
        searched = self.detectors.required_with_samples or () if samples else ()
        signed = ("signature",) if self.provenance.signature is not None else ()
        return tuple(sorted({*self.required, *compared, *searched, *signed}))

    @property
    def sha256(self) -> str:
        """Digest of the resolved policy's canonical JSON: 64 hex digits, the same wherever and however it is written down."""
        body = json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(body.encode()).hexdigest()

    @property
    def info(self) -> PolicyInfo:
        """What a report records of it."""
        return PolicyInfo(self.name, self.sha256)

    def check_baseline(self, baseline: Report) -> None:
        """Refuse ``baseline`` where the policy accepts none, or where it knows nothing. Raises :class:`UsageError`."""
        if self.baseline != "allow":
            remedy = "judge without one, or waive single findings in the policy"
            raise UsageError("the baseline", f"policy {self.name} accepts none (baseline: deny)", remedy)
        if baseline.failure:
            raise UsageError("the baseline", f"its artifact was not read ({baseline.failure}), so it knows nothing", "give another report")

    def allows_plugin(self, distribution: str) -> bool:
        """Whether a plugin of this distribution may take part."""
        allow = self.plugins.allow
        return distribution == CORE or allow is None or any(glob_matches(item, distribution) for item in allow)

    def requiring(self, detectors: Collection[str]) -> Policy:
        """The same policy, requiring exactly ``detectors`` (what ``--detector`` on the command line asks for).

        The digest differs from the file's, so a report never passes a narrowed policy off as the whole one.
        """
        named = {"required": sorted(detectors), "required_with_reference": None, "required_with_samples": None}
        provenance = {**self.document["provenance"], **({} if "signature" in detectors else {"signature": None})}
        return Policy.read({**self.document, "detectors": {**self.document["detectors"], **named}, "provenance": provenance})

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
                    f"no installed plugin brings a detector {name!r}{meant(name, detectors)}",
                    "`modelguard plugins list` shows the detectors there are",
                )
        rules = {*known_rules, *(rule.id for rule in JUDGEMENT_RULES), *(rule.id for known in ours.values() for rule in known.rules)}
        for place, pattern in self._rule_patterns():
            if not _names_a_rule(pattern, rules):
                raise PolicyError(
                    f"policy {self.name}: {place}",
                    f"no installed detector declares a rule {pattern}{meant(pattern, rules)}",
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


def _provenance(document: Mapping[str, Any]) -> Provenance:
    signature = document["signature"]
    given = None if signature is None else {key: value for key, value in signature.items() if value is not None}
    return Provenance(document["locked"], given, document["base_model"])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _match(document: Mapping[str, Any]) -> Match:
    severity, confidence = document["severity"], document["confidence"]
    return Match(
        document["rule"],
        document["detector"],
        Threshold.parse(Severity, severity) if severity is not None else None,
        Threshold.parse(Confidence, confidence) if confidence is not None else None,
    )
