"""docs/attacks.yaml is complete: its tests exist, and every advisory, class and rule there is has a row."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
TABLE: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "docs" / "attacks.yaml").read_text(encoding="utf-8"))
ROWS: list[dict[str, Any]] = [row for section in TABLE["sections"] for row in section["rows"]]
UNCOVERED: list[dict[str, Any]] = TABLE["not_covered"]
IDS = {name for row in (*ROWS, *UNCOVERED) for name in row.get("ids", ())}
ADVISORY = re.compile(r"CVE-\d{4}-\d{4,}|GHSA(?:-[23456789cfghjmpqrvwx]{4}){3}")
HELD = ROOT / "tests", *sorted((ROOT / "plugins").glob("*/tests"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _path(name: str) -> str:
    return name.split("::")[0].replace("@", "plugins/modelguard-serialization/tests")


def missing(name: str) -> str | None:
    """What of ``path::function``, ``path::Class::function`` or either with ``[id]`` is not there; None when all of it is."""
    path, parts = ROOT / _path(name), re.sub(r"\[.*\]$", "", name).split("::")[1:]
    if not path.is_file():
        return _path(name)
    body: list[ast.stmt] = parsed(path).body
    for part in parts:
        found = next((item for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef) and item.name == part), None)
        if found is None:
            return part
        body = found.body
    case = re.search(r"\[(.*)\]$", name)
    texts = {item.value for item in ast.walk(parsed(path)) if isinstance(item, ast.Constant) and isinstance(item.value, str)}
    return case[1] if case and case[1] not in texts else None


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in row["tests"]}))
def test_every_test_of_the_table_exists(name: str) -> None:
    assert missing(name) is None
    assert "::test_" in name


@pytest.mark.parametrize("name", ["tests/no.py::test_x", "tests/test_attacks.py::test_no", "tests/test_attacks.py::missing[" + "no case]"])
def test_a_test_that_does_not_exist_is_missed(name: str) -> None:
    assert missing(name)


def mentioned() -> Iterator[tuple[str, str]]:
    """(advisory, file) of every advisory that a test mentions."""
    for path in (path for folder in HELD for path in sorted(folder.rglob("*.py"))):
        for name in ADVISORY.findall(path.read_text(encoding="utf-8")):
            yield name, str(path.relative_to(ROOT))


def test_every_advisory_that_a_test_mentions_is_in_the_table() -> None:
    assert sorted((name, path) for name, path in set(mentioned()) if name not in IDS) == []


def test_every_id_of_the_table_is_one() -> None:
    assert [name for name in sorted(IDS) if not ADVISORY.fullmatch(name)] == []


@pytest.mark.parametrize("name", TABLE["classes"])
def test_every_class_has_a_row_and_names_its_advisories(name: str) -> None:
    rows = [row for row in (*ROWS, *UNCOVERED) if row.get("class") == name]
    assert rows
    assert set(TABLE["classes"][name]) <= {known for row in rows for known in row.get("ids", ())}


def test_every_rule_about_files_and_code_has_a_row() -> None:
    catalogue = json.loads((ROOT / "modelguard" / "_policies" / "catalogue.json").read_text(encoding="utf-8"))
    rules = {rule["id"] for rule in catalogue["rules"]}
    named = {rule for row in ROWS for rule in re.findall(r"MG\d{4}", row["does"])}
    assert named <= rules
    assert sorted(rule for rule in rules - named if rule.startswith(("MG01", "MG03"))) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what"][:60])
def test_what_a_row_says_is_what_its_tests_ask_for(row: dict[str, Any]) -> None:
    """Weakly: each rule it names is named in the file of one of its tests, or in the table of corruptions that such a file goes through."""
    files = {ROOT / _path(name) for name in row["tests"]} | {ROOT / "modelguard" / "testing" / "checkpoints.py"}
    asked = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [rule for rule in re.findall(r"MG\d{4}", row["does"]) if rule not in asked] == []


def test_every_row_is_whole() -> None:
    for row in ROWS:
        assert {"what", "does", "tests"} <= set(row) <= {"what", "does", "tests", "ids", "links", "class"}
        assert row["tests"]
    for row in UNCOVERED:
        assert {"what", "why"} <= set(row) <= {"what", "why", "ids", "links", "class"}
    assert {row["class"] for row in (*ROWS, *UNCOVERED) if "class" in row} <= set(TABLE["classes"])
    assert not any("|" in str(value) for row in (*ROWS, *UNCOVERED) for value in row.values()), "the page's columns are parted by |"
