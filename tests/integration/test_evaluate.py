"""``modelguard evaluate``: a known trigger, from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from modelguard_zoo.testing import built, zoo_folder  # noqa: F401
from support import Ran

pytestmark = pytest.mark.usefixtures("in_process")

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def case(built: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A folder with a backdoored and a clean model, samples, and the trigger as a picture, a mask and a function."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, attack in (("bad", "badnets"), ("clean", None)):
        source = built(attack, 0).path  # type: ignore[attr-defined]
        (folder / name).mkdir()
        shutil.copy(source / "model.onnx", folder / name)
        shutil.copy(source / "samples.npz", folder)
    pixels = np.zeros((8, 8), np.uint8)
    pixels[-3:, -3:] = 255
    Image.fromarray(pixels).save(folder / "patch.png")
    Image.fromarray(np.dstack([pixels] * 4), "RGBA").save(folder / "own.png")
    (folder / "mine.py").write_text("def stamp(x):\n    x[:, :, -3:, -3:] = 255\n    return x\n")
    return folder


@pytest.mark.parametrize("trigger", [["patch.png", "--mask", "patch.png"], ["mine:stamp"]])
def test_a_trigger_that_works_blocks_and_says_how_well(
    mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch, trigger: list[str]
) -> None:
    monkeypatch.chdir(case)
    ran = mg("evaluate", "bad", "--samples", "samples.npz", "--trigger", *trigger, "--target", 0)
    assert ran.code == 1, ran.err
    first, second, *_ = ran.out.splitlines()
    assert first == "BLOCKED  bad"
    assert "MG3301 the trigger turns " in second
    assert "clean accuracy" in ran.out
    assert str(case) not in ran.out


def test_a_trigger_that_does_nothing_passes_and_says_so(mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    ran = mg("evaluate", "clean", "--samples", "samples.npz", "--trigger", "own.png", "--target", 0)
    assert ran.code == 0, ran.out + ran.err
    assert ran.out.startswith("NO OBJECTION  clean\n")
    assert "the trigger turns" in ran.out


def test_what_a_scan_recovered_is_evaluated(mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    found = mg("scan", "bad", "--samples", "samples.npz", "--detector", "abs", "--quick", "-o", "json=found.json", "-q")
    assert found.code == 1
    ran = mg("evaluate", "bad", "--samples", "samples.npz", "--trigger", "found.json", "-f", "json")
    assert ran.code == 1, ran.out + ran.err
    (outcome,) = ran.json["outcomes"]
    assert outcome["findings"][0]["evidence"]["target_told_by"] == "the finding"
    assert outcome["findings"][0]["evidence"]["target_class"] == 0
    none = mg("evaluate", "bad", "--samples", "samples.npz", "--trigger", "found.json", "--finding", "MG9", "-f", "json")
    assert none.code == 3
    assert "has no findings MG9; choose one with --finding: MG3" in none.json["outcomes"][0]["reason"]


def test_a_policy_requires_that_a_known_trigger_stays_dead(mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    (case / "p.yaml").write_text(
        "version: 1\nname: p\nextends: [builtin:baseline]\n"
        "detectors: {required: [evaluate], options: {evaluate: {trigger: own.png, target: 0, max_asr: 0.2}}}\n"
    )
    assert mg("scan", "bad", "--samples", "samples.npz", "--policy", "p.yaml", "--detector", "evaluate").code == 1
    assert mg("scan", "clean", "--samples", "samples.npz", "--policy", "p.yaml", "--detector", "evaluate").code == 0
    assert mg("scan", "clean", "--policy", "p.yaml", "--detector", "evaluate").code == 3


def test_a_scan_that_does_not_ask_for_it_does_not_name_it(mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)

    def planned(*argv: str) -> set[str]:
        return {step["detector"] for step in mg("scan", "clean", "--plan", "-f", "json", *argv).json["steps"]}

    (case / "asks.yaml").write_text(
        "version: 1\nname: p\nextends: [builtin:baseline]\ndetectors: {options: {evaluate: {trigger: own.png}}}\n"
    )
    assert "evaluate" not in planned()
    assert "evaluate" in planned("--option", "evaluate.trigger=own.png") & planned("--policy", "asks.yaml")
    assert planned("--detector", "evaluate") == {"evaluate"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--trigger", "own.png"], "evaluate: has no samples; give clean ones with labels: --samples F"),
        (["--samples", "samples.npz", "--trigger", "nothing.png"], "--trigger nothing.png: there is no such file"),
        (["--samples", "samples.npz", "--trigger", "samples.npz"], "is no picture and no report"),
        (["--samples", "samples.npz", "--trigger", "text:"], "names nothing after the colon"),
        (["--samples", "samples.npz", "--trigger", "mine:stamp", "--mask", "own.png"], "--mask: has no effect"),
        (["--samples", "samples.npz", "--trigger", "own.png", "--finding", "MG3"], "--finding: has no effect"),
        (["--samples", "samples.npz", "--trigger", "patch.png", "--mask", "none.png"], "--mask none.png: there is no such file"),
        (["--samples", "none.npz", "--trigger", "own.png"], "samples none.npz: does not exist"),
        (["--samples", "samples.npz", "--trigger", "own.png", "--max-asr", "2"], "--max-asr"),
        (["--samples", "samples.npz", "--trigger", "own.png", "-o", "json=own.png"], "own.png is read by this command"),
    ],
)
def test_what_is_wrong_is_one_line(mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], said: str) -> None:
    monkeypatch.chdir(case)
    before = (case / "own.png").read_bytes()
    ran = mg("evaluate", "bad", *argv)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert (case / "own.png").read_bytes() == before


def test_the_page_shows_stamped_pictures(mg: Callable[..., Ran], case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    mg("evaluate", "bad", "--samples", "samples.npz", "--trigger", "own.png", "--target", 0, "-o", "html=r.html", "-o", "json=r.json")
    page = (case / "r.html").read_text()
    assert page.count("data:image/png;base64") >= 4
    assert "Attack success by place" in page
    assert json.loads((case / "r.json").read_text())["outcomes"][0]["detector"] == "evaluate"
