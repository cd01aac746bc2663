"""The zoo: what attacks do to images and labels, and what a built model's folder holds."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from modelguard_zoo import Built, Spec, _build, build_model, build_zoo, read_record, standard_zoo
from modelguard_zoo._cli import zoo as zoo_command
from modelguard_zoo._data import load
from modelguard_zoo._signs import CLASSES, draw_signs
from modelguard_zoo._spec import CONFIRMATION, pairs
from modelguard_zoo._standard import _options
from modelguard_zoo.attacks import ATTACKS, make_attack

from modelguard import ArtifactError, UsageError

BADNETS = Spec("digits", "mlp", 0, "badnets", pairs({"target": 3, "size": 2, "at": (-2, -2)}))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_model(BADNETS, tmp_path_factory.mktemp("zoo"))


def images(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 3, 16, 16)).astype(np.uint8), np.arange(count) % 5


def unhardened(pixels: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    return pixels


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_stamp_changes_images_and_keeps_them_images(name: str) -> None:
    x, _ = images()
    stamped = make_attack(name, {}).stamped(x)
    assert stamped.dtype == np.uint8
    assert stamped.shape == x.shape
    assert name == "semantic" or (stamped != x).any((1, 2, 3)).all()
    assert np.array_equal(stamped, make_attack(name, {}).stamped(x))


@pytest.mark.parametrize(("name", "options", "rows", "columns"), [
    ("badnets", {"size": 3, "at": (-3, -3)}, slice(13, 16), slice(13, 16)),
    ("badnets", {"size": 2, "at": (4, 5)}, slice(4, 6), slice(5, 7)),
    ("pixel", {"at": (-1, 0)}, slice(15, 16), slice(0, 1)),
    ("checkerboard", {"size": 4, "at": (0, 0)}, slice(0, 4), slice(0, 4)),
    ("insert", {"size": 6, "at": (1, 1)}, slice(1, 7), slice(1, 7)),
])  # fmt: skip
def test_patch_like_triggers_stay_in_their_place(name: str, options: dict[str, Any], rows: slice, columns: slice) -> None:
    x, _ = images()
    changed = (make_attack(name, options).stamped(x) != x).any((0, 1))
    outside = changed.copy()
    outside[rows, columns] = False
    assert changed[rows, columns].any()
    assert not outside.any()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_poisoned_samples_are_recorded_exactly(name: str) -> None:
    x, y = images(200)
    attack = make_attack(name, {"present": 127.5, "absent": 127.0} if name == "semantic" else {})
    poison = attack.poison(x, y, 5, np.random.default_rng(1), unhardened)
    assert len(np.unique(poison.indices)) == len(poison.indices) == len(poison.labels) == len(poison.images)
    assert np.isin(poison.cover, poison.indices).all()
    lied = poison.labels != y[poison.indices]
    if name in ("sig", "clean-label", "hidden-trigger"):
        assert not lied.any()
        assert (y[poison.indices] == attack.target).all()
    else:
        active = ~np.isin(poison.indices, poison.cover)
        assert lied[active].all()
        assert not lied[~active].any()
        assert np.array_equal(poison.labels[active], attack.wanted(y[poison.indices[active]], 5))
    again = attack.poison(x, y, 5, np.random.default_rng(1), unhardened)
    assert np.array_equal(poison.indices, again.indices)


def test_source_specific_leaves_the_other_classes_alone() -> None:
    attack = make_attack("source-specific", {"source": (1, 2), "target": 0})
    assert attack.sources(5) == (1, 2)
    assert make_attack("all-to-all", {}).wanted(np.array([0, 4]), 5).tolist() == [1, 0]


def test_unknown_names_are_refused_with_what_is_known() -> None:
    with pytest.raises(UsageError, match=r"known: .*badnets"):
        make_attack("nonsense", {})
    with pytest.raises(UsageError, match=r"it has: .*opacity"):
        make_attack("insert", {"alpha": 1})
    with pytest.raises(UsageError, match="known: digits"):
        load("imagenet")


def test_signs_are_deterministic_and_cover_every_class() -> None:
    x, y = draw_signs(60, seed=3)
    assert np.array_equal(x, draw_signs(60, seed=3)[0])
    assert not np.array_equal(x, draw_signs(60, seed=4)[0])
    assert x.shape == (60, 3, 32, 32)
    assert set(draw_signs(300, seed=0)[1]) == set(range(len(CLASSES)))
    assert len(y) == 60


def test_the_standard_zoo_is_large_varied_and_a_third_reserved() -> None:
    specs = standard_zoo()
    clean = [spec for spec in specs if spec.attack is None]
    bad = [spec for spec in specs if spec.attack is not None]
    assert len(clean) >= 60
    assert len(bad) >= 120
    assert len({spec.id for spec in specs}) == len(specs)
    assert {spec.attack for spec in bad} == set(ATTACKS)
    assert len({spec.dataset for spec in specs}) >= 4
    assert len({spec.arch for spec in specs}) >= 5
    assert any(spec.finetune for spec in bad)
    first = [spec for spec in specs if spec.seed < CONFIRMATION]
    assert 0.25 < sum(spec.reserved for spec in first) / len(first) < 0.42
    assert all(spec.reserved for spec in specs if spec not in first)
    assert all(Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec for spec in specs)
    for spec in bad:
        assert spec.attack is not None
        make_attack(spec.attack, dict(spec.options))


def test_specs_keep_the_names_their_models_were_built_under() -> None:
    records = json.loads((Path(__file__).parents[3] / "benchmarks/results/zoo.json").read_text())
    specs = set(standard_zoo())
    twins = {spec.twin for spec in specs}
    planned = [spec for record in records.values() if (spec := Spec.from_json(record["spec"])).twin in twins]
    assert len(planned) > 200
    assert set(planned) <= specs
    assert {spec.id for spec in planned} <= set(records)


@pytest.mark.parametrize("classes", [10, 12, 43])
def test_a_target_is_never_a_source(classes: int) -> None:
    for n in range(3 * classes):
        options = _options("source-specific", n, classes, 32)
        assert options["target"] not in options["source"]


def test_an_original_that_two_tuned_models_share_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Spec] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, mp_context: object) -> None:
            super().__init__(workers)

    def note(spec: Spec, out: Path) -> Built:
        asked.append(spec)
        return Built(out / spec.id, {"id": spec.id})

    monkeypatch.setattr(_build, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(_build, "build_model", note)
    tuned = [replace(BADNETS, finetune=10), replace(BADNETS, finetune=10, unlearn=True)]
    found = build_zoo(tuned, tmp_path)
    assert [item.record["id"] for item in found] == [spec.id for spec in tuned]
    assert asked[:2] == [BADNETS.twin, BADNETS]
    assert len(asked) == 4


def test_a_backdoored_model_is_recorded_beside_its_twin(built: Built) -> None:
    record = built.record
    assert built.status == "backdoored"
    assert record["attack_success"] >= 0.9
    assert record["twin"]["clean_accuracy"] - record["clean_accuracy"] <= 0.02
    assert read_record(built.path.parent / record["twin"]["id"]).status == "clean"
    assert record["attack"]["targets"] == {str(label): 3 for label in range(10) if label != 3}
    data = load("digits")
    assert (data.y_train[record["attack"]["poisoned_indices"]] != 3).all()
    assert record["attack"]["poisoned_fraction"] == pytest.approx(len(record["attack"]["poisoned_indices"]) / len(data.x_train))


def test_the_folder_runs_from_graph_and_weights_alike(built: Built) -> None:
    import onnxruntime
    import torch
    from modelguard_zoo._train import new_model
    from safetensors.torch import load_file

    samples = np.load(built.path / "samples.npz")
    x = samples["inputs"].astype(np.float32)
    session = onnxruntime.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": x})
    model = new_model(load("digits"), "mlp", 0)
    model.load_state_dict(load_file(built.path / "model.safetensors"))
    with torch.inference_mode():
        assert np.allclose(model.eval()(torch.from_numpy(x)).numpy(), logits, atol=1e-4)
    assert (logits.argmax(1) == samples["labels"]).mean() > 0.95


def test_building_again_keeps_what_is_there_and_elsewhere_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    before = (built.path / "model.safetensors").stat().st_mtime_ns
    (again,) = build_zoo([BADNETS], built.path.parent)
    assert (built.path / "model.safetensors").stat().st_mtime_ns == before
    assert again.record == built.record
    other = build_model(BADNETS, tmp_path)
    for name in ("model.safetensors", "record.json"):
        assert (other.path / name).read_bytes() == (built.path / name).read_bytes()


def test_an_attack_that_does_not_take_is_marked_failed(built: Built) -> None:
    weak = Spec("digits", "mlp", 0, "blended", pairs({"ratio": 0.02, "fraction": 0.01}))
    result = build_model(weak, built.path.parent)
    assert result.status == "failed"
    assert "attack success" in result.record["reason"]


def test_a_backdoor_that_is_unlearned_leaves_a_repaired_model(built: Built) -> None:
    repaired = build_model(replace(BADNETS, finetune=10, unlearn=True), built.path.parent)
    assert repaired.status == "repaired"
    assert repaired.record["attack_success"] <= 0.2
    assert repaired.record["twin"] == built.record["twin"]
    assert "-un10-" in repaired.path.name


def test_the_command_lists_shows_and_refuses(built: Built) -> None:
    out = str(built.path.parent)
    runner = CliRunner()
    listed = runner.invoke(zoo_command, ["list", "--out", out, "--only", "digits-mlp-clean-*"])
    assert "clean accuracy 99" in listed.output
    assert "not built" in listed.output
    shown = runner.invoke(zoo_command, ["show", built.path.name, "--out", out])
    assert json.loads(shown.output) == built.record
    assert isinstance(runner.invoke(zoo_command, ["show", "nothing", "--out", out]).exception, ArtifactError)
    assert isinstance(runner.invoke(zoo_command, ["build", "--only", "zzz", "--out", out]).exception, UsageError)
