"""What the how-to pages show is run, against a Hub on loopback: every command ends as the line below it says, and the Python code runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from guarding import BAD, GOOD, quick_policy, weights
from support import ROOT, Ran

from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.S)


@pytest.fixture
def place(own_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and a Hub with ``org/name`` (a tag ``v1.0``, and a newer commit) and ``org/hostile``."""
    own_hub.tag("org/name", "v1.0", own_hub.commit("org/name", GOOD))
    own_hub.commit("org/name", {"model.safetensors": weights(1)})
    own_hub.commit("org/hostile", BAD)
    monkeypatch.setattr("modelguard._policies.load.DEFAULT", str(quick_policy(tmp_path)))  # all plugins would take half a minute
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("page", ["fetch.md", "lock.md", "provenance.md"])
def test_what_a_page_shows(page: str, place: Path, mg: Callable[..., Ran]) -> None:
    if page == "provenance.md":
        pytest.importorskip("cyclonedx", reason="the extra `bom` is not installed")
    names: dict[str, object] = {}
    commands = 0
    for kind, text in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, page, "exec"), names)
            continue
        for line, code in re.findall(r"^\$ modelguard (.*)\n# exit (\d+)", text, re.M):
            commands += 1
            ran = mg(*shlex.split(line), *(["-q"] if line.split()[0] != "lock" else []))
            assert ran.code == int(code), f"{line}\n{ran.out}{ran.err}"
        assert text.count("$ modelguard ") == len(re.findall(r"^# exit", text, re.M)), "every command says how it ends"
    assert commands
