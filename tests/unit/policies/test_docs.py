"""docs/policy.md and docs/report.md say every key there is, and their examples are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support import ROOT

from modelguard._policies.file import LOCKABLE, PolicyFile, RulePart, WaiverPart
from modelguard._policies.merge import _TABLES, _UNIONS, _WEAKER
from modelguard._schemas import report_schema
from modelguard.policy import JUDGEMENT_RULES, builtin_names, load_policy

POLICY = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
REPORT = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")


def rows(text: str) -> dict[str, str]:
    """First cell (its back-quoted words joined) to the whole row, for every table row that begins with back-quoted words."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                found[name] = found.get(name, "") + line
    return found


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_policy_key_has_a_row() -> None:
    documented = rows(POLICY.split("## The file")[1].split("## How a verdict")[0])
    assert set(keys(PolicyFile)) | {"rules[].match", "rules[].action"} == set(documented)
    assert set(RulePart.model_fields) == {"match", "action"}
    waivers = POLICY.split("## Waivers")[1].split("## Parents")[0]
    assert all(f"`{name}`" in waivers for name in WaiverPart.model_fields)


def test_every_lockable_key_says_what_weaker_means() -> None:
    documented = set(rows(POLICY.split("## Parents")[1]))
    assert documented == {*_WEAKER, *_UNIONS, *_TABLES, "rules", "waivers"}
    sections = {"sources", "provenance", "detectors", "plugins"}
    assert documented | sections == set(LOCKABLE)


def test_every_rule_and_policy_of_ours_is_mentioned() -> None:
    assert all(rule.id in POLICY for rule in JUDGEMENT_RULES)
    assert all(f"`builtin:{name}`" in POLICY for name in builtin_names())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_examples_are_valid(number: int, tmp_path: Path) -> None:
    example = re.findall(r"```yaml\n(.*?)```", POLICY, re.DOTALL)[number]
    (tmp_path / "org.yaml").write_text("version: 1\nname: org\ndetectors: {required: [format-integrity]}\n")
    (tmp_path / "p.yaml").write_text(example)
    policy = load_policy(str(tmp_path / "p.yaml"))
    from modelguard._plugins import load

    registry = load()
    policy.check(registry.rules(), registry.detectors)


def test_every_example_is_tried() -> None:
    assert POLICY.count("```yaml") == 3


def test_the_first_example_uses_every_key() -> None:
    example = re.findall(r"```yaml\n(.*?)```", POLICY, re.DOTALL)[0]
    for key in keys(PolicyFile):
        assert re.search(rf"\b{key.split('.')[-1]}:", example), key


def test_every_report_key_is_documented() -> None:
    documented = rows(REPORT.split("## JSON")[1].split("## SARIF")[0])
    schema = report_schema()
    assert set(schema["properties"]) | {"outcomes[].findings"} == set(documented)

    def inner(name: str) -> Any:
        text = repr(schema["properties"][name])
        reference = re.search(r"#/\$defs/(\w+)", text)
        return schema["$defs"][reference[1]].get("properties", {}) if reference else {}

    for name in set(schema["properties"]) - {"reference"}:  # described as the target is
        for key in inner(name):
            assert f"`{key}`" in documented[name], (name, key)
    for key in schema["$defs"]["FindingDocument"]["properties"]:
        assert f"`{key}`" in documented["outcomes[].findings"], key
    for definition in ("ViolationDocument", "WaivedDocument"):
        for key in schema["$defs"][definition]["properties"]:
            assert f"`{key}`" in documented["decision"], (definition, key)
