"""What the tutorial and the how-to pages show, run in order in a folder with small models: commands, files and Python."""

from __future__ import annotations

import re
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from snippets import commands, lay_out
from support import ROOT, Ran

from modelguard import load_report
from modelguard.testing.hub import LoopbackHub

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
ELSEWHERE = {". .venv/bin/activate", "(cd dist && sha256sum -c SHA256SUMS)"}
"""Lines that make sense only in a clone that is set up; `make` and `pip` are held against the Makefile and pip's own options."""


def shown(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_out(tmp_path, load_file(tiny_model / "model.safetensors"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FIRST_WORD = {0: "PASS", 1: "BLOCKED", 3: "INCOMPLETE"}


class Reader:
    """Somebody who does what a page says, from top to bottom."""

    def __init__(self, mg: Run, here: Path, searches: bool = False) -> None:
        self.mg = mg
        self.here = here
        self.searches = searches
        self.names: dict[str, object] = {}
        self.words: dict[str, str] = {}
        """What stands for a placeholder of the page."""
        self.said: list[str] = []

    def read(self, page: Path) -> None:
        for language, text in shown(page):
            if language == "python":
                exec(compile(text, page.name, "exec"), self.names)
            elif language == "yaml":
                self.keep(text)
            elif language == "sh":
                for argv, code in commands(text):
                    self.obey(argv, code)
            else:
                raise AssertionError(f"{page.name} shows a block of {language or 'no language'}, and nobody knows how to try it")

    def keep(self, text: str) -> None:
        """A file, whose name stands in its first line."""
        name = re.match(r"# ([\w.-]+)\n", text)
        assert name, "a file on a page begins with a comment that names it"
        (self.here / name[1]).write_text(self.meant(text))

    def meant(self, text: str) -> str:
        for placeholder, word in self.words.items():
            text = text.replace(placeholder, word)
        return text

    def obey(self, argv: list[str], code: int) -> None:
        program, *rest = argv
        if program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest
        elif program == "pip":
            from pip._internal.commands import create_command

            create_command(rest[0]).parse_args(rest[1:])  # raises SystemExit for what it does not know
        elif program != "modelguard":
            assert shlex.join(argv).replace("'", "") in ELSEWHERE, argv
        else:
            if not self.searches and "--samples" in rest and rest[0] == "scan" and "--plan" not in rest:
                rest.append("--plan")  # a search takes long, and finds nothing in noise
            ran = self.mg(*(self.meant(word) for word in rest))
            assert ran.code == code, (argv, ran.out, ran.err)
            if rest[0] == "scan" and "--plan" not in rest:
                assert ran.out.startswith(FIRST_WORD[code]), (argv, ran.out)
            self.said.append(ran.out)
            self.look_up()

    def look_up(self) -> None:
        report = self.here / "report.json"
        if report.exists() and "FINGERPRINT" not in self.words:
            made, _ = load_report(report)
            found = {finding.rule: finding.fingerprint for _, finding in made.findings()}
            self.words |= {word: found[rule] for word, rule in {"FINGERPRINT": "MG1208", "ANOTHER": "MG1115"}.items() if rule in found}


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in ("hub", "notebook")], ids=lambda page: page.stem)
def test_a_page_does_what_it_says(mg: Run, here: Path, page: Path) -> None:
    Reader(mg, here).read(page)


@pytest.mark.slow
def test_the_tutorial_about_a_poisoned_data_set_does_what_it_says(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    reader = Reader(mg, tmp_path, searches=True)
    reader.read(DOCS / "tutorial-data.md")
    assert (tmp_path / "drop.txt").read_text().split() == [str(place) for place in sorted(reader.names["chosen"])]  # type: ignore[call-overload]
    assert reader.said[-2].startswith("no drift in 597 predictions\n")
    assert reader.said[-1].startswith("drift at line ")


def test_the_page_about_the_hub_does_what_it_says(mg: Run, here: Path, own_hub: LoopbackHub) -> None:
    reader = Reader(mg, here)
    weights = save({"w": np.arange(16, dtype=np.float32).reshape(4, 4)})
    reader.words["COMMIT"] = own_hub.commit("org/name", {"model.safetensors": weights, "README.md": b"one\n"})
    newest = own_hub.commit("org/name", {"model.safetensors": weights, "README.md": b"two\n"})
    reader.read(DOCS / "how-to" / "hub.md")
    saw = next(said for said in reader.said if said.startswith("PASS  hf://org/name@main\n"))
    assert newest in saw


def test_the_page_about_notebooks_does_what_it_says(
    mg: Run, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    display = types.ModuleType("IPython.display")
    framed: list[object] = []
    display.IFrame = lambda path, **size: framed.append(path)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    reader = Reader(mg, here)
    reader.read(DOCS / "how-to" / "notebook.md")
    assert capfd.readouterr().out.startswith("block\n")
    assert framed == ["report.html"]
    assert (here / "report.html").read_text().startswith("<!doctype html>")
    assert any(row["rule"] == "MG1208" for row in reader.names["rows"])  # type: ignore[attr-defined]
