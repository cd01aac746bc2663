"""A resolved policy as YAML, each part with the file it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from modelguard._policies.load import Resolved


def render_resolved(resolved: Resolved) -> str:
    """The whole merged policy, defaults included, as a policy file that says the same; comments name the origins."""
    document = resolved.policy.document
    return "\n".join([f"# sha256 {resolved.policy.sha256}", *_lines(document, resolved)]) + "\n"


def _lines(document: Mapping[str, Any], resolved: Resolved) -> Iterator[str]:
    yield "version: 1"
    yield f"name: {_value(document['name'])}"
    if document["description"] is not None:
        yield f"description: {_value(document['description'])}"
    if document["locked"]:
        yield "locked:"
        for key in document["locked"]:
            yield f"  - {key}{_origin(resolved, f'locked.{key}')}"
    yield f"mode: {document['mode']}{_origin(resolved, 'mode')}"
    yield from _section("sources", document["sources"], resolved)
    yield from _section("provenance", document["provenance"], resolved)
    yield from _detectors(document["detectors"], resolved)
    yield from _entries("rules", document["rules"], resolved)
    yield f"default: {document['default']}{_origin(resolved, 'default')}"
    yield from _entries("waivers", document["waivers"], resolved)
    yield f"baseline: {document['baseline']}{_origin(resolved, 'baseline')}"
    yield from _section("plugins", document["plugins"], resolved)


def _section(name: str, section: dict[str, Any], resolved: Resolved) -> Iterator[str]:
    yield f"{name}:"
    for key, value in section.items():
        yield f"  {key}: {_value(value)}{_origin(resolved, f'{name}.{key}')}"


def _detectors(section: dict[str, Any], resolved: Resolved) -> Iterator[str]:
    yield "detectors:"
    for key in ("required", "required_with_reference", "required_with_samples"):
        if section[key]:
            yield f"  {key}:"
            for name in section[key]:
                yield f"    - {name}{_origin(resolved, f'detectors.{key}.{name}')}"
    if section["optional"]:
        yield f"  optional: {_value(section['optional'])}{_origin(resolved, 'detectors.optional')}"
    if section["budget"]:
        yield f"  budget: {section['budget']}{_origin(resolved, 'detectors.budget')}"
    if section["options"]:
        yield "  options:"
        for name, options in section["options"].items():
            yield f"    {name}:"
            for option, value in options.items():
                yield f"      {_value(option)}: {_value(value)}{_origin(resolved, f'detectors.options.{name}.{option}')}"
    if section["timeouts"]:
        yield "  timeouts:"
        for name, value in section["timeouts"].items():
            yield f"    {name}: {value}{_origin(resolved, f'detectors.timeouts.{name}')}"


def _entries(name: str, entries: list[dict[str, Any]], resolved: Resolved) -> Iterator[str]:
    yield f"{name}:" if entries else f"{name}: []"
    for number, entry in enumerate(entries):
        yield f"  - {_value(_given(entry))}{_origin(resolved, f'{name}[{number}]')}"


def _given(value: Any) -> Any:
    """``value`` without the keys that say nothing."""
    return {key: _given(item) for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def _value(value: Any) -> str:
    # JSON is YAML, and quotes whatever could be read as something else.
    return json.dumps(value)


def _origin(resolved: Resolved, key: str) -> str:
    return "  # " + json.dumps(resolved.origins.get(key, "default"))[1:-1]
