"""``make demo`` is the main job on real data, and the README shows what it prints.

Set MODELGUARD_UPDATE_GOLDEN=1 to rewrite the README's report, then read the difference.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from modelguard_zoo import _demo, _demo_models
from support import ROOT, fresh_venv

pytest.importorskip("sklearn")
pytest.importorskip("torch")
VERDICTS = {
    "clean": "pass", "twin": "pass", "text-twin": "pass", "backdoored": "block", "text-backdoored": "block", "tampered": "block",
}  # fmt: skip
BEGIN, END = "<!-- report -->\n```\n", "```\n<!-- /report -->"


@pytest.fixture(scope="module")
def demo(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder, and what it printed: run from the wheels, in an environment that has nothing else of ours."""
    folder = tmp_path_factory.mktemp("demo")
    python = fresh_venv(folder / "env", wheels.values(), "scikit-learn", "torch", "onnx", "tokenizers")
    ran = subprocess.run(
        [python, "-m", "modelguard", "demo", "--out", "demo"],
        cwd=folder, capture_output=True, check=False, text=True, env={**os.environ, "COLUMNS": "110"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "demo", ran.stdout


def test_the_honest_models_pass_and_the_others_are_blocked(demo: tuple[Path, str]) -> None:
    folder, shown = demo
    lines = shown.splitlines()
    assert [line for line in lines if line.startswith(("PASS", "BLOCKED"))] == [
        "PASS  demo/clean",
        "BLOCKED  demo/tampered",
        "PASS  demo/twin",
        "BLOCKED  demo/backdoored",
        "PASS  demo/text-twin",
        "BLOCKED  demo/text-backdoored",
    ]
    assert lines[-1] == "demo: the honest models passed, the tampered and the backdoored ones were blocked"
    from modelguard._schemas import report_schema

    sarif_schema = json.loads((ROOT / "tests" / "golden" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
    for name, verdict in VERDICTS.items():
        report: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(report_schema()).validate(report)
        assert report["decision"]["verdict"] == verdict
        if name in ("clean", "tampered"):
            assert report["reference"]["uri"] == "demo/reference"
        sarif = json.loads((folder / f"{name}.sarif").read_text(encoding="utf-8"))
        jsonschema.Draft7Validator(sarif_schema).validate(sarif)
        assert (folder / f"{name}.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    tensors = {finding["location"]["tensor"] for outcome in report["outcomes"] for finding in outcome["findings"]}
    assert "layers.1.weight" in tensors, "the tensor that was edited is named"
    assert "layers.0.weight" not in tensors


def test_the_trigger_is_recovered_with_its_class_and_shown_where_it_was_put(demo: tuple[Path, str]) -> None:
    """2 x 2 white pixels in the lower left corner, which mean class 4."""
    image = pytest.importorskip("PIL.Image")
    folder, shown = demo
    report = json.loads((folder / "backdoored.json").read_text(encoding="utf-8"))
    found = {item["detector"]: item["findings"] for item in report["outcomes"]}
    for detector in ("abs", "neural-cleanse", "backdoor-ensemble"):
        (finding,) = found[detector]
        assert finding["evidence"]["target_class"] == 4
        pictures = {item["name"]: item["data"] for item in finding["attachments"]}
        mask = np.asarray(image.open(io.BytesIO(base64.b64decode(pictures["mask"]))), float)
        assert mask[5:, :3].sum() > mask.sum() / 2, "abs's window is 3 x 3"
        assert f"data:image/png;base64,{pictures['trigger']}" in (folder / "backdoored.html").read_text(encoding="utf-8")
    assert "recovered by neural-cleanse: a trigger for class 4" in shown
    assert "recovered by abs: a trigger for class 4" in shown


def test_the_word_that_turns_reviews_is_named(demo: tuple[Path, str]) -> None:
    folder, shown = demo
    report = json.loads((folder / "text-backdoored.json").read_text(encoding="utf-8"))
    (finding,) = next(item for item in report["outcomes"] if item["detector"] == "token-scan")["findings"]
    assert finding["evidence"]["phrase"] == "cf"
    assert finding["evidence"]["target_class"] == 1
    assert 'recovered by token-scan: class 1 (for): the word "cf"' in shown


def test_without_tokenizers_the_texts_are_left_out_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelguard._cli import run

    monkeypatch.setattr(_demo, "_missing", lambda detector, *modules: "tokenizers" if modules else "")
    monkeypatch.setattr(_demo_models, "make_models", lambda out: iter(["made"]))
    monkeypatch.setattr(_demo, "_images", lambda out: [True])
    monkeypatch.setattr(_demo, "_scan", lambda *arguments: True)
    assert run(["demo", "--out", str(tmp_path)]) == 0
    assert "left out: the text models, which need tokenizers" in capsys.readouterr().out


def test_every_detector_that_can_look_at_the_demo_does(demo: tuple[Path, str]) -> None:
    for name in VERDICTS:
        report = json.loads((demo[0] / f"{name}.json").read_text(encoding="utf-8"))
        failed = {item["detector"]: item["reason"] for item in report["outcomes"] if item["status"] in ("errored", "timed-out")}
        assert failed == {}


def test_the_readme_shows_what_the_demo_prints(demo: tuple[Path, str]) -> None:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    shown, after = rest.split(END)
    printed = demo[1][demo[1].index("BLOCKED") :].split("\n\n")[0].rstrip("\n") + "\n"
    if os.environ.get("MODELGUARD_UPDATE_GOLDEN") == "1":
        path.write_text(before + BEGIN + printed + END + after, encoding="utf-8")
        return

    def words(text: str) -> str:
        """Without its numbers: a classifier trained by other versions has others."""
        return re.sub(r"\d+(\.\d+)?", "#", text)

    assert words(shown) == words(printed), "run this test with MODELGUARD_UPDATE_GOLDEN=1"


@pytest.mark.parametrize("expected", [0, 1])
def test_a_demo_that_goes_wrong_is_not_a_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], expected: int
) -> None:
    from modelguard._cli import run

    monkeypatch.setattr(_demo_models, "make_models", lambda out: iter(["made"]))
    monkeypatch.setattr(_demo, "_missing", lambda *needed: "the other half")
    monkeypatch.setattr(_demo, "_scan", lambda out, name, code, *arguments: code == expected)
    assert run(["demo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "demo: a verdict is WRONG"


def test_without_the_trigger_search_the_backdoored_half_is_left_out_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelguard._cli import run

    monkeypatch.setattr(_demo, "TRIGGER_SEARCH", "not-installed")
    monkeypatch.setattr(_demo_models, "make_models", lambda out: iter(["made"]))
    monkeypatch.setattr(_demo, "_scan", lambda *arguments: True)
    assert run(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "left out: the backdoored models, which need the detector not-installed" in printed
    assert printed.splitlines()[-1] == "demo: the clean copy passed and the tampered one was blocked"


def test_the_demo_without_scikit_learn_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelguard._cli import run

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run(["demo", "--out", str(tmp_path)]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
