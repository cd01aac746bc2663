"""What somebody meets who has just installed modelguard and knows none of its commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, Ran

Run = Callable[..., Ran]
REPORT = ROOT / "tests" / "golden" / "reports" / "everything.json"


def test_alone_it_shows_the_three_commands_that_matter(mg: Run) -> None:
    ran = mg()
    assert (ran.code, ran.out) == (2, ""), "nothing was looked at, so it is no pass"
    assert re.findall(r"^  modelguard (\w+)", ran.err, re.MULTILINE) == ["scan", "explain", "doctor"]
    assert max(map(len, ran.err.splitlines())) <= 80


def test_a_scan_of_nothing_says_how_to_scan(mg: Run) -> None:
    ran = mg("scan")
    assert (ran.code, ran.out) == (2, "")
    assert (
        ran.err
        == "modelguard: error: scan: names no model; write for example `modelguard scan ./model` or `modelguard scan hf://org/name`\n"
    )


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("./nope", "./nope: there is no such file or folder; check the path"),
        ("org/name", "org/name: there is no such file or folder; for the model on the Hugging Face Hub write hf://org/name"),
        ("gpt2", "gpt2: there is no such file or folder; for the model on the Hugging Face Hub write hf://gpt2"),
        ("https://huggingface.co/org/name", "https://huggingface.co/org/name: no source handles https://; write hf://org/name"),
        ("https://huggingface.co/org/name/tree/v1", "https://huggingface.co/org/name/tree/v1: no source handles https://; write hf://org/name@v1"),
        ("https://example.org/m", "https://example.org/m: no source handles https://; use a path, or one of: hf://"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["target", "reference"])
def test_a_name_that_leads_nowhere_is_a_usage_error_that_says_what_was_meant(
    mg: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, target: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = mg("scan", target) if place == "target" else mg("scan", tiny_model, "--reference", target)
    assert (ran.code, ran.out, ran.err) == (2, "", f"modelguard: error: {line}\n")


def test_plugins_alone_lists_them(mg: Run) -> None:
    assert mg("plugins") == mg("plugins", "list")
    assert "modelguard-core " in mg("plugins").out


def complete(words: str) -> list[str]:
    """What a bash would offer after ``modelguard WORDS``, the last of which is begun."""
    environment = {"COMP_WORDS": f"modelguard {words}", "COMP_CWORD": str(len(words.split(" "))), "_MODELGUARD_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", "from modelguard._cli import main; main()"]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sc", ["plain,scan", "plain,schema"]),
        ("scan --policy builtin:s", ["plain,builtin:strict"]),
        ("scan --policy ./p", ["file,./p"]),
        ("scan --detector weight-d", ["plain,weight-diff"]),
        ("scan -o sar", ["plain,sarif="]),
        ("scan ./mo", ["file,./mo"]),
        ("explain MG120", [f"plain,MG120{last}" for last in (1, 2, 3, 4, 5, 6, 7, 8, 9)]),
    ],
)
def test_a_shell_completes_commands_and_names(words: str, offered: list[str]) -> None:
    assert complete(words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_for_that_shell(mg: Run, shell: str, tmp_path: Path) -> None:
    ran = mg("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert f"_MODELGUARD_COMPLETE={shell}_complete" in ran.out
    if interpreter := shutil.which(shell):
        (tmp_path / "script").write_text(ran.out)
        assert subprocess.run([interpreter, "-n", tmp_path / "script"], check=False).returncode == 0


def test_the_doctor_says_what_can_run_here(mg: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = mg("doctor", "-p", "no:runtime", "-p", "no:zoo")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^ok  worker +scanned a tiny model", ran.out, re.MULTILINE)
    assert re.search(r"^(ok|--)  confinement +held by ", ran.out, re.MULTILINE)
    assert re.search(r"^--  models +none can be run: .*install modelguard-runtime$", ran.out, re.MULTILINE)
    assert re.search(r"^(ok|--)  Hub cache ", ran.out, re.MULTILINE)
    there, absent = ran.out.split("Detectors that cannot look here")
    assert "--reference: " in there
    assert "weight-diff" in there
    assert "install modelguard-runtime: " in absent
    assert "neural-cleanse" in absent
    assert max(map(len, ran.out.splitlines())) <= 80


def test_the_doctor_finds_onnxruntime_by_either_of_its_names(mg: Run) -> None:
    pytest.importorskip("onnxruntime")
    assert re.search(r"onnxruntime \d+\.\d+", mg("doctor").out)


def test_the_doctor_names_what_is_not_installed_and_what_failed(mg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from modelguard import _plugins

    def broken(self: EntryPoint) -> Any:
        raise ImportError("no module named torch")

    monkeypatch.setattr(_plugins, "entry_points", lambda group: [EntryPoint("runtime", "modelguard_runtime.hooks", group)])
    monkeypatch.setattr(EntryPoint, "load", broken)
    ran = mg("doctor", "--json")
    assert ran.code == 3, "a plugin could not be used"
    assert any("no module named torch" in item["seen"] for item in ran.json["checks"] if not item["well"])
    by_name = {item["detector"]: item for item in ran.json["detectors"]}
    assert by_name["rome-edit"] == {"detector": "rome-edit", "ready": False, "needs": "install modelguard-rome"}
    assert by_name["format-integrity"]["ready"]


@pytest.fixture
def finding() -> dict[str, Any]:
    """The first finding of the stored report."""
    report = json.loads(REPORT.read_text())
    found: dict[str, Any] = next(finding for outcome in report["outcomes"] for finding in outcome["findings"])
    return found


def test_a_rule_is_explained(mg: Run) -> None:
    ran = mg("explain", "mg1208")
    assert ran.code == 0
    assert ran.out.startswith("MG1208 ")
    assert ran.out.index("What it means") < ran.out.index("What to do")
    assert mg("explain", "MG1208", "--json").json["detectors"] == ["weight-diff"]


def test_a_finding_is_explained_by_its_fingerprint(mg: Run, finding: dict[str, Any]) -> None:
    digits = finding["fingerprint"].rpartition(":")[2]
    ran = mg("explain", finding["fingerprint"], "--report", REPORT)
    assert ran.code == 0, ran.err
    for words in (f"{finding['rule']} ", "What it means", finding["fingerprint"], "waivers:", *map(str, finding["evidence"])):
        assert words in ran.out
    assert " ".join(finding["message"].split()[:3]) in ran.out
    assert mg("explain", digits[:8], "--report", REPORT).out == ran.out
    assert mg("explain", finding["rule"], "--report", REPORT, "--json").json["findings"][0]["fingerprint"] == finding["fingerprint"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["abcdef0"], "explain abcdef0: a fingerprint says nothing without its report; give --report REPORT.json"),
        (["abcdef0", "--report", REPORT], "fingerprint abcdef0: the report has no such finding; copy it from the report's findings"),
        (["MG1209x"], "rule MG1209x: there is no such rule; did you mean MG1209?"),
        (["MG1208", "--report", "nope.json"], "nope.json: cannot be read (No such file or directory); give a report written by"),
    ],
)
def test_what_cannot_be_explained_is_one_line(mg: Run, argv: list[Any], line: str) -> None:
    ran = mg("explain", *argv)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert line in ran.err


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_colours_are_what_the_environment_asks_for(
    mg: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TERM", "xterm")
    assert ("\x1b[" in mg("scan", tiny_model, "-q").out) is coloured


def test_quiet_leaves_the_report_alone(mg: Run, tiny_model: Path) -> None:
    loud, quiet = mg("scan", tiny_model), mg("scan", tiny_model, "-q")
    assert quiet.err == ""
    assert re.search(r"^modelguard: format-integrity completed in [0-9.]+ s$", loud.err, re.MULTILINE)
    assert loud.out.splitlines()[0] == quiet.out.splitlines()[0]
