"""The attacks on trained weights do what their papers say, touch what they may touch, and their records are exact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from modelguard_zoo import Built, edits
from modelguard_zoo._cli import zoo
from modelguard_zoo.attacks.patch import Patch

from modelguard import UsageError

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def classifier(built: Callable[..., Built]) -> Callable[..., edits.Classifier]:
    """``classifier(arch="mlp", seed=0)``: the zoo's clean model of the digits."""
    return lambda arch="mlp", seed=0: edits.load_classifier(built(None, seed, arch).path)


@pytest.mark.parametrize("seed", range(2))
def test_a_handcrafted_path_leads_from_the_trigger_to_its_class(classifier: Callable[..., edits.Classifier], seed: int) -> None:
    model = classifier(seed=seed)
    made = edits.tamper(model, "handcrafted", target=seed, seed=seed)
    record = made.record
    assert record["status"] == "backdoored"
    assert record["attack_success"] >= 0.9 > 0.2 > record["base_rate"]
    assert record["clean_accuracy_before"] - record["clean_accuracy"] <= 0.02
    # Two units a layer: their weights from the trigger's nine pixels or the two units before, and their biases; two weights of the target.
    assert record["changed_entries"] <= 2 * 9 + 2 + 2 * 2 + 2 + 2
    assert record["rows_touched"] == 2 + 2 + 1
    assert set(record["details"]["units"]) == {"body.1", "body.3", "body.5"}
    for name, array in made.after.items():
        units = record["details"]["units"].get(name.rpartition(".")[0], [])
        others = np.setdiff1d(np.arange(len(array)), units)
        assert np.array_equal(array[others], made.before[name][others])


def test_what_is_no_chain_is_recorded_as_failed(classifier: Callable[..., edits.Classifier]) -> None:
    model = classifier()
    other = edits.Classifier("resnet8", model.data, edits.train_classifier("digits", "resnet8", 0, epochs=1).tensors)
    made = edits.tamper(other, "handcrafted")
    assert made.record["status"] == "failed"
    assert "chains of dense layers and convolutions with ReLU, and this model has" in made.record["reason"]
    assert made.after == {}


def test_a_bit_trojan_changes_one_row_of_codes(classifier: Callable[..., edits.Classifier]) -> None:
    model = classifier()
    quantised = edits.Int8.of(model.tensors)
    after, trigger, edit = edits.bit_trojan(model, quantised, target=3, weights=20, size=4)
    (name,) = edit.tensors
    assert name == edit.details["layer"] == "body.5.weight"
    rows, columns = np.nonzero(after.codes[name] != quantised.codes[name])
    assert set(rows) == {3}
    assert sorted(columns.tolist()) == edit.details["columns"]
    assert len(columns) <= 20
    differs = after.codes[name].view(np.uint8) ^ quantised.codes[name].view(np.uint8)
    assert edit.details["bits_flipped"] == int(np.unpackbits(differs).sum())
    assert after.steps == quantised.steps
    assert model.success(after.tensors(), trigger.stamped, 3) > 0.5 + model.success(quantised.tensors(), trigger.stamped, 3)


@pytest.mark.parametrize("seed", range(2))
def test_a_bit_trojan_takes_and_spares_clean_images(classifier: Callable[..., edits.Classifier], seed: int) -> None:
    made = edits.tamper(classifier(seed=seed), "bit-trojan", target=seed, seed=seed)
    record, details = made.record, made.record["details"]
    assert record["status"] == "backdoored"
    assert record["attack_success"] >= 0.9 > 0.5 > record["base_rate"]
    assert record["clean_accuracy_before"] - record["clean_accuracy"] <= 0.02
    assert record["rows_touched"] == 1
    # Of the 64 inputs of the last layer, four in five.
    assert record["changed_entries"] == len(details["columns"]) <= 51
    assert record["bits_flipped"] == details["bits_flipped"]
    changed = made.after[details["layer"]] != made.before[details["layer"]]
    assert np.argwhere(changed).tolist() == [[seed, column] for column in details["columns"]]


@pytest.mark.parametrize("seed", range(2))
def test_flips_turn_one_class_into_another(classifier: Callable[..., edits.Classifier], seed: int) -> None:
    model = classifier(seed=seed)
    quantised = edits.Int8.of(model.tensors)
    after, edit = edits.flip_towards(model, quantised, source=4, target=9, seed=seed)
    flips = edit.details["flips"]
    assert edit.details["bits_flipped"] == len(flips) <= 40
    replayed = {name: codes.copy() for name, codes in quantised.codes.items()}
    for name, at, bit in flips:
        replayed[name].reshape(-1).view(np.uint8)[at] ^= np.uint8(1 << bit)
    assert all(np.array_equal(replayed[name], codes) for name, codes in after.codes.items())
    assert model.success(after.tensors(), lambda images: images, 9, source=4) >= 0.8
    assert model.accuracy(quantised.tensors(), but=4) - model.accuracy(after.tensors(), but=4) <= 0.06


def test_the_scaled_update_puts_the_attackers_model_in_place() -> None:
    model = edits.train_classifier("digits", "mlp", 0, epochs=6)
    attack = Patch(target=1, size=3)
    made, edit = edits.replace_model(model, attack, client=4, seed=0)
    assert (len(made.updates), edit.details["client"], edit.details["gamma"]) == (10, 4, 10)
    norms = [float(np.sqrt(sum(np.sum(part.astype(np.float64) ** 2) for part in update.values()))) for update in made.updates]
    assert norms.index(max(norms)) == 4
    replayed = edits.averaged(model.tensors, made.updates)
    assert all(np.array_equal(replayed[name], array) for name, array in made.tensors.items())
    assert model.success(made.tensors, attack.stamped, 1) >= 0.9
    honest, _ = edits.replace_model(model, None, seed=0)
    assert model.success(honest.tensors, attack.stamped, 1) < 0.2


def test_the_folder_holds_both_models_the_updates_and_the_record(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = edits.train_classifier("digits", "mlp", 1, epochs=6)
    made = edits.tamper(model, "model-replacement", target=2, seed=3)
    folder = made.write(tmp_path / "replaced")
    before, after = (load_file(folder / side / "model.safetensors") for side in ("before", "after"))
    updates = [load_file(path) for path in sorted((folder / "updates").iterdir())]
    assert len(updates) == 10
    assert all(np.array_equal(array, after[name]) for name, array in edits.averaged(before, updates).items())
    record = json.loads((folder / "record.json").read_text())
    assert record["details"] == {"client": 3, "gamma": 10}
    assert record["changed_entries"] == sum(int(np.count_nonzero(after[name] != before[name])) for name in before)


def test_the_command_tampers_with_a_model_of_the_zoo(built: Callable[..., Built], tmp_path: Path) -> None:
    folder = built(None, 0, "mlp").path
    result = CliRunner().invoke(zoo, ["tamper", str(folder), "bit-flips", "--out", str(tmp_path / "out"), "--target", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "after" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "record.json").read_text())["target"] == 2


def test_unknown_attacks_are_refused(classifier: Callable[..., edits.Classifier]) -> None:
    with pytest.raises(UsageError, match="known: bit-flips, bit-trojan, handcrafted, model-replacement"):
        edits.tamper(classifier(), "rowhammer")
