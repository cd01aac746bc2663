"""Changes that once passed as a harmless kind, and harmless ones that once raised an alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelguard import Finding, ScanContext, diff_checkpoints, replay_rank
from modelguard._diff.detector import WeightDiff
from modelguard._diff.diff import ModelDiff
from modelguard.testing import ArrayCheckpoint, as_target

E4M3 = ml_dtypes.float8_e4m3fn


def network(seed: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(3) for part in ("q_proj", "o_proj")]
    return {name: (0.05 * rng.standard_normal((48, 64))).astype(np.float32) for name in names} | more


def checkpoint(tensors: dict[str, Any]) -> ArrayCheckpoint:
    """With the dtype that float8 arrays have in a file."""
    made = ArrayCheckpoint(tensors)
    narrow = {name: replace(made.tensors[name], dtype="F8_E4M3") for name, values in tensors.items() if values.dtype == E4M3}
    made._infos |= narrow
    return made


def diff(before: dict[str, Any], after: dict[str, Any]) -> ModelDiff:
    return diff_checkpoints([checkpoint(before)], [checkpoint(after)])


def findings(before: dict[str, Any], after: dict[str, Any]) -> list[Finding]:
    target = replace(as_target(after, before), checkpoints=(checkpoint(after),))
    return list(WeightDiff().detect(target, ScanContext(detector="weight-diff")))


@pytest.mark.parametrize("shape", [(), (64,), (48, 64)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_values_set_to_zero_are_no_cast(shape: tuple[int, ...], seed: int) -> None:
    small = np.asarray(1e-4 * (1 + np.random.default_rng(seed).random(shape)), np.float32)
    found = diff(network(seed, small=small), network(seed, small=np.zeros_like(small)))
    assert [(item.name, item.kind) for item in found.tensors] == [("small", "pruned")]


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cast_that_loses_most_of_a_tensor_is_a_change(seed: int, back: bool) -> None:
    small = (5e-4 * np.random.default_rng(seed).standard_normal((48, 64))).astype(np.float32)
    after = small.astype(E4M3)
    found = findings(network(seed, small=small), network(seed, small=after.astype(np.float32) if back else after))
    told = [finding.message for finding in found if finding.rule == "MG1120"]
    assert len(told) == 1
    assert told[0].startswith("small is the reference rounded to F8_E4M3, for which its values are too small:")
    assert "MG1104" not in {finding.rule for finding in found}


@pytest.mark.parametrize("scale", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cast_that_keeps_a_tensor_is_a_cast(seed: int, scale: float) -> None:
    values = (scale * np.random.default_rng(seed).standard_normal((48, 64))).astype(np.float32)
    for after in (values.astype(E4M3), values.astype(E4M3).astype(np.float32), values.astype(np.float16)):
        assert diff({"w": values}, {"w": after}).change.kind == "cast"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_change_of_a_reference_on_the_lattice_is_not_quantised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (0.05 * rng.standard_normal((48, 64))).astype(np.float32)
    step = np.abs(values).max(axis=1, keepdims=True) / 7
    lattice = (np.rint(values / step) * step).astype(np.float32)
    moved = (lattice * (1 + 2e-3 * rng.standard_normal(lattice.shape))).astype(np.float32)
    assert [item.kind for item in diff({"w": lattice}, {"w": moved}).tensors] == ["dense"]
    ones = np.ones(64, np.float32)
    raised = ones + np.abs(1e-3 * rng.standard_normal(64)).astype(np.float32)
    assert [item.kind for item in diff({"w": ones}, {"w": raised}).tensors] == ["dense"]
    rounded = (np.rint(values / step) * step.astype(np.float16).astype(np.float32)).astype(np.float32)
    assert [item.kind for item in diff({"w": values}, {"w": rounded}).tensors] == ["quantized"]


def test_vector_of_ones_times_a_factor_is_no_payload() -> None:
    before = network(0, norm=np.ones(64, np.float32))
    after = {name: values * np.float32(1.001) for name, values in before.items()}
    found = diff(before, after)
    assert {item.kind for item in found.tensors} == {"scaled"}


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("shape", [(64, 128), (96, 96), (256, 256)])
@pytest.mark.parametrize("seed", range(4))
def test_noise_that_moves_few_entries_has_no_rank(seed: int, shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng(50 + seed)
    kind = ml_dtypes.bfloat16 if dtype == "BF16" else np.float16
    before = (0.05 * rng.standard_normal(shape)).astype(kind)
    for size in (1e-6, 1e-5, 3e-5):
        after = (before.astype(np.float32) + size * rng.standard_normal(shape)).astype(kind)
        assert replay_rank(before, after, dtype).rank is None


def test_weak_change_of_low_rank_keeps_its_rank() -> None:
    for seed in range(4):
        rng = np.random.default_rng(60 + seed)
        before = (0.05 * rng.standard_normal((96, 128))).astype(ml_dtypes.bfloat16)
        step = 1e-4 * np.outer(rng.standard_normal(96), rng.standard_normal(128))
        after = (before.astype(np.float32) + step).astype(ml_dtypes.bfloat16)
        assert replay_rank(before, after, "BF16").rank == 1


def test_lone_tensor_under_another_prefix_is_said() -> None:
    before = network(0)
    name = "model.layers.1.q_proj.weight"
    after = {key.removeprefix("model.") if key == name else key: values for key, values in before.items()}
    found, model = findings(before, after)
    assert (found.rule, model.rule) == ("MG1109", "MG1217")
    assert found.evidence["renamed"] == {"layers.1.q_proj.weight": name}


@pytest.mark.parametrize("wrapped", ["module.", "base_model.model."])
def test_wrapped_model_and_bare_one_are_equal(wrapped: str) -> None:
    before = network(0) | {"lm_head.weight": np.eye(8, 64, dtype=np.float32)}
    assert findings(before, {wrapped + name: values for name, values in before.items()}) == []
    bare = {name.removeprefix("model."): values for name, values in before.items()}
    assert findings(before, bare) == []
    assert findings(bare, before) == []
