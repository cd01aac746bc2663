"""The reference is whole: no rule, detector, option, hook, key, exit code, command or name is left out, and what pages show parses."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from ruamel.yaml import YAML
from support import ROOT

import modelguard
from modelguard import ModelguardError, hookspecs, option_fields
from modelguard._cli import cli
from modelguard._plugins import load
from modelguard.policy import JUDGEMENT_RULES

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("plugins/*/README.md")])
PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "python": lambda block: compile(block, "a page", "exec"),
    "toml": tomllib.loads,
    "yaml": YAML(typ="safe", pure=True).load,
}
TRIED_ELSEWHERE = {"console", "groovy", "jsonc", "sh", ""}
"""Blocks that nothing here reads: tests/integration runs the scripts; those without a language are what a terminal shows."""


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_cells(page: str) -> set[str]:
    """What stands in the first column of a page's tables, without marks."""
    return {re.sub(r"[`\[]|\]\(.*\)", "", line.split(" | ")[0].removeprefix("| ")) for line in page.splitlines() if line.startswith("| ")}


def test_every_rule_has_a_page_that_says_what_it_means_and_what_to_do() -> None:
    rules = {**load().rules(), **{rule.id: rule for rule in JUDGEMENT_RULES}}
    ours = {name: rule for name, rule in rules.items() if name.startswith("MG")}
    assert ours.keys() <= first_cells(text("rules.md"))
    for name, rule in ours.items():
        page = text(f"rules/{name}.md")
        assert {"## What it means", "## What to do"} <= set(page.splitlines()), name
        assert rule.remedy in page


def test_every_detector_has_a_page_with_every_option_and_rule() -> None:
    catalogue = json.loads((ROOT / "modelguard" / "_policies" / "catalogue.json").read_text(encoding="utf-8"))
    ours = {name for item in catalogue["distributions"].values() for name in item["detectors"]}
    assert ours <= first_cells(text("detectors.md"))
    found = load().detectors
    for name in ours:
        page = text(f"detectors/{name}.md")
        assert {f"{name}.{field.name}" for field in option_fields(found[name])} <= first_cells(page)
        assert all(rule.id in page for rule in found[name].rules)


def test_the_threat_model_says_of_every_detector_what_it_cannot_see_and_which_technique_it_meets() -> None:
    page = text("threat-model.md")
    rows = [
        line.strip("| ").split(" | ")
        for line in page.split("## What each detector")[1].split("\n## ")[0].splitlines()
        if line.startswith("| [")
    ]
    assert {re.sub(r"\[(.*?)\].*", r"\1", row[0]) for row in rows} == load().detectors.keys()
    listed = dict(
        re.findall(r"^\| \[(AML\.T\d{4}(?:\.\d{3})?)\]\(https://atlas\.mitre\.org/techniques/\1\) \| ([^|]+) \|", page, re.MULTILINE)
    )
    for row in rows:
        assert row[2].strip(), row
        assert set(row[3].split(", ")) <= listed.keys(), row
    named = {item for path in PAGES for item in re.findall(r"AML\.T\d{4}(?:\.\d{3})?", path.read_text(encoding="utf-8"))}
    assert named <= listed.keys()


def test_every_hook_is_documented() -> None:
    hooks = {name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("modelguard_")}
    assert len(hooks) >= 6
    assert hooks == set(re.findall(r"^## (\w+)$", text("hooks.md"), re.MULTILINE))


def test_every_exit_code_is_documented(mg: Any) -> None:
    from modelguard import _cli

    public = {name: getattr(modelguard, name) for name in modelguard.__all__}
    errors = {name: item for name, item in public.items() if isinstance(item, type) and issubclass(item, ModelguardError)}
    used = {value for name, value in vars(_cli).items() if name.startswith("EXIT_")} | {error.exit_code for error in errors.values()}
    used |= set(mg("schema", "report").json["$defs"]["DecisionDocument"]["properties"]["exit_code"]["enum"])
    cells = first_cells(text("exit-codes.md"))
    assert {int(cell) for cell in cells if cell.isdigit()} == used
    assert errors.keys() <= cells
    readme = first_cells((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {int(code) for cell in readme if re.fullmatch(r"[\d, ]+", cell) for code in cell.split(", ")} == used


def leaves(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[str]:
    """The names of all keys that a document of this schema may have, sections apart."""
    node = schema["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
    inner = [*node.get("anyOf", ()), *([node["items"]] if "items" in node else ())]
    for part in inner:
        yield from leaves(schema, part)
    for name, part in node.get("properties", {}).items():
        below = list(leaves(schema, part))
        yield from below or [name]


def test_every_key_of_a_report_is_documented_at_any_depth(mg: Any) -> None:
    schema = mg("schema", "report").json
    said = {part for word in re.findall(r"`([\w.\[\]]+)`", text("report.md")) for part in word.replace("[]", "").split(".")}
    keys = set(leaves(schema, schema))
    assert len(keys) > 50
    assert keys - said == set()


def test_every_public_name_is_documented() -> None:
    page = text("names.md")
    listed = first_cells(page) | set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) | first_cells(text("exit-codes.md"))
    assert set(modelguard.__all__) <= listed
    assert " at 0x" not in page


def walk(command: click.Command, path: str) -> Iterator[str]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (child := command.get_command(context, name)) is not None:
                yield from walk(child, f"{path} {name}")


def test_every_command_is_documented() -> None:
    assert set(walk(cli, "modelguard")) == set(re.findall(r"^## `(.+)`$", text("cli.md"), re.MULTILINE))


def shown(page: str) -> Iterator[str]:
    """Every command of ours that a page shows, in a block or within a sentence."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .*$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    for line in [*"\n".join(fenced).splitlines(), *indented]:
        if found := re.match(r"\s*(?:\$ )?(modelguard \S.*)", line):
            yield found[1]
    yield from re.findall(r"`(modelguard [^`]+)`", page.replace("\n", " "))


def understood(line: str) -> None:
    """Raises ``click.UsageError`` for a command or option that there is not. Values may be placeholders."""
    words = shlex.split(re.sub(r"\s+#.*|\.\.\.|[…|]| > .*", "", line))[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(click.Context(command), words.pop(0))
        if child is None:
            raise click.UsageError(f"no such command: {line}")
        command = child
    command.make_parser(click.Context(command)).parse_args(words)


def test_every_command_that_a_page_shows_is_one_there_is() -> None:
    wrong, right = [], 0
    for path in PAGES:
        if path == DOCS / "cli.md":  # what the commands say of themselves
            continue
        for line in shown(path.read_text(encoding="utf-8")):
            try:
                understood(line)
                right += 1
            except (click.UsageError, ValueError) as error:
                wrong.append(f"{path.relative_to(ROOT)}: {line}: {error}")
    assert wrong == []
    assert right > 80


@pytest.mark.parametrize(
    "line", ["modelguard scna x", "modelguard scan x --polciy y", "modelguard policy chekc x", "modelguard scan x --policy"]
)
def test_a_command_that_there_is_not_is_told(line: str) -> None:
    with pytest.raises(click.UsageError):
        understood(line)


def test_every_block_that_a_page_shows_parses() -> None:
    for path in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            if language in PARSERS:
                PARSERS[language](block)
            else:
                assert language in TRIED_ELSEWHERE, f"{path.name}: {language}"
