"""Quantised and scaled are said of whole tensors: what a sample of rows does not see has to bear it out too."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import Severity, numpy_dtype
from modelguard._diff.changes import Change, Quantized
from modelguard._diff.classify import classify
from modelguard._diff.operand import Operand
from modelguard._diff.probe import FIRST, SECOND, sample
from modelguard._diff.stream import measure

Array = npt.NDArray[Any]
SHAPE = (1536, 256)


def weights(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Array:
    return 0.02 * np.random.default_rng(seed).standard_normal(shape)


def change(before: Array, after: Array, dtype: str = "F32") -> Change:
    sides = [Operand(side.astype(numpy_dtype(dtype)), dtype, side.shape) for side in (before, after)]
    found = classify(sides[0], sides[1], measure(sides[0], sides[1]))
    assert found is not None
    return found


def kind(before: Array, after: Array, dtype: str = "F32") -> str:
    return change(before, after, dtype).kind


def symmetric(w: Array, levels: int = 127, size: int = 0, axis: int = 1) -> Array:
    lines = w.reshape(-1, size) if size else w
    step = np.abs(lines).max(axis=axis, keepdims=True) / levels
    return np.asarray(np.rint(lines / step) * step).reshape(w.shape)


def asymmetric(w: Array, levels: int = 15, size: int = 64) -> Array:
    lines = w.reshape(-1, size)
    step = (lines.max(axis=1, keepdims=True) - lines.min(axis=1, keepdims=True)) / levels
    zero = np.rint(-lines.min(axis=1, keepdims=True) / step)
    return np.asarray((np.clip(np.rint(lines / step) + zero, 0, levels) - zero) * step).reshape(w.shape)


def per_tensor(w: Array) -> Array:
    step = np.abs(w).max() / 127
    return np.asarray(np.rint(w / step) * step)


def codebook(w: Array) -> Array:
    """16 uneven levels in groups of 64, as NF4 has them."""
    levels = np.array([-1, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0, 0.08, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1])
    lines = w.reshape(-1, 64)
    peak = np.abs(lines).max(axis=1, keepdims=True)
    return np.asarray(levels[np.abs(lines[..., None] / peak[..., None] - levels).argmin(axis=-1)] * peak).reshape(w.shape)


QUANTISERS = {
    "int8 per row": symmetric,
    "int8 per column": lambda w: symmetric(w, axis=0),
    "int4 per group": lambda w: symmetric(w, 7, 64),
    "uint4 per group": asymmetric,
    "int8 per tensor": per_tensor,
    "codebook per group": codebook,
}


def unsampled(shape: tuple[int, int]) -> Array:
    return np.setdiff1d(np.arange(shape[0]), np.concatenate([sample(shape, size) for size in (FIRST, SECOND)]))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("name", QUANTISERS)
def test_quantisers_are_recognised(name: str, dtype: str) -> None:
    w = weights()
    assert kind(w, QUANTISERS[name](w.astype(numpy_dtype(dtype)).astype(np.float64)), dtype) == "quantized"


@pytest.mark.parametrize("name", QUANTISERS)
def test_what_quantisers_lose_is_within_what_their_bits_explain(name: str) -> None:
    w = weights()
    found = change(w, QUANTISERS[name](w))
    assert isinstance(found, Quantized)
    assert not found.coarse
    assert found.severity is None


@pytest.mark.parametrize("deviation", [0.3, 0.45, 0.6, 1.0, 1.5])
def test_rounding_to_steps_of_a_quarter_is_no_quantisation_that_goes_through(deviation: float) -> None:
    w = weights() * 50 * deviation
    found = change(w, np.rint(w * 4) / 4)
    assert isinstance(found, Quantized)
    assert found.severity is Severity.MEDIUM
    assert "more than" in found.sentence("w", 1, "")


@pytest.mark.parametrize(("bits", "scheme", "limit"), [(8, "symmetric", 2**-5), (4, "asymmetric", 2**-2), (4, "values", 2**-3)])
def test_the_limit_is_held_from_both_sides(bits: int, scheme: str, limit: float) -> None:
    assert not Quantized(bits, "row", scheme, 1.0, limit).coarse
    assert Quantized(bits, "row", scheme, 1.0, limit * 1.001).coarse
    assert Quantized(bits, "row", scheme, 1.0, float("nan")).coarse


@pytest.mark.parametrize("name", ["int8 per row", "int4 per group", "int8 per tensor", "codebook per group"])
def test_noise_between_the_sampled_rows_is_not_quantisation(name: str) -> None:
    w = weights()
    rows, changed = unsampled(SHAPE), QUANTISERS[name](w)
    assert len(rows) > 100
    changed[rows] = w[rows] + 0.9 * 0.02 * np.random.default_rng(1).standard_normal((len(rows), SHAPE[1]))
    assert kind(w, changed) == "dense"


@pytest.mark.parametrize("name", ["int8 per row", "int8 per tensor", "codebook per group"])
@pytest.mark.parametrize("to", ["a few steps off", "other levels", "one constant", "far out"])
def test_single_entries_between_the_sampled_rows_are_held_to_a_step(name: str, to: str) -> None:
    w = weights()
    changed = QUANTISERS[name](w)
    row = int(unsampled(SHAPE)[50])
    if to == "a few steps off":
        changed[row, 7] += 0.02
    elif to == "other levels":
        changed[row] = changed[row][::-1]
    elif to == "one constant":
        changed[row] = changed[row, 0]
    else:
        changed[row, 9] = 5.0
    assert kind(w, changed) == "dense"


@pytest.mark.parametrize("axis", ["tensor", "row", "column"])
def test_scaled_is_said_of_every_entry(axis: str) -> None:
    w = weights().astype(np.float32).astype(np.float64)
    rng = np.random.default_rng(2)
    factor: Any = {"tensor": np.float64(0.98), "row": 1 + rng.random((SHAPE[0], 1)), "column": 1 + rng.random((1, SHAPE[1]))}[axis]
    scaled = w * factor
    assert kind(w, scaled) == "scaled"
    rows = unsampled(SHAPE)
    noisy = scaled.copy()
    noisy[rows] += 0.02 * rng.standard_normal((len(rows), SHAPE[1]))
    assert kind(w, noisy) == "dense"


@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)])
def test_negated_rows_are_not_permuted(rows: slice) -> None:
    w = weights(shape=(64, 96))
    changed = w.copy()
    changed[rows] *= -1
    assert kind(w, changed) != "permuted"
    rng = np.random.default_rng(3)
    assert kind(w, w[rng.permutation(64)][:, rng.permutation(96)]) == "permuted"


@pytest.mark.parametrize("change", [symmetric, per_tensor, codebook, lambda w: 0.98 * w])
def test_a_deadline_stops_the_look_at_every_entry(change: Any) -> None:
    def stop() -> None:
        raise TimeoutError

    w = weights()
    before, after = (Operand(side.astype(np.float32), "F32", side.shape) for side in (w, change(w.astype(np.float32))))
    statistics = measure(before, after)
    with pytest.raises(TimeoutError):
        classify(before, after, statistics, check=stop)
