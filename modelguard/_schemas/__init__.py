"""The published JSON Schemas (2020-12) of what modelguard reads and writes."""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, Any]:
    """The schema of a policy file."""
    from modelguard._policies.file import PolicyFile

    return {"$schema": DIALECT, "$id": "urn:modelguard:schema:policy:1", **PolicyFile.model_json_schema(), "title": "modelguard policy"}


def report_schema() -> dict[str, Any]:
    """The schema of a JSON report. Open: a later version may add keys, so a validator must not refuse unknown ones."""
    from modelguard._schemas.report import ReportDocument

    schema = ReportDocument.model_json_schema(by_alias=True, mode="serialization")
    for definition in (schema, *schema["$defs"].values()):
        definition.pop("additionalProperties", None)
    return {"$schema": DIALECT, "$id": "urn:modelguard:schema:report:1", **schema, "title": "modelguard report"}
