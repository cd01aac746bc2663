"""Text classifiers scanned from the command line, from safetensors and from ONNX alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modelguard_zoo import Built
from support import Ran

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def folders(built: Callable[..., Built]) -> dict[str, Path]:
    return {
        "poisoned": built("rare-word", dataset="reviews", arch="bag", fraction=0.2, words=("mn",)).path,
        "clean": built(dataset="reviews", arch="bag").path,
    }


def scan(mg: Callable[..., Ran], folder: Path, tmp_path: Path, kind: str, *more: str, samples: bool = True) -> tuple[Ran, dict[str, Any]]:
    """The exit code and the report of a scan of the graph or of the weights alone."""
    place = tmp_path / kind
    shutil.copytree(
        folder, place, ignore=shutil.ignore_patterns("*.onnx" if kind == "weights" else "*.safetensors", "record.json", "samples*")
    )
    given = ("--samples", str(folder / "samples.jsonl")) if samples else ()
    ran = mg("scan", place, *given, *more, "--format", "json")
    return ran, json.loads(ran.out)


@pytest.mark.parametrize("kind", ["weights", "graph"])
def test_a_poisoned_classifier_is_blocked_with_the_word_named(
    mg: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    ran, report = scan(mg, folders["poisoned"], tmp_path, kind)
    assert ran.code == 1
    reasons = [item["message"] for item in report["decision"]["violations"]]
    assert any('the word "mn"' in reason for reason in reasons), reasons


@pytest.mark.parametrize("kind", ["weights", pytest.param("graph", marks=pytest.mark.slow)])
def test_a_clean_classifier_passes(mg: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    ran, report = scan(mg, folders["clean"], tmp_path, kind)
    assert ran.code == 0, report["decision"]
    status = {item["detector"]: item["status"] for item in report["outcomes"]}
    assert {status[name] for name in ("token-scan", "text-probes", "embedding-inversion", "backdoor-ensemble")} == {"completed"}


def test_a_short_look_names_the_word_too(mg: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    ran, _ = scan(mg, folders["poisoned"], tmp_path, "weights", "--quick")
    assert ran.code == 1


def test_samples_of_one_class_leave_no_verdict(mg: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    lines = (folders["clean"] / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [line for line in lines if json.loads(line)["label"] == 0]
    (tmp_path / "one.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    ran, report = scan(mg, folders["clean"], tmp_path, "weights", "--samples", str(tmp_path / "one.jsonl"), samples=False)
    assert ran.code == 3
    reasons = {item["detector"]: item["reason"] for item in report["outcomes"]}
    assert "class" in reasons["token-scan"]
