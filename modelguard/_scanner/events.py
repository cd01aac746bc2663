"""The lines a worker writes and the parent reads. The parent believes none of them before checking."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from modelguard.errors import PluginError
from modelguard.findings import Attachment, Confidence, Finding, Location, Severity, fingerprint

MAX_LINE = 32 << 20
"""Bytes of one event; a finding with attachments is the largest honest one."""
MAX_TOTAL = 512 << 20
"""Bytes of all events of one detector."""
MAX_FINDINGS = 10_000
"""Findings of one detector; past that nobody reads them, and SARIF consumers drop them."""
MAX_ATTACHMENT = 4 << 20


class NotJsonSafe(ValueError):
    """A value in evidence or a summary that JSON cannot carry exactly; the text names its place."""


def json_safe(value: Any, place: str) -> Any:
    """``value`` as plain JSON types, numpy scalars and arrays included. Raises :class:`NotJsonSafe`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJsonSafe(f"{place} is {value}")
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return json_safe(value.tolist(), place)
    raise NotJsonSafe(f"{place} is a {type(value).__name__}")


def finite(value: Any) -> Any:
    """``value`` with everything JSON cannot carry replaced by its description, so that a finding is kept although its evidence is bad."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    try:
        return json_safe(value, "")
    except NotJsonSafe:
        return str(value) if isinstance(value, float) else f"<{type(value).__name__}>"


def encode_finding(finding: Finding) -> tuple[dict[str, Any], str]:
    """The finding as an event, and what is wrong with its evidence ('' when nothing)."""
    try:
        evidence, problem = json_safe(finding.evidence, "evidence"), ""
    except NotJsonSafe as error:
        evidence, problem = finite(finding.evidence), str(error)
    return {
        "rule": str(finding.rule),
        "message": str(finding.message),
        "confidence": finding.confidence.label,
        "severity": finding.severity.label if finding.severity is not None else None,
        "location": dataclasses.asdict(finding.location),
        "evidence": evidence,
        "key": str(finding.key),
        "attachments": [
            {"name": item.name, "media_type": item.media_type, "data": base64.b64encode(item.data).decode()} for item in finding.attachments
        ],
    }, problem


def decode_finding(event: Mapping[str, Any], detector: str, severities: Mapping[str, Severity], identity: str) -> Finding:
    """The finding an event carries, with severity filled in from the rule and its fingerprint.

    Raises :class:`PluginError` when the rule is not one that ``detector`` declares, or the event has the wrong shape.
    """
    try:
        rule = event["rule"]
        place = event["location"]
        location = Location(
            file=_text(place["file"]),
            tensor=_text(place["tensor"]),
            rows=None if place["rows"] is None else tuple(int(row) for row in place["rows"]),
            byte_offset=None if place["byte_offset"] is None else int(place["byte_offset"]),
            byte_length=None if place["byte_length"] is None else int(place["byte_length"]),
        )
        if rule not in severities:
            declared = ", ".join(sorted(severities)) or "none"
            raise PluginError(
                f"detector {detector}", f"yielded the undeclared rule {rule}", f"declare it in `rules` (declared: {declared})"
            )
        return Finding(
            rule=rule,
            message=str(event["message"]),
            confidence=Confidence.parse(event["confidence"]),
            severity=Severity.parse(event["severity"]) if event["severity"] is not None else severities[rule],
            location=location,
            evidence=dict(event["evidence"]),
            attachments=tuple(_attachment(item) for item in event["attachments"]),
            key=str(event["key"]),
            fingerprint=fingerprint(rule, identity, location, str(event["key"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise PluginError(
            f"detector {detector}", f"sent a malformed finding ({type(error).__name__}: {error})", "report it to the plugin's author"
        ) from error


def decode_line(line: bytes) -> dict[str, Any]:
    """One event. Raises ``ValueError`` on anything but a JSON object with a string ``event``; NaN and Infinity are no JSON."""
    data = json.loads(line, parse_constant=_no_constant)
    if not isinstance(data, dict) or not isinstance(data.get("event"), str):
        raise ValueError("not an event")
    return data


def _attachment(item: Mapping[str, Any]) -> Attachment:
    data = base64.b64decode(item["data"], validate=True)
    if len(data) > MAX_ATTACHMENT:
        raise ValueError(f"attachment {item['name']} has {len(data)} bytes, more than {MAX_ATTACHMENT}")
    return Attachment(str(item["name"]), str(item["media_type"]), data)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
