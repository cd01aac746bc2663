"""``modelguard meta`` and a scan with what it made, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_meta._train import Plan
from modelguard_zoo import Built

from modelguard._cli import run

pytestmark = pytest.mark.usefixtures("in_process")


def test_what_was_made_is_shown(meta_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["meta", "show", str(meta_file)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shadows"]["held_out_benign"] == 20
    assert 0.5 < facts["auroc"] <= 1
    assert facts["quality"]["benign_accuracy"] > 0.9
    assert facts["quality"]["attack_success"] > 0.9
    assert facts["cpu_seconds"] > 0
    assert set(facts["versions"]) == {"modelguard", "torch"}


def test_a_scan_says_what_was_found_and_what_was_not_looked_at(built: Callable[..., Built], meta_file: Path, tmp_path: Path) -> None:
    mlp, cnn = (built(None, 0, arch).path for arch in ("mlp", "cnn"))
    assert _scanned(mlp, meta_file, tmp_path) == ("completed", "")
    status, reason = _scanned(cnn, meta_file, tmp_path)
    assert (status, "another architecture" in reason) == ("skipped", True)


def _scanned(model: Path, meta: Path, folder: Path) -> tuple[str, str]:
    """What became of the detector in a scan, in its own process."""
    report = folder / "report.json"
    run(["scan", str(model), "--detector", "mntd", "--option", f"mntd.meta={meta}", "-q", "-o", f"json={report}"])
    (outcome,) = (item for item in json.loads(report.read_text())["outcomes"] if item["detector"] == "mntd")
    return outcome["status"], outcome["reason"]


def test_the_same_seed_gives_the_same_meta_classifier_and_another_one_another(
    built: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("modelguard_meta._shadows.STEPS", (200, 200))
    monkeypatch.setattr("modelguard_meta._meta.STEPS", 40)
    folder = built(None, 0).path
    made = []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{number}.safetensors"
        command = ["meta", "train", "--architecture", str(folder), "--samples", str(folder / "samples.npz"), "-o", str(path)]
        assert run([*command, "--shadows", "8", "--held-out", "19", "--seed", str(seed)]) == 0
        run(["meta", "show", str(path)])
        said = capsys.readouterr()
        assert "AUROC" in said.err
        made.append(json.loads(said.out[said.out.index("{") :]))
    first, again, other = ({key: item[key] for key in ("auroc", "threshold", "shadows", "quality")} for item in made)
    assert first == again != other


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": np.zeros((200, 1, 8, 8), np.uint8)}, "no labels"),
        ({"inputs": np.zeros((50, 1, 8, 8), np.uint8), "labels": np.arange(50) % 10}, "give 100 or more"),
        ({"inputs": np.zeros((200, 1, 8, 8), np.uint8), "labels": np.arange(200) % 9}, "of every class"),
    ],
)
def test_samples_that_do_not_do_are_refused(
    built: Callable[..., Built], tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, Any], words: str
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    command = ["meta", "train", "--architecture", str(built(None, 0).path), "--samples", str(tmp_path / "s.npz")]
    assert run([*command, "-o", str(tmp_path / "meta.safetensors")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert not (tmp_path / "meta.safetensors").exists()


def test_shadows_that_learn_nothing_make_no_meta_classifier(
    built: Callable[..., Built], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelguard_meta._shadows.STEPS", (2, 2))
    folder = built(None, 0).path
    command = ["meta", "train", "--architecture", str(folder), "--samples", str(folder / "samples.npz")]
    assert run([*command, "-o", str(tmp_path / "meta.safetensors"), "--shadows", "8", "--held-out", "19"]) == 2
    assert "do not learn the task" in capsys.readouterr().err


def test_few_held_out_shadows_are_refused(tmp_path: Path) -> None:
    assert Plan().held_out >= 19
    assert run(["meta", "train", "--architecture", "m", "--samples", "s", "-o", str(tmp_path / "m"), "--held-out", "18"]) == 2


def test_a_folder_that_is_not_there_is_said_before_anything_is_trained(
    built: Callable[..., Built], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = built(None, 0).path
    output = tmp_path / "none" / "meta.safetensors"
    assert run(["meta", "train", "--architecture", str(folder), "--samples", str(folder / "samples.npz"), "-o", str(output)]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
