"""A finding as JSON, written here and read here: in a report, and between a worker and its parent."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, TypeVar

from modelguard.findings import Attachment, Confidence, Finding, Location, Severity

T = TypeVar("T")


def write_finding(finding: Finding) -> dict[str, Any]:
    """The finding as plain JSON values. ``key`` is not among them: it has entered the fingerprint."""
    place = finding.location
    return {
        "rule": str(finding.rule),
        "severity": finding.severity.label if finding.severity is not None else None,
        "confidence": finding.confidence.label,
        "message": str(finding.message),
        "location": {
            "file": place.file,
            "tensor": place.tensor,
            "rows": list(place.rows) if place.rows is not None else None,
            "byte_offset": place.byte_offset,
            "byte_length": place.byte_length,
        },
        "evidence": dict(finding.evidence),
        "attachments": [
            {"name": item.name, "media_type": item.media_type, "data": base64.b64encode(item.data).decode()} for item in finding.attachments
        ],
        "fingerprint": finding.fingerprint,
    }


def read_finding(data: Mapping[str, Any]) -> Finding:
    """What :func:`write_finding` wrote. Raises ``ValueError`` naming the part that is missing or has another form."""
    try:
        place = data["location"]
        rows = place["rows"]
        return Finding(
            rule=_a(str, data["rule"]),
            message=_a(str, data["message"]),
            confidence=Confidence.parse(data["confidence"]),
            severity=Severity.parse(data["severity"]) if data["severity"] is not None else None,
            location=Location(
                file=_maybe(str, place["file"]),
                tensor=_maybe(str, place["tensor"]),
                rows=None if rows is None else tuple(_a(int, row) for row in _a(list, rows)),
                byte_offset=_maybe(int, place["byte_offset"]),
                byte_length=_maybe(int, place["byte_length"]),
            ),
            evidence=_a(dict, data["evidence"]),
            attachments=tuple(
                Attachment(_a(str, item["name"]), _a(str, item["media_type"]), base64.b64decode(_a(str, item["data"]), validate=True))
                for item in _a(list, data["attachments"])
            ),
            fingerprint=_a(str, data["fingerprint"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _a(kind: type[T], value: object) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is not of type {kind.__name__}")
    return value


def _maybe(kind: type[T], value: object) -> T | None:
    return None if value is None else _a(kind, value)
