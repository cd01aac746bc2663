"""Rules and findings: what a detector may say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

RULE_ID = "MG[0-9]{4}|[A-Z][A-Z0-9]{1,15}-[0-9]{4}"
"""A rule id as a regular expression: modelguard's own, or a plugin's prefix, a hyphen and four digits."""
OWN_PREFIX = "MG"


def rule_prefix(rule: str) -> str:
    """The namespace ``rule`` lies in: ``MG``, which only modelguard's own distributions use, or the plugin's prefix (``ACME``)."""
    prefix, hyphen, _ = rule.partition("-")
    return prefix if hyphen and not re.fullmatch("MG[0-9]*", prefix) else OWN_PREFIX


class _Ordered(IntEnum):
    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, label: str) -> Any:
        """The member called ``label`` (lower case). Raises ``KeyError`` when there is none."""
        return cls[label.upper()]


class Severity(_Ordered):
    """How bad the finding would be if true."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class Confidence(_Ordered):
    """How sure the detector is that it is true."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """A declared kind of finding.

    ``id`` is a prefix of the plugin's own, a hyphen and four digits, such as ``ACME-0001`` (:data:`RULE_ID`); modelguard's own rules are
    ``MG`` and four digits. ``title`` is a noun phrase; ``description`` says what it means; ``lookalikes`` what else looks like it;
    ``remedy`` what to do. ``severity`` is what a finding gets unless it says otherwise.
    """

    id: str
    name: str
    title: str
    severity: Severity
    description: str
    remedy: str
    lookalikes: str = ""
    cwe: int | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where in the artifact. Every part is optional; byte positions are absolute in ``file``."""

    file: str | None = None
    tensor: str | None = None
    rows: tuple[int, ...] | None = None
    byte_offset: int | None = None
    byte_length: int | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A small binary exhibit, such as a recovered trigger as PNG."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One instance of a rule.

    ``evidence`` is JSON-safe and finite. ``key`` is what distinguishes this finding from others of the same rule and tensor
    over revisions of the model (a class index, a layer); it enters the fingerprint, message and scores do not.
    ``severity`` None means the rule's; in a report it is settled.
    """

    rule: str
    message: str
    confidence: Confidence = Confidence.MEDIUM
    severity: Severity | None = None
    location: Location = field(default_factory=Location)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    key: str = ""
    fingerprint: str = ""


def settled(finding: Finding, severities: Mapping[str, Severity]) -> Finding:
    """``finding`` with a severity: its own, else its rule's by id, else (a rule nobody declared) the worst."""
    if finding.severity is not None:
        return finding
    return replace(finding, severity=severities.get(finding.rule, Severity.CRITICAL))


_SHARD = re.compile(r"-[0-9]{5,}-of-[0-9]{5,}(?=\.[A-Za-z0-9]+\Z)")


def fingerprint(rule: str, identity: str, location: Location, key: str) -> str:
    """``modelguard/v1:`` and 32 hex digits over rule, model identity, file, tensor and the detector's key.

    Of a tensor's shard the number is left out: the next revision may keep it in another one.
    """
    if location.tensor is None:
        parts: tuple[str, ...] = (rule, identity, location.file or "", key)
    else:
        parts = (rule, identity, location.tensor, key, _SHARD.sub("", location.file or ""))
    body = b"".join(len(raw := part.encode("utf-8", "surrogatepass")).to_bytes(8, "little") + raw for part in parts)
    return f"modelguard/v1:{hashlib.sha256(body).hexdigest()[:32]}"
