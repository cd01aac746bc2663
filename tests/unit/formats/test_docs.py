"""The page about formats says what the code does."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from modelguard._detectors.format_rules import RULES
from modelguard._formats.safetensors import DTYPES

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_every_limit_has_the_value_the_page_gives() -> None:
    rows = re.findall(r"\| ([0-9]+)(?: bytes)? \| `(\w+)\.(\w+)` \|", PAGE)
    assert len(rows) == 8
    for value, module, name in rows:
        assert getattr(import_module(f"modelguard._formats.{module}"), name) == int(value), name


def test_the_numbered_checks_are_those_of_the_code() -> None:
    code = (Path(__file__).parents[3] / "modelguard" / "_formats" / "safetensors.py").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([0-9]+) \|", PAGE, re.M))
    assert listed == set(re.findall(r"^ ?\(([0-9]+)\) ", code, re.M)) == set(re.findall(r"# \(([0-9]+)\)", code))


def test_every_dtype_is_listed() -> None:
    assert set(re.findall(r"`([A-Z0-9_]+)`", PAGE.partition("Dtypes: ")[2].partition(". Those")[0])) == DTYPES


def test_every_rule_the_page_names_exists() -> None:
    assert set(re.findall(r"MG[0-9]{4}", PAGE)) <= {rule.id for rule in RULES}
