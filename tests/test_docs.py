"""Documentation is generated or tested, never merely written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_current() -> None:
    ran = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def test_the_readmes_plugin_is_a_whole_plugin() -> None:
    import types

    from modelguard.testing import check_detector

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "hookimpl" in block)
    module = types.ModuleType("modelguard_nan")
    exec(compile(code, "README.md", "exec"), module.__dict__)
    assert module.modelguard_detectors() == [module.NotANumber]
    check_detector(module.NotANumber)


def test_every_detector_option_that_a_text_names_exists() -> None:
    """`detector.option` in pages, remedies and examples; a user who copies one must not be refused."""

    from modelguard import option_fields
    from modelguard._plugins import load

    options = {name: {item.name for item in option_fields(detector)} for name, detector in load().detectors.items()}
    named = re.compile(rf"(?<![\w.-])({'|'.join(sorted(options, key=len, reverse=True))})\.([a-z_]+)\b(?=[`=])")
    table = re.compile(rf"\b({'|'.join(sorted(options, key=len, reverse=True))}): \{{([a-z_]+): ")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md"), *ROOT.glob("policies/*.yaml")]
    sources = [*ROOT.glob("modelguard/**/*.py"), *ROOT.glob("plugins/*/modelguard_*/**/*.py")]
    found = 0
    for path in pages + sources:
        text = path.read_text(encoding="utf-8")
        for detector, option in named.findall(text) + table.findall(text):
            found += 1
            assert option in options[detector], f"{path.relative_to(ROOT)} names {detector}.{option}"
    assert found > 20


PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "plugins/*/README.md", "action.yml", "constraints.txt") for path in ROOT.glob(pattern)
)
SOURCES = sorted([*ROOT.glob("modelguard/**/*.py"), *ROOT.glob("plugins/*/modelguard_*/**/*.py")])
NOT_OURS = re.compile(r"pip3? install(?: -\S+(?: \S+)?)*? [^\n`\"']*?(?<![\w./$\"{-])modelguard\b(?![_/.\w])(?:-[a-z]+)*(?:\[[a-z,]+\])?")
"""A name to be looked up on an index. Files, folders and wheels of ours have a slash in front or a suffix behind."""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install modelguard", True),
        ("pip install -q modelguard-abs", True),
        ("pip install -c constraints.txt modelguard-core[all]", True),
        ("`pip install modelguard modelguard-rome`", True),
        ("pip install -c constraints.txt . ./plugins/modelguard-runtime", False),
        ("pip install ./modelguard ./modelguard/plugins/modelguard-rome", False),
        ("pip install -c constraints.txt dist/*.whl", False),
        ('pip install -c "$HERE/constraints.txt" "$HERE"', False),
    ],
)
def test_the_rule_about_names_tells_right_from_wrong(text: str, wrong: bool) -> None:
    assert bool(NOT_OURS.search(text)) is wrong


def test_nothing_tells_anyone_to_install_a_name_we_do_not_own() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in [*PAGES, *SOURCES]
        for match in NOT_OURS.finditer(path.read_text(encoding="utf-8").replace("do not `pip install modelguard`", ""))
    ]
    assert found == []


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []
