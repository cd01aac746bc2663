"""What is measured of a trigger that was recovered, on models whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_triggers.case import Case
from modelguard_triggers.evidence import Evidence
from modelguard_triggers.patches import patch_processing, patch_size
from modelguard_triggers.recovered import recovered
from torch import Tensor

from modelguard import InputSpec, Layer, OutputSpec

SIDE, PATCH, QUADRANTS = 8, 2, 4
TOKENS = Layer("tokens", "attention", (17, 4), -1)


class Quadrants:
    """Says which quadrant of a (1, 8, 8) image is brightest; class 0 where a pixel, or the whole, is brighter than any clean one."""

    input = InputSpec("image", (1, SIDE, SIDE), "float32", "NCHW", 0.0, 1.0, None, None, {})
    output = OutputSpec("classifier", QUADRANTS, "logits")
    device = torch.device("cpu")

    def __init__(self, layers: tuple[Layer, ...] = (TOKENS,), moves: bool = True) -> None:
        self.layers, self.moves = layers, moves

    def __call__(self, x: Tensor) -> Tensor:
        half = SIDE // 2
        tiles = [x[:, 0, i : i + half, j : j + half] for i in (0, half) for j in (0, half)]
        if not self.moves:  # the brightest row of the palette, wherever it stands
            tiles = [(x[:, 0] - level).abs().lt(0.04).float() for level in (0.2, 0.3, 0.4, 0.5)]
        logits = 10 * torch.stack([tile.mean((1, 2)) for tile in tiles], 1)
        fires = 50 * (x.amax((1, 2, 3)) - 0.8).clamp_min(0) + 50 * (x.mean((1, 2, 3)) - 0.5).clamp_min(0)
        return logits + torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), QUADRANTS) * fires[:, None]

    def predict(self, x: Any) -> Any:
        return self(torch.from_numpy(x)).numpy()


def quadrants(layers: tuple[Layer, ...] = (TOKENS,), moves: bool = True) -> Any:
    """Such a model, taken for a runnable one."""
    return Quadrants(layers, moves)


def images(seed: int, count: int = 40) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels, half = torch.arange(count) % QUADRANTS, SIDE // 2
    x = 0.1 * torch.rand(count, 1, SIDE, SIDE, generator=rng)
    for i, k in enumerate(labels.tolist()):
        x[i, 0, half * (k // 2) :, half * (k % 2) :][:half, :half] += 0.4
    return x, labels


def case(model: Any, seed: int = 0, base: dict[int, float] | None = None) -> Case:
    search, searched = images(seed)
    check, checked = images(seed + 100)
    evidence = Evidence(search, searched, check, checked, QUADRANTS, 1.0, base or {})
    return Case(model, evidence, 128, lambda stream: np.random.default_rng(seed), lambda done, total, note="": None)


def pixel(x: Tensor) -> Tensor:
    stamped = x.clone()
    stamped[:, :, 7, 7] = 1.0
    return stamped


def veil(x: Tensor) -> Tensor:
    return x * 0.5 + 0.5


@pytest.mark.parametrize("seed", range(3))
def test_dropping_patches_tells_a_small_trigger_and_moving_them_a_wide_one(seed: int) -> None:
    model, (clean, labels) = quadrants(), images(seed)
    others = clean[labels != 0]
    generator = torch.Generator().manual_seed(seed)

    small = patch_processing(model, others, pixel(others), PATCH, generator)
    wide = patch_processing(model, others, veil(others), PATCH, generator)
    none = patch_processing(model, others, others + 0.01, PATCH, generator)

    assert small["patch_drop_flagged"] > 0.5
    assert wide["patch_shuffle_flagged"] > 0.5
    assert max(none["patch_drop_flagged"], none["patch_shuffle_flagged"]) < 0.3


def test_where_clean_images_lose_their_class_as_often_dropping_says_nothing() -> None:
    model, (clean, _) = quadrants(moves=False), images(0)

    facts = patch_processing(model, clean, pixel(clean), PATCH, torch.Generator().manual_seed(0))

    assert "patch_drop_flagged" not in facts
    assert "changes the answer on clean images" in facts["patch_drop_unusable"]


def test_where_moving_patches_changes_nothing_on_clean_images_it_says_so() -> None:
    model, (clean, _) = quadrants(moves=False), images(0)

    facts = patch_processing(model, clean, pixel(clean), PATCH, torch.Generator().manual_seed(0))

    assert "patch_shuffle_flagged" not in facts
    assert "keeping it says nothing" in facts["patch_shuffle_unusable"]


@pytest.mark.parametrize(
    ("shapes", "side"),
    [([(17, 4)], 2), ([(16, 4)], 2), ([(8, 8, 8), (16, 4)], 2), ([(8, 8, 8)], 0), ([(10,)], 0), ([(7, 4)], 0), ([], 0)],
)
def test_the_side_of_a_patch_is_told_by_the_number_of_tokens(shapes: list[tuple[int, ...]], side: int) -> None:
    layers = tuple(Layer(str(i), "block", shape, -1 if len(shape) == 2 else 0) for i, shape in enumerate(shapes))

    assert patch_size(quadrants(layers)) == side


def test_an_input_agnostic_trigger_is_flagged_and_one_that_does_nothing_is_not() -> None:
    model = quadrants(())
    asked = case(model).evidence.check_labels != 0

    works = recovered(case(model, base={0: 0.05}), 0, asked, pixel)
    nothing = recovered(case(model), 0, asked, lambda x: x)

    assert works == {"base_rate": 0.05, "strip_flagged": 1.0}
    assert nothing.keys() == {"strip_flagged"}
    assert nothing["strip_flagged"] < 0.2


def test_of_few_images_nothing_is_said() -> None:
    whole = case(quadrants(), base={0: 0.05})
    few = replace(whole, evidence=replace(whole.evidence, search=whole.evidence.search[:5]))

    assert recovered(few, None, few.evidence.check_labels != 0, pixel) == {}
