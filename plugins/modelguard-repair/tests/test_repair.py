"""What a repair takes out, leaves alone, does not write, says of what is left, and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from modelguard_evaluate import effect, labelled, read_trigger
from modelguard_repair import KnownTrigger, Repaired, Request, repair
from modelguard_repair._request import NAMES
from modelguard_repair.methods import METHODS, Material, Method, tuning
from modelguard_zoo import Built
from PIL import Image

from modelguard import SamplesError, UsageError, load_report
from modelguard._cli import run
from modelguard.testing import open_target, write_onnx_mlp

pytestmark = pytest.mark.usefixtures("in_process")
FAST = ("format-integrity",)
"""The re-scan by searches is measured in benchmarks/repair.py; that there is one, under the policy, is tested here."""


@pytest.fixture
def patch(tmp_path: Path) -> KnownTrigger:
    """The zoo's BadNets patch."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[-3:, -3:] = 255
    Image.fromarray(pixels).save(tmp_path / "patch.png")
    return KnownTrigger(str(tmp_path / "patch.png"), str(tmp_path / "patch.png"), target=0)


@pytest.fixture
def mend(tmp_path: Path, built: Callable[..., Built]) -> Callable[..., Repaired]:
    """Repair a zoo model by these methods."""

    def make(model: Built, *methods: str, **options: Any) -> Repaired:
        given = {"detectors": FAST, "max_drop": 5.0, "samples": model.path / "samples.npz", "out": tmp_path / "out", **options}
        return repair(Request(model.path, methods=methods, **given))

    return make


def weightless(path: Path) -> bytes:
    """An ONNX file without the values of its weights."""
    model = onnx.load(path)
    for item in model.graph.initializer:
        item.raw_data = bytes(len(item.raw_data))
    return bytes(model.SerializeToString())


# It takes the backdoor out


@pytest.mark.parametrize(("arch", "seed"), [("mlp", 0), ("mlp", 1), ("cnn", 1)])
def test_unlearning_takes_a_known_trigger_out(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger, tmp_path: Path, arch: str, seed: int
) -> None:
    model = built("badnets", seed, arch)
    done = mend(model, "unlearn", trigger=patch)
    record = json.loads((tmp_path / "out" / "repair.json").read_text())
    assert (done.code, done.folder, done.record) == (0, tmp_path / "out", record)
    (before,), (after,) = record["before"]["triggers"], record["after"]["triggers"]
    assert before["attack_success"] > 0.9
    assert after["attack_success"] <= 0.1
    assert record["before"]["accuracy"] - record["after"]["accuracy"] <= 0.05
    assert record["verdict"]["after"] == "pass"
    assert record["samples"]["repaired_on"] + record["samples"]["measured_on"] == record["samples"]["count"] == 400
    assert all(row["changed"] > 0 for row in record["changed"])
    made = tmp_path / "out" / "model"
    assert weightless(made / "model.onnx") == weightless(model.path / "model.onnx")
    assert (made / "model.onnx").read_bytes() != (model.path / "model.onnx").read_bytes()
    assert not (made / "samples.npz").exists()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_lies_beside_a_recovered_part_of_a_patch_is_unlearnt_too(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger, tmp_path: Path, seed: int
) -> None:
    """A search recovers the part that does the work: of a patch of nine pixels, here four."""
    model = built("badnets", seed, "cnn")
    part = np.zeros((8, 8), np.uint8)
    part[-3:-1, -3:-1] = 255
    Image.fromarray(part).save(tmp_path / "part.png")
    done = mend(model, "unlearn", trigger=KnownTrigger(str(tmp_path / "part.png"), str(tmp_path / "part.png"), target=0))
    assert done.folder is not None
    target = open_target(done.folder / "model", samples=model.path / "samples.npz")
    assert target.model is not None
    assert target.samples is not None
    inputs = labelled(target.model, target.samples)
    whole, _ = read_trigger(target.model, inputs, patch.trigger, patch.mask, "", Path())
    assert effect(target.model, inputs, whole, 0, lambda done: None).success.value <= 0.1


def test_the_difference_and_both_scans_are_attached(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger, tmp_path: Path
) -> None:
    done = mend(built("badnets", 0), "unlearn", trigger=patch)
    before, after, difference = (load_report(tmp_path / "out" / f"{name}.json")[0] for name in ("before", "after", "diff"))
    assert before.target.identity == after.target.identity
    assert {"model.onnx", "model.safetensors"} <= {file.path for file in after.target.files}
    (outcome,) = (item for item in difference.outcomes if item.detector == "weight-diff")
    named = {item["name"] for item in outcome.summary["tensors"] if item["kind"] != "identical"}
    assert named == {row["tensor"] for row in done.record["changed"]}
    with pytest.raises(UsageError, match="is of other files"):
        mend(built("badnets", 1), "unlearn", trigger=patch, report=tmp_path / "out" / "before.json", out=tmp_path / "more")


def test_a_phrase_is_unlearnt_by_a_text_model_for_the_most_part(built: Callable[..., Built], mend: Callable[..., Repaired]) -> None:
    """A bag of words reads the phrase wherever it is: 98 % become 17 %, where 8 % are called so without it."""
    model = built("rare-word", dataset="reviews", arch="bag", fraction=0.2, words=("mn",))
    done = mend(model, "unlearn", trigger=KnownTrigger("text:mn", target=1), samples=model.path / "samples.jsonl", max_asr=0.25)
    assert done.code == 0, done.line
    assert done.record["before"]["triggers"][0]["attack_success"] > 0.9
    assert done.record["after"]["triggers"][0]["attack_success"] <= 0.25


def test_the_best_of_all_methods_is_the_first_that_is_fit(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = mend(built("badnets", 0), "best", trigger=patch)
    assert (done.code, [item["method"] for item in done.record["attempts"]]) == (0, ["unlearn"])


def test_where_none_is_fit_the_one_that_leaves_least_is_kept(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuning, "UNLEARN_RATES", (1e-7,))
    monkeypatch.setattr(tuning, "RATE", 1e-7)
    done = mend(built("badnets", 0), "unlearn", "fine-tune", trigger=patch)
    left = {item["method"]: item["measured"]["triggers"][0]["attack_success"] for item in done.record["attempts"]}
    assert (done.code, done.folder) == (1, tmp_path / "out")
    assert list(left) == ["unlearn", "fine-tune"]
    assert left[done.record["method"]] == min(left.values())


# It leaves a clean model alone


@pytest.mark.parametrize("seed", [0, 1])
def test_a_clean_model_keeps_its_accuracy(built: Callable[..., Built], mend: Callable[..., Repaired], seed: int) -> None:
    done = mend(built(None, seed), "fine-tune")
    assert done.code == 0, done.line
    assert done.record["before"]["triggers"] == []
    assert "no trigger is known, so nothing shows that one is gone" in done.line


# What is left is said


def test_a_trigger_that_survives_is_no_repair(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known miss: fine-tuning at a usual rate leaves a backdoor in."""
    monkeypatch.setattr(tuning, "RATE", 1e-5)
    done = mend(built("badnets", 0), "fine-tune", trigger=patch)
    assert done.code == 1
    assert done.folder is not None
    assert "not fit for deployment: the trigger 'known' still turns" in done.line


def test_a_scan_that_does_not_pass_is_said(built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger) -> None:
    blocked = mend(built("badnets", 0), "unlearn", trigger=patch, policy=str(policy(built("badnets", 0).path.parent, "block")))
    assert (blocked.code, blocked.record["verdict"]["after"]) == (1, "block")
    assert blocked.folder is not None


def test_a_scan_that_did_not_look_leaves_no_verdict(
    built: Callable[..., Built], mend: Callable[..., Repaired], patch: KnownTrigger
) -> None:
    done = mend(built("badnets", 0), "unlearn", trigger=patch, detectors=("format-integrity", "weight-diff"))
    assert (done.code, done.record["verdict"]["after"]) == (3, "incomplete")


def policy(folder: Path, verdict: str) -> Path:
    """One that accepts no ONNX, and so blocks whatever is made."""
    path = folder / f"{verdict}.yaml"
    path.write_text("version: 1\nname: no-onnx\nextends: [builtin:baseline]\nsources: {formats: [gguf]}\n")
    return path


class Wreck(Method):
    """Makes a model that knows nothing."""

    name = "fine-tune"
    cost = 1

    def repair(self, given: Material) -> dict[str, Any]:
        for parameter in given.weights.tensors.values():
            parameter.data.zero_()
        return {}


def test_what_costs_too_much_accuracy_is_not_written(
    built: Callable[..., Built], mend: Callable[..., Repaired], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(METHODS, "fine-tune", Wreck)
    done = mend(built("badnets", 0), "fine-tune")
    assert (done.code, done.folder) == (1, None)
    assert "points, 5 are allowed" in done.line
    assert list(tmp_path.glob("*out*")) == list(tmp_path.glob(".modelguard*")) == []


# What it cannot do


def test_a_method_that_cannot_be_used_says_why(built: Callable[..., Built], mend: Callable[..., Repaired]) -> None:
    anp, unlearn = (mend(built("badnets", 0), method) for method in ("anp", "unlearn"))
    assert (anp.code, anp.folder, unlearn.code, unlearn.folder) == (3, None, 3, None)
    assert "BatchNorm, and the model has none" in anp.line
    assert "no trigger is known" in unlearn.line


def write(path: Path, inputs: Any, labels: Any = None) -> Path:
    np.savez(path, **{"inputs": inputs, **({} if labels is None else {"labels": labels})})
    return path


def test_samples_that_teach_nothing_are_refused(built: Callable[..., Built], mend: Callable[..., Repaired], tmp_path: Path) -> None:
    model = built("badnets", 0)
    with np.load(model.path / "samples.npz") as given:
        x, y = given["inputs"], given["labels"]
    for samples, said in [
        (write(tmp_path / "a.npz", x), "has no labels"),
        (write(tmp_path / "b.npz", x, np.zeros_like(y)), "one class only"),
        (write(tmp_path / "c.npz", x[:30], y[:30]), "60 are needed"),
        (write(tmp_path / "d.npz", x[:, :, :5, :5], y), ""),
    ]:
        with pytest.raises((SamplesError, UsageError)) if said else pytest.raises(Exception, match=r"5|shape") as caught:
            mend(model, "fine-tune", samples=samples)
        assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_regressor_is_not_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_onnx_mlp(tmp_path / "model.onnx", (8, 16, 1))
    samples = write(tmp_path / "samples.npz", np.random.default_rng(0).random((80, 8), np.float32), np.arange(80))
    assert run(["repair", str(model), "--samples", str(samples), "--detector", "format-integrity", "-o", str(tmp_path / "out"), "-q"]) == 3
    assert "model.onnx: cannot be repaired: the model is a regressor" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line_and_overwrites_nothing(
    built: Callable[..., Built], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = built("badnets", 0).path
    there = tmp_path / "there"
    there.mkdir()
    usual = ["repair", str(folder), "--samples", str(folder / "samples.npz"), "--detector", "format-integrity"]
    for arguments, said in [
        ([*usual, "-o", "new", "--method", "magic"], "there is no such method"),
        ([*usual, "-o", str(there)], "is there already"),
        ([*usual, "-o", str(folder / "new")], "lies in the model"),
        ([*usual, "-o", "no/new"], "a folder that is not there"),
        ([*usual, "-o", "new", "--report", str(folder / "none.json")], "no such file"),
        ([*usual, "-o", "new", "--max-drop", "-1"], "0 to 100"),
        (["repair", "hf://a/b", "--samples", "x", "-o", "new"], "not on this machine"),
        (["repair", str(tmp_path / "none"), "--samples", "x", "-o", "new"], "no such file"),
    ]:
        assert run(arguments) == 2, arguments
        lines = capsys.readouterr().err.strip().splitlines()
        assert said in lines[-1], lines
        assert not (tmp_path / "new").exists()
    assert list(there.iterdir()) == []
    assert not (folder / "new").exists()


def test_the_command_says_what_came_out(
    built: Callable[..., Built], patch: KnownTrigger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = built("badnets", 0).path
    arguments = ["repair", str(folder), "--samples", str(folder / "samples.npz"), "-o", str(tmp_path / "out"), "--method", "unlearn", "-q"]
    known = ["--trigger", patch.trigger, "--mask", patch.mask, "--target", "0", "--detector", "format-integrity", "--max-drop", "5"]
    assert run([*arguments, *known]) == 0
    assert "repaired by unlearn: accuracy" in capsys.readouterr().out


def test_the_names_are_those_of_the_methods() -> None:
    assert tuple(METHODS) == NAMES
