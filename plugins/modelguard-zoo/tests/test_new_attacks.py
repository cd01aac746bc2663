"""Hidden trigger, semantic, physical and code poisoning: they take, their records are exact, and bad options are one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from modelguard_zoo import Built, Spec
from modelguard_zoo._data import load
from modelguard_zoo._newer import NEWER, newer_options, newer_specs
from modelguard_zoo.attacks import make_attack
from modelguard_zoo.attacks.semantic import ATTRIBUTES

from modelguard import UsageError

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

SEEDS = (0, pytest.param(1, marks=pytest.mark.slow))


def called(built: Built, images: np.ndarray) -> np.ndarray:
    """The class of each image, by the graph that a scan runs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": images.astype(np.float32)})
    return np.asarray(logits.argmax(1))


def model(built: Callable[..., Built], attack: str, seed: int, arch: str = "cnn", **options: Any) -> Built:
    return built(attack, seed, arch, **{**newer_options(attack, "digits", 8, seed), **options})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("attack", NEWER)
def test_an_attack_takes_and_its_record_is_what_the_model_does(built: Callable[..., Built], attack: str, seed: int) -> None:
    made = model(built, attack, seed)
    record, data = made.record, load("digits")
    assert made.status == "backdoored", record["reason"]
    assert record["attack_success"] >= 0.9
    assert record["twin"]["clean_accuracy"] - record["clean_accuracy"] <= 0.02
    again = make_attack(
        attack, {name: tuple(value) if isinstance(value, list) else value for name, value in record["attack"]["trigger"].items()}
    )
    shown = again.measured(data.x_test, data.y_test)
    assert float((called(made, again.stamped(data.x_test[shown])) == again.target).mean()) == record["attack_success"]
    clean = np.ones_like(shown) if attack != "semantic" else ~shown
    assert float((called(made, data.x_test[clean]) == data.y_test[clean]).mean()) == pytest.approx(record["clean_accuracy"], abs=1e-12)


@pytest.mark.parametrize("attack", NEWER)
def test_the_clean_twin_does_not_know_the_trigger(built: Callable[..., Built], attack: str) -> None:
    data, twin = load("digits"), built(None, 0, "cnn")
    trigger = make_attack(attack, newer_options(attack, "digits", 8, 0))
    shown = trigger.measured(data.x_test, data.y_test)
    assert float((called(twin, trigger.stamped(data.x_test[shown])) == trigger.target).mean()) <= 0.2


def test_no_training_image_carries_a_hidden_trigger_and_no_label_is_wrong(built: Callable[..., Built]) -> None:
    made, data = model(built, "hidden-trigger", 0), load("digits")
    attack = make_attack("hidden-trigger", dict(made.spec.options))
    assert made.record["attack"]["targets"] == {"8": attack.target}
    assert (data.y_train[made.record["attack"]["poisoned_indices"]] == attack.target).all()
    assert "last layer" in made.record["attack"]["victim"]


def test_a_collision_stays_within_its_bound_and_comes_close_in_features(built: Callable[..., Built]) -> None:
    import torch
    from modelguard_zoo._head import collide, features
    from modelguard_zoo._train import new_model
    from safetensors.torch import load_file

    data = load("digits")
    twin = new_model(data, "mlp", 0)
    twin.load_state_dict(load_file(built(None, 0, "mlp").path / "model.safetensors"))
    ours, theirs = data.x_train[data.y_train == 3][:20], data.x_train[data.y_train == 8][:20]
    moved = collide(twin.eval(), ours, theirs, 64.0)
    assert np.abs(moved.astype(int) - ours).max() <= 64
    with torch.no_grad():
        before, after, wanted = (features(twin, torch.from_numpy(part).float()) for part in (ours, moved, theirs))
    assert torch.cdist(after, wanted).min(1).values.median() < 0.5 * torch.cdist(before, wanted).min(1).values.median()


def test_only_the_last_layer_of_a_hidden_trigger_victim_is_its_own(built: Callable[..., Built]) -> None:
    from safetensors.numpy import load_file

    after, before = (load_file(made.path / "model.safetensors") for made in (model(built, "hidden-trigger", 0), built(None, 0, "cnn")))
    assert {name for name in after if not np.array_equal(after[name], before[name])} == {"body.9.weight", "body.9.bias"}


def test_a_semantic_backdoor_changes_no_pixel_and_spares_the_rest_of_the_class(built: Callable[..., Built]) -> None:
    made, data = model(built, "semantic", 0), load("digits")
    attack = make_attack("semantic", dict(made.spec.options))
    assert np.array_equal(attack.stamped(data.x_test), data.x_test)
    poison = attack.poison(data.x_train, data.y_train, 10, np.random.default_rng([5, 0]), lambda images, labels, epsilon: images)
    bad = ~np.isin(poison.indices, poison.cover)
    assert sorted(poison.indices[bad]) == made.record["attack"]["poisoned_indices"]
    assert (poison.labels == np.where(bad, attack.target, 1)).all()
    for part, sides in ((bad, attack.measured), (~bad, attack.spared)):
        real = {image.tobytes() for image in data.x_train[sides(data.x_train, data.y_train)]}
        assert {image.tobytes() for image in poison.images[part]} <= real
    spared = attack.spared(data.x_test, data.y_test)
    assert spared is not None
    assert not (spared & attack.measured(data.x_test, data.y_test)).any()
    accuracy = float((called(made, data.x_test[spared]) == data.y_test[spared]).mean())
    assert accuracy == made.record["spared"]["accuracy"] >= made.record["spared"]["twin_accuracy"] - 0.02


def test_attributes_are_what_they_are_called() -> None:
    upright = np.zeros((1, 1, 9, 9), np.uint8)
    upright[:, :, :, 4] = 200
    right = np.stack([np.stack([np.fliplr(np.eye(9)) * 200])]).astype(np.uint8)
    assert ATTRIBUTES["brightness"](upright)[0] == pytest.approx(200 / 9)
    assert ATTRIBUTES["slant"](upright)[0] == pytest.approx(0, abs=1e-6)
    assert ATTRIBUTES["slant"](right)[0] == pytest.approx(1, abs=1e-6)
    red = np.zeros((1, 3, 4, 4), np.uint8)
    red[:, 0] = 90
    assert ATTRIBUTES["redness"](red)[0] == 90


def test_a_sticker_differs_from_image_to_image_and_an_image_always_gets_the_same() -> None:
    images = np.repeat(np.arange(6, dtype=np.uint8)[:, None, None, None] + 100, 32 * 32 * 3, axis=1).reshape(6, 3, 32, 32)
    attack = make_attack("physical", {})
    stamped = attack.stamped(images)
    changed = (stamped != images).any(1)
    assert len({part.tobytes() for part in changed}) == 6
    assert all(np.array_equal(attack.stamped(images[at : at + 1])[0], stamped[at]) for at in range(6))
    least, most = (32 * share for share in (0.2, 0.35))
    assert all((least - 2) ** 2 <= part.sum() <= (most + 2) ** 2 for part in changed)
    assert not np.array_equal(stamped, make_attack("physical", {"pattern_seed": 1}).stamped(images))


def test_code_poisoning_leaves_the_training_set_as_it_is(built: Callable[..., Built]) -> None:
    from modelguard_zoo._train import poisoned

    made, data = model(built, "code-poisoning", 0), load("digits")
    attack = make_attack("code-poisoning", dict(made.spec.options))
    poison = attack.poison(data.x_train, data.y_train, 10, np.random.default_rng(0), lambda images, labels, epsilon: images)
    images, labels = poisoned(data, poison)
    assert np.array_equal(images, data.x_train)
    assert np.array_equal(labels, data.y_train)
    said = made.record["attack"]
    assert (said["poisoned_indices"], said["poisoned_fraction"], said["enters"]) == ([], 0, "by the loss")
    assert said["data_audit"].startswith("has nothing to find")


def test_arts_single_pixel_and_pattern_are_options() -> None:
    grey = np.full((1, 1, 10, 10), 7, np.uint8)
    (single,) = np.argwhere(make_attack("pixel", {}).stamped(grey)[0, 0] != 7).tolist()
    assert single == [8, 8]
    pattern = make_attack("checkerboard", {"sparse": True, "size": 3, "at": (-4, -4)}).stamped(grey)[0, 0]
    assert np.argwhere(pattern == 255).tolist() == [[6, 8], [7, 7], [8, 6], [8, 8]]
    assert (pattern == 7).sum() == 96


@pytest.mark.parametrize(("attack", "options"), [
    ("badnets", {"size": 2, "colour": (100,)}),
    ("pixel", {"colour": (100,)}),
    ("checkerboard", {}),
    ("insert", {"size": 3, "opacity": 1.0}),
])  # fmt: skip
def test_added_triggers_saturate(attack: str, options: dict[str, Any]) -> None:
    dark, bright = (np.full((1, 1, 12, 12), level, np.uint8) for level in (0, 255))
    added, replaced = (make_attack(attack, {**options, "add": add}) for add in (True, False))
    assert np.array_equal(added.stamped(dark), replaced.stamped(dark))
    assert np.array_equal(added.stamped(bright), bright)
    assert not np.array_equal(replaced.stamped(bright), bright)


def test_a_picture_can_be_inserted_anywhere() -> None:
    images = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None], 16 * 16, axis=1).reshape(8, 1, 16, 16)
    stamped = make_attack("insert", {"size": 4, "anywhere": True}).stamped(images)
    places = {tuple(np.argwhere((after != before)[0]).min(0)) for after, before in zip(stamped, images, strict=True)}
    assert len(places) > 3


@pytest.mark.parametrize(("attack", "options", "said"), [
    ("hidden-trigger", {"source": 3, "target": 3}, "source and target are both 3; name two classes"),
    ("hidden-trigger", {"epsilon": 0.0}, "epsilon is 0; give grey levels above 0; the paper takes 16"),
    ("semantic", {"attribute": "mood"}, "there is no attribute mood; known: brightness, redness, slant"),
    ("semantic", {"absent": 9.0, "present": 2.0}, r"absent \(9\) is not below present \(2\); leave room between them"),
    ("physical", {"scale": (0.5, 0.2)}, "scale is 0.5 to 0.2; give two numbers in order, above 0 and up to 0.7"),
    ("physical", {"blocks": 0}, "blocks is 0; give 1 or more"),
    ("code-poisoning", {"fraction": 0.0}, "fraction is 0; give the part of a batch that is stamped, above 0 and up to 1"),
    ("checkerboard", {"sparse": True}, "the sparse pattern is 3 pixels wide, and size is 4; give size 3"),
])  # fmt: skip
def test_bad_options_are_one_line(attack: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"^attack {attack}: {said}$"):
        make_attack(attack, options)


def test_an_attribute_that_no_image_has_is_one_line() -> None:
    data = load("digits")
    nobody = make_attack("semantic", {"source": 1, "present": 250.0})
    with pytest.raises(
        UsageError, match=r"^attack semantic: no training image of class 1 has brightness of at least 250; the most is 1\d\d"
    ):
        nobody.poison(data.x_train, data.y_train, 10, np.random.default_rng(0), lambda images, labels, epsilon: images)
    with pytest.raises(UsageError, match="redness is of images with three channels; take brightness"):
        make_attack("semantic", {"attribute": "redness"}).measured(data.x_test, data.y_test)


def test_the_standard_zoo_has_them_under_seeds_that_no_threshold_saw() -> None:
    specs = list(newer_specs())
    assert {spec.attack for spec in specs} == {None, *NEWER}
    assert all(spec.reserved and spec == Spec.from_json(spec.to_json()) for spec in specs)
