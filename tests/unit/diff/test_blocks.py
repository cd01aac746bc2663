"""Tensors that are stored by block: the reference quantised, or something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import ModelDiff, Quantization, Target, diff_checkpoints
from modelguard._diff.detector import WeightDiff
from modelguard.testing import ArrayCheckpoint, as_target, run_detector

RNG = np.random.default_rng(0)
GROUP = 32
WEIGHTS = {f"layers.{layer}.w": (RNG.normal(size=(64, 256)) * 0.05).astype(np.float16) for layer in range(3)}


class Blocks(ArrayCheckpoint):
    """Every matrix rounded to sixteen levels for each 32 entries; ``reach`` as in ``Quantization``."""

    def __init__(self, tensors: dict[str, npt.NDArray[Any]], reach: float = 0.5) -> None:
        self.levels: dict[str, Quantization] = {}
        values = {}
        for name, array in tensors.items():
            groups = array.astype(np.float32).reshape(-1, GROUP)
            low, high = groups.min(axis=1), groups.max(axis=1)
            step = np.where(high > low, (high - low) / 15, 1)
            rounded = low[:, None] + np.rint((groups - low[:, None]) / step[:, None]) * step[:, None]
            values[name] = rounded.astype(np.float32).reshape(array.shape)
            self.levels[name] = Quantization("B4", 4, GROUP, step.astype(np.float32), low, high, reach)
        super().__init__(values)

    def quantization(self, name: str) -> Quantization | None:
        return self.levels[name]


def edited(row: int | None = None, rank: float = 0.0) -> dict[str, npt.NDArray[Any]]:
    found = dict(WEIGHTS)
    name = "layers.1.w"
    if row is not None:
        found[name] = found[name].copy()
        found[name][row] = found[name][row - 1]
    if rank:
        found[name] = (found[name] + rank * np.outer(RNG.normal(size=64), RNG.normal(size=256))).astype(np.float16)
    return found


def diff(checkpoint: Blocks) -> ModelDiff:
    return diff_checkpoints([ArrayCheckpoint(WEIGHTS)], [checkpoint])


def test_every_entry_on_its_nearest_level_is_quantised() -> None:
    found = diff(Blocks(WEIGHTS))
    assert found.change.kind == "quantized"
    assert {(item.kind, item.change.rule, item.evidence["type"]) for item in found.tensors} == {("quantized", "MG1112", "B4")}


def test_one_entry_a_level_off_is_not() -> None:
    checkpoint = Blocks(WEIGHTS)
    array = checkpoint._arrays["layers.1.w"]
    array[5, 40] += checkpoint.levels["layers.1.w"].step[5 * 8 + 1]
    found = diff(checkpoint)
    assert found.change.kind == "mixed"
    assert [(item.kind, item.evidence["indices"]) for item in found.tensors if item.name == "layers.1.w"] == [("row-edit", [5])]


def test_a_weight_beyond_the_levels_must_be_at_their_end() -> None:
    checkpoint = Blocks(WEIGHTS)
    levels = checkpoint.levels["layers.1.w"]
    low = levels.low + 3 * levels.step
    checkpoint.levels["layers.1.w"] = replace(levels, low=low)
    clipped = checkpoint._arrays["layers.1.w"].reshape(-1, GROUP)
    np.maximum(clipped, low[:, None], out=clipped)
    assert diff(checkpoint).change.kind == "quantized"
    clipped[:, 0] = low + levels.step
    assert diff(checkpoint).change.kind == "mixed"


@pytest.mark.parametrize(("tensors", "kind"), [(edited(row=9), "row-edit"), (edited(rank=0.01), "dense")])
def test_an_edit_shows_through(tensors: dict[str, npt.NDArray[Any]], kind: str) -> None:
    found = diff(Blocks(tensors))
    assert found.change.kind == "mixed"
    assert {item.name: item.kind for item in found.tensors} == {name: kind if name == "layers.1.w" else "quantized" for name in WEIGHTS}


def test_a_row_without_levels_is_lost() -> None:
    checkpoint = Blocks(WEIGHTS)
    levels = checkpoint.levels["layers.1.w"]
    row = slice(9 * 8, 10 * 8)
    for side in (levels.step, levels.low, levels.high):
        side[row] = 0
    checkpoint._arrays["layers.1.w"][9] = 0
    assert [item.evidence["indices"] for item in diff(checkpoint).tensors if item.kind == "row-edit"] == [[9]]


def test_a_number_that_is_none_is_not_a_level() -> None:
    checkpoint = Blocks(WEIGHTS)
    checkpoint._arrays["layers.1.w"][3, 3] = np.nan
    (item,) = (item for item in diff(checkpoint).tensors if item.kind != "quantized")
    assert (item.kind, item.non_finite) == ("row-edit", 1)


@pytest.mark.parametrize(("rank", "kind"), [(0.0, "quantized"), (0.05, "mixed")])
def test_levels_chosen_together_are_looked_at_roughly(rank: float, kind: str) -> None:
    checkpoint = Blocks(edited(rank=rank), reach=float("inf"))
    found = diff(checkpoint)
    assert found.change.kind == kind
    reference = as_target(WEIGHTS)
    target: Target = replace(as_target(WEIGHTS, WEIGHTS), checkpoints=(checkpoint,), reference=reference)
    rules = {finding.rule for finding in run_detector(WeightDiff(), target).findings}
    assert "MG1105" in rules
