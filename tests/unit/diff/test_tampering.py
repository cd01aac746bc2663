"""Small changes by hand or by bits: named as what they are, with what they touched, in floats, int8 codes and quantised files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import ModelDiff, diff_checkpoints
from modelguard.testing import ArrayCheckpoint

Tensors = dict[str, npt.NDArray[Any]]
SEEDS = range(4)


def network(seed: int) -> Tensors:
    """The layers of a small convolutional classifier."""
    rng = np.random.default_rng(seed)
    shapes = {
        "conv1.weight": (16, 1, 3, 3), "conv1.bias": (16,), "conv2.weight": (32, 16, 3, 3), "conv2.bias": (32,),
        "fc1.weight": (64, 128), "fc1.bias": (64,), "fc2.weight": (10, 64), "fc2.bias": (10,),
    }  # fmt: skip
    return {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def codes(tensors: Tensors) -> Tensors:
    """Matrices as int8 codes with a scale each beside them."""
    stored: Tensors = {}
    for name, array in tensors.items():
        if array.ndim < 2:
            stored[name] = array
            continue
        step = np.float32(np.abs(array).max() / 127)
        stored |= {name: np.rint(array / step).astype(np.int8), f"{name}_scale": np.asarray([step])}
    return stored


def diff(before: Tensors, after: Tensors) -> ModelDiff:
    return diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)])


def edited(tensors: Tensors, name: str, where: Any, values: Any) -> Tensors:
    array = tensors[name].copy()
    array[where] = values
    return {**tensors, name: array}


@pytest.mark.parametrize("seed", SEEDS)
def test_two_filters_of_sixteen_are_two_rows(seed: int) -> None:
    before = network(seed)
    rng = np.random.default_rng([2, seed])
    after = edited(before, "conv1.weight", [3, 9], rng.standard_normal((2, 1, 3, 3)).astype(np.float32))
    after = edited(after, "conv1.bias", [3, 9], np.float32(-1.3))
    after = edited(after, "fc2.weight", (4, [7, 8, 9]), np.float32(2.7))
    found = diff(before, after)
    assert {item.name: (item.kind, item.evidence["axis"], item.evidence["count"]) for item in found.tensors} == {
        "conv1.weight": ("row-edit", "row", 2),
        "conv1.bias": ("row-edit", "entry", 2),
        "fc2.weight": ("row-edit", "row", 1),
    }
    assert found.change.kind == "row-edit"
    assert found.change.reason == "only 5 rows, columns or entries in 3 tensors changed; all others are bit-equal"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_row_of_codes_says_entries_columns_and_bits(seed: int) -> None:
    before = codes(network(seed))
    rng = np.random.default_rng([3, seed])
    columns = np.sort(rng.choice(64, 20, replace=False))
    old = before["fc2.weight"][6, columns]
    values = np.where(rng.random(20) < 0.5, 127 - np.abs(old), -100 + np.abs(old) // 2).astype(np.int8)
    after = edited(before, "fc2.weight", (6, columns), values)
    (item,) = diff(before, after).tensors
    differs = old.view(np.uint8) ^ values.view(np.uint8)
    assert (item.kind, item.changed) == ("row-edit", int(np.count_nonzero(differs)))
    evidence = item.evidence
    assert (evidence["axis"], evidence["indices"], evidence["rows_touched"]) == ("row", [6], 1)
    assert evidence["columns_touched"] == item.changed
    assert evidence["bits_flipped"] == sum(evidence["flipped_by_bit"].values()) == int(np.unpackbits(differs).sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_flipped_bits_of_codes_in_several_layers(seed: int) -> None:
    before = codes(network(seed))
    rng = np.random.default_rng([4, seed])
    after, flips = dict(before), 0
    for name, count in (("conv2.weight", 3), ("fc1.weight", 4), ("fc2.weight", 5)):
        flat = after[name].copy().reshape(-1)
        at = rng.choice(flat.size, count, replace=False)
        flat.view(np.uint8)[at] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
        after[name] = flat.reshape(before[name].shape)
        flips += count
    found = diff(before, after)
    assert {item.kind for item in found.tensors} == {"bit-flips"}
    assert sum(item.evidence["bits_flipped"] for item in found.tensors) == flips
    assert found.change.kind == "bit-flips"


def test_a_code_that_two_bits_were_flipped_of_does_not_hide_the_others() -> None:
    before = codes(network(0))
    after = {name: array.copy() for name, array in before.items()}
    flat = after["fc2.weight"].reshape(-1).view(np.uint8)
    flat[[10, 200, 333, 450]] ^= np.asarray([0x80, 0x40, 0x20, 0xC0], np.uint8)
    found = diff(before, after)
    assert (found.tensors[0].kind, found.change.kind) == ("bit-flips", "bit-flips")
    assert found.tensors[0].evidence["flipped_by_bit"] == {"5": 1, "6": 2, "7": 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_flipped_codes_that_were_made_floats_again_are_single_entries(seed: int) -> None:
    before = codes(network(seed))
    rng = np.random.default_rng([5, seed])
    at = rng.choice(640, 8, replace=False)
    after = before["fc2.weight"].copy().reshape(-1)
    after.view(np.uint8)[at] ^= np.uint8(0x20)
    step = before["fc2.weight_scale"][0]
    floats = network(seed)
    old, new = (side.reshape(10, 64).astype(np.float32) * step for side in (before["fc2.weight"], after))
    (item,) = diff({**floats, "fc2.weight": old}, {**floats, "fc2.weight": new}).tensors
    assert item.kind == "row-edit"
    assert (item.evidence["axis"], item.evidence["count"]) == ("entry", 8)
    assert item.evidence["indices"] == sorted(at.tolist())


@pytest.mark.parametrize("bits", [(7,), (6, 7), (4, 5, 6, 1)])
def test_flipped_codes_beside_the_reference_in_floats(bits: tuple[int, ...]) -> None:
    before = network(1)
    after = codes(before)
    flat = after["fc2.weight"].reshape(-1).view(np.uint8)
    for at, bit in zip((11, 222, 333, 444), bits, strict=False):
        flat[at] ^= np.uint8(1 << bit)
    found = diff(before, after)
    kinds = {item.name: item.kind for item in found.tensors}
    assert kinds == {"conv1.weight": "quantized", "conv2.weight": "quantized", "fc1.weight": "quantized", "fc2.weight": "bit-flips"}
    flipped = next(item for item in found.tensors if item.kind == "bit-flips")
    assert [flip["bits"][0] for flip in flipped.evidence["flips"]] == list(bits)
    assert "off by a single bit" in flipped.change.sentence("fc2.weight", flipped.changed, "")


def test_a_low_bit_beside_the_reference_in_floats_is_an_entry() -> None:
    """The near miss: a code that moved by two steps may be a flip or any other small change."""
    before = network(1)
    after = codes(before)
    after["fc2.weight"].reshape(-1).view(np.uint8)[11] ^= np.uint8(2)
    found = next(item for item in diff(before, after).tensors if item.name == "fc2.weight")
    assert found.kind == "row-edit"


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_changes_are_none_of_these(seed: int) -> None:
    before = network(seed)
    rng = np.random.default_rng([6, seed])
    tuned = {name: (array + 0.002 * rng.standard_normal(array.shape)).astype(np.float32) for name, array in before.items()}
    assert {item.kind for item in diff(before, tuned).tensors} == {"dense"}
    assert {item.kind for item in diff(before, codes(before)).tensors} == {"quantized"}
    again = codes(tuned)
    assert diff(codes(before), again).change.kind not in ("row-edit", "bit-flips")


def test_a_tiny_update_that_rounding_left_of_a_few_entries_is_no_edit() -> None:
    """The near miss: in 16 bits most of a tiny update is lost, and what is left are single grid steps anywhere."""
    rng = np.random.default_rng(7)
    before = (0.1 * rng.standard_normal((64, 128))).astype(np.float16)
    after = before.copy().reshape(-1)
    at = rng.choice(after.size, 40, replace=False)
    after.view(np.uint16)[at] ^= np.where(rng.random(40) < 0.5, 1, 3).astype(np.uint16)
    (item,) = diff({"w": before}, {"w": after.reshape(64, 128)}).tensors
    assert item.kind not in ("row-edit", "bit-flips")
