"""The core without the distribution that runs models: what it still does, and what it says of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Ran

from modelguard.testing import write_onnx_mlp

ALONE = ("-p", "no:runtime", "-p", "no:zoo")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_onnx_mlp(tmp_path / "model.onnx")


def test_detectors_that_need_a_model_are_skipped_with_what_to_install(mg: Callable[..., Ran], model: Path) -> None:
    ran = mg("scan", model, *ALONE, "-f", "json", "-q")
    outcomes = {item["detector"]: item for item in ran.json["outcomes"]}
    assert ran.code == 0
    assert outcomes["format-integrity"]["status"] == "completed"
    for name in ("mm-bd", "neural-cleanse"):
        assert outcomes[name]["status"] == "skipped"
        assert outcomes[name]["reason"].startswith("needs a model that can be differentiated, and no loaded plugin runs models (install ")
        assert "modelguard-runtime" in outcomes[name]["reason"]
    assert "modelguard-runtime" not in {item["name"] for item in ran.json["plugins"]}


def test_with_it_the_same_scan_runs_them(mg: Callable[..., Ran], model: Path) -> None:
    lines = {words[0]: words[1] for words in map(str.split, mg("scan", model, "--plan").out.splitlines()[1:])}
    assert lines["mm-bd"] == "run"


def test_describing_a_model_ends_in_one_line(mg: Callable[..., Ran], model: Path) -> None:
    ran = mg("model", model, *ALONE, "-q")
    assert (ran.code, ran.err, len(ran.out.splitlines())) == (3, "", 1)
    assert ran.out.startswith("model.onnx: cannot be run: needs a model that can be run, and no loaded plugin runs models (install ")
    assert "modelguard-runtime" in ran.out


def test_a_reference_is_compared_all_the_same(mg: Callable[..., Ran], model: Path) -> None:
    ran = mg("diff", model, model, *ALONE, "-q")
    assert ran.code == 0, ran.out + ran.err
