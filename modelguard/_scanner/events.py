"""The lines a worker writes and the parent reads. The parent believes none of them before checking."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from modelguard.detector import Capability
from modelguard.errors import PluginError
from modelguard.findings import Attachment, Confidence, Finding, Location, Severity, fingerprint

MAX_LINE = 32 << 20
"""Bytes of one event; a finding with attachments is the largest honest one."""
MAX_TOTAL = 512 << 20
"""Bytes of all events of one detector."""
MAX_FINDINGS = 10_000
"""Findings of one detector; past that nobody reads them, and SARIF consumers drop them."""
MAX_ATTACHMENT = 4 << 20
MAX_DEPTH = 32
"""Levels of nesting in evidence or a summary; what reads a report recurses over it."""
MAX_WHOLE = 1 << 64
"""Largest whole number, either sign: beyond it readers of JSON disagree, and a float may not hold it."""


class NotJsonSafe(ValueError):
    """A value in evidence or a summary that JSON cannot carry exactly; the text names its place."""


def json_safe(value: Any, place: str, depth: int = 0) -> Any:
    """``value`` as plain JSON types, numpy scalars and arrays included. Raises :class:`NotJsonSafe`."""
    if depth > MAX_DEPTH:
        raise NotJsonSafe(f"{place[:80]}... is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_WHOLE:
            raise NotJsonSafe(f"{place} is a whole number beyond 2^64")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJsonSafe(f"{place} is {value}")
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, f"{place}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return json_safe(value.tolist(), place, depth)
    raise NotJsonSafe(f"{place} is a {type(value).__name__}")


def finite(value: Any, depth: int = 0) -> Any:
    """``value`` with everything JSON cannot carry replaced by its description, so that a finding is kept although its evidence is bad."""
    if depth <= MAX_DEPTH and isinstance(value, Mapping):
        return {str(key): finite(item, depth + 1) for key, item in value.items()}
    if depth <= MAX_DEPTH and isinstance(value, list | tuple):
        return [finite(item, depth + 1) for item in value]
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
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, binascii.Error) as error:
        raise PluginError(
            f"detector {detector}", f"sent a malformed finding ({type(error).__name__}: {error})", "report it to the plugin's author"
        ) from error


def decode_line(line: bytes) -> dict[str, Any]:
    """One event: a JSON object with a string ``event``. Raises ``ValueError`` on all else, and past the limits on numbers and depth."""
    data = json.loads(line, parse_constant=_no_constant, parse_float=_float, parse_int=_whole)
    if not isinstance(data, dict) or not isinstance(data.get("event"), str):
        raise ValueError("not an event")
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH + 8):  # the event around the evidence has a few levels of its own
        level = [
            item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer) if isinstance(item, dict | list)
        ]
        if not level:
            return data
    raise ValueError("nested too deeply")


def is_description(data: Any) -> bool:
    """Whether ``data`` is what a worker says of the artifact it has opened; see ``worker.describe``."""
    if not isinstance(data, dict) or not all(_texts(data.get(key)) for key in ("capabilities", "formats", "unread", "problems")):
        return False
    if not set(data["capabilities"]) <= {item.value for item in Capability}:
        return False
    samples = data.get("samples")
    sampled = samples is None or (
        isinstance(samples, dict)
        and set(samples) == {"origin", "sha256", "count", "labelled"}
        and all(isinstance(samples[key], str) for key in ("origin", "sha256"))
        and type(samples["count"]) is int
        and isinstance(samples["labelled"], bool)
    )
    return sampled and (data.get("reference") is None or is_description(data["reference"]))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _attachment(item: Mapping[str, Any]) -> Attachment:
    data = base64.b64decode(item["data"], validate=True)
    if len(data) > MAX_ATTACHMENT:
        raise ValueError(f"attachment {item['name']} has {len(data)} bytes, more than {MAX_ATTACHMENT}")
    return Attachment(str(item["name"]), str(item["media_type"]), data)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 21 or abs(int(text)) > MAX_WHOLE:
        raise ValueError(f"{text[:20]} is too large")
    return int(text)
