"""The published JSON Schemas (2020-12) of what modelguard reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, Any]:
    """The schema of a policy file."""
    from modelguard._policies.file import PolicyFile

    return {"$schema": DIALECT, "$id": "urn:modelguard:schema:policy:1", **PolicyFile.model_json_schema(), "title": "modelguard policy"}


def report_schema() -> dict[str, Any]:
    """The schema of a JSON report."""
    from modelguard._schemas.report import ReportDocument

    return _written(ReportDocument, "report", "modelguard report")


def fleet_schema() -> dict[str, Any]:
    """The schema of the JSON summary of a fleet."""
    from modelguard._schemas.fleet import FleetDocument

    return _written(FleetDocument, "fleet", "modelguard fleet summary")


def _written(document: type[BaseModel], name: str, title: str) -> dict[str, Any]:
    """The schema of something modelguard writes. Open: a later version may add keys, so a validator must not refuse unknown ones."""
    schema = document.model_json_schema(by_alias=True, mode="serialization")
    for definition in (schema, *schema["$defs"].values()):
        definition.pop("additionalProperties", None)
    return {"$schema": DIALECT, "$id": f"urn:modelguard:schema:{name}:1", **schema, "title": title}
