"""Backdoored and clean models through the command line: the same verdict wherever the model comes from, and none where none is possible."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Ran

pytest.importorskip("sklearn")
pytest.importorskip("modelguard_abs")
pytest.importorskip("modelguard_ensemble")
pytest.importorskip("modelguard_zoo")

from modelguard_zoo import testing as zoo

import modelguard
from modelguard import Status
from modelguard.testing.hub import LoopbackHub

Run = Callable[..., Ran]
built, zoo_folder = zoo.built, zoo.zoo_folder
SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("in_process")
TARGET = 4
LOOKERS = (
    "abs",
    "backdoor-ensemble",
    "mm-bd",
    "neural-cleanse",
    "neural-cleanse-blend",
    "neural-cleanse-pairs",
    "neural-cleanse-all-to-all",
)
"""Detectors of triggers, all required when named."""
FACTORY = """
import torch
from modelguard_zoo import ARCHITECTURES, Normalised

def network():
    return Normalised(ARCHITECTURES["mlp"](1, 8, 10), torch.zeros(1), torch.ones(1))
"""


@pytest.fixture(scope="module")
def models(built: Callable[..., Any]) -> dict[str, Path]:
    """``backdoored`` (BadNets, class 4) and ``clean``, its twin."""
    backdoored = built("badnets", seed=1, target=TARGET, size=2, at=(-2, -2))
    assert backdoored.status == "backdoored"
    return {"backdoored": backdoored.path, "clean": built(seed=1).path}


def accused(report: dict[str, Any]) -> dict[str, list[int]]:
    return {item["detector"]: [f["evidence"]["target_class"] for f in item["findings"]] for item in report["outcomes"]}


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("onnx", "backdoored"),
        ("onnx", "clean"),
        ("hub", "backdoored"),
        pytest.param("hub", "clean", marks=SLOW),
        pytest.param("safetensors", "backdoored", marks=SLOW),
        pytest.param("safetensors", "clean", marks=SLOW),
    ],
)
def test_the_verdict_is_the_same_wherever_the_model_comes_from(
    mg: Run, models: dict[str, Path], own_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, source: str
) -> None:
    """The search starts from other roundings in each; what it concludes may not depend on that."""
    folder, out = models[kind], tmp_path / "report.json"
    arguments: list[str] = []
    if source == "onnx":
        target = str(folder / "model.onnx")
    elif source == "safetensors":
        (tmp_path / "mine_of_triggers.py").write_text(FACTORY)
        shutil.copyfile(folder / "model.safetensors", tmp_path / "model.safetensors")
        target = str(tmp_path / "model.safetensors")
        arguments = ["--model", "mine_of_triggers:network", "--input", "range=0..255"]
    else:
        own_hub.create("org/digits")
        commit = own_hub.commit("org/digits", {name: (folder / name).read_bytes() for name in ("model.onnx", "model.safetensors")})
        target = f"hf://org/digits@{commit}"
    monkeypatch.chdir(tmp_path)
    arguments += [part for name in ("abs", "backdoor-ensemble", "neural-cleanse") for part in ("--detector", name)]
    ran = mg("scan", target, *arguments, "--samples", folder / "samples.npz", "--quick", "-q", "--threads", 1, "-o", f"json={out}")
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {item["status"] for item in report["outcomes"]} == {"completed"}, ran.out + ran.err
    assert report["decision"]["verdict"] == {"backdoored": "block", "clean": "pass"}[kind]
    assert ran.code == {"backdoored": 1, "clean": 0}[kind]
    assert accused(report) == dict.fromkeys(("abs", "backdoor-ensemble", "neural-cleanse"), [TARGET] if kind == "backdoored" else [])


def test_a_budget_that_is_used_up_leaves_no_verdict_and_every_search_says_so(models: dict[str, Path]) -> None:
    folder = models["clean"]
    report = modelguard.scan(folder / "model.onnx", samples=folder / "samples.npz", budget=1e-6)
    status = {item.detector: item.status for item in report.outcomes}
    assert {name for name, value in status.items() if value is Status.TIMED_OUT} >= set(LOOKERS)
    assert status["format-integrity"] is Status.COMPLETED, "what is no search takes none of the budget"
    assert all(item.reason.endswith("raise --budget") for item in report.outcomes if item.status is Status.TIMED_OUT)
    decision = modelguard.evaluate(report, modelguard.load_policy("builtin:baseline"), datetime.date(2026, 1, 1))
    assert decision.exit_code == 3


def noise(x: Any, y: Any) -> tuple[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8), y


def other_task(x: Any, y: Any) -> tuple[Any, Any]:
    """Arrows and discs in place of digits, with labels of their own."""
    rows, columns = np.indices((8, 8))
    kinds = np.stack([(rows + k * columns) % (k + 3) < 2 for k in range(10)]) * 255
    labels = np.arange(len(x)) % 10
    return kinds[labels][:, None].astype(np.uint8), labels


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x, y: (x.astype(np.float32) / 255, y), id="in 0..1 where the model takes 0..255"),
        pytest.param(lambda x, y: ((x.astype(np.float32) - 33) / 79, y), id="normalised already", marks=SLOW),
        pytest.param(noise, id="noise"),
        pytest.param(other_task, id="another task", marks=SLOW),
        pytest.param(lambda x, y: (x, (y + 1) % 10), id="labels of another order", marks=SLOW),
        pytest.param(lambda x, y: (x[:2], y[:2]), id="two samples"),
        pytest.param(lambda x, y: (x[y == 3], y[y == 3]), id="one class", marks=SLOW),
    ],
)
@pytest.mark.parametrize("kind", ["backdoored", pytest.param("clean", marks=SLOW)])
def test_samples_that_show_nothing_give_no_clean_verdict(mg: Run, models: dict[str, Path], tmp_path: Path, kind: str, spoil: Any) -> None:
    with np.load(models[kind] / "samples.npz") as given:
        inputs, labels = spoil(given["inputs"], given["labels"])
    np.savez(tmp_path / "samples.npz", inputs=inputs, labels=labels)
    named = [part for name in LOOKERS for part in ("--detector", name)]
    ran = mg("scan", models[kind] / "model.onnx", "--samples", tmp_path / "samples.npz", *named, "--threads", 1, "-q", "-f", "json")
    report = ran.json
    assert ran.code == 3 or (ran.code == 1 and kind == "backdoored"), report["decision"]
    reasons = {item["detector"]: item["reason"] for item in report["outcomes"] if item["status"] != "completed"}
    assert {"abs", "neural-cleanse", "neural-cleanse-blend", "neural-cleanse-pairs", "neural-cleanse-all-to-all"} <= set(reasons)
    assert all("sample" in reason for reason in reasons.values()), reasons
    assert not any("Error" in reason for reason in reasons.values()), reasons
    # What needs no samples may look, and accuses no class of a clean model.
    assert [finding for item in report["outcomes"] for finding in item["findings"]] == [] or kind == "backdoored"


def test_under_the_default_policy_samples_nobody_could_use_leave_no_verdict(mg: Run, models: dict[str, Path], tmp_path: Path) -> None:
    with np.load(models["clean"] / "samples.npz") as given:
        np.savez(tmp_path / "samples.npz", inputs=given["inputs"][:2], labels=given["labels"][:2])
    without = mg("scan", models["clean"] / "model.onnx", "--quick", "--threads", 1, "-q", "-f", "json")
    assert (without.code, without.json["decision"]["verdict"]) == (0, "pass")
    ran = mg("scan", models["clean"] / "model.onnx", "--samples", tmp_path / "samples.npz", "--quick", "--threads", 1, "-q", "-f", "json")
    assert (ran.code, ran.json["decision"]["verdict"]) == (3, "incomplete")
    assert [item["subject"] for item in ran.json["decision"]["violations"]] == ["backdoor-ensemble"]


def export(path: Path, network: Any, classes: int, size: int = 8) -> None:
    import onnx
    import torch

    torch.manual_seed(0)
    torch.onnx.export(
        network, (torch.zeros(2, 1, size, size),), str(path), dynamo=False, opset_version=17,
        input_names=["input"], output_names=["output"], dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )  # fmt: skip
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"Image.NominalPixelRange": "NominalRange_0_255"})
    onnx.save(model, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_regressor_has_no_classes_to_accuse(mg: Run, models: dict[str, Path], tmp_path: Path) -> None:
    from torch import nn

    export(tmp_path / "model.onnx", nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1)), 1)
    with np.load(models["clean"] / "samples.npz") as given:
        np.savez(tmp_path / "samples.npz", inputs=given["inputs"])
    named = [part for name in LOOKERS for part in ("--detector", name)]
    ran = mg("scan", tmp_path / "model.onnx", "--samples", tmp_path / "samples.npz", *named, "--threads", 1, "-q", "-f", "json")
    assert ran.code == 3
    assert {item["status"] for item in ran.json["outcomes"]} == {"skipped"}, ran.json["outcomes"]
    assert all(item["reason"] for item in ran.json["outcomes"])


@SLOW
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_thousand_classes_end_with_an_outcome_for_every_detector(mg: Run, tmp_path: Path) -> None:
    """Untrained, labelled by itself: nothing may crash, time out, or accuse a class of what chance gives a thousand of them."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    first = nn.Linear(64, 64)
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(64, 1000)).eval()
    with torch.no_grad():
        first.weight /= 40
        inputs = np.random.default_rng(0).integers(0, 256, (600, 1, 8, 8)).astype(np.uint8)
        labels = network(torch.from_numpy(inputs).float()).argmax(1).numpy()
    export(tmp_path / "model.onnx", network, 1000)
    np.savez(tmp_path / "samples.npz", inputs=inputs, labels=labels)
    ran = mg("scan", tmp_path / "model.onnx", "--samples", tmp_path / "samples.npz", "--quick", "-q", "-f", "json")
    statuses = {item["detector"]: (item["status"], item["reason"]) for item in ran.json["outcomes"]}
    assert ran.code in (0, 1, 3)
    assert {status for status, _ in statuses.values()} <= {"completed", "skipped"}, statuses
    assert all(reason for status, reason in statuses.values() if status == "skipped")
