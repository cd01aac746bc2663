"""The exact rank of a change, by replaying it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import numpy_dtype
from modelguard._diff.replay import replay_rank

Array = npt.NDArray[Any]


def planted(dtype: str, shape: tuple[int, int], rank: int, relative: float, seed: int) -> tuple[Array, Array]:
    """W and Q(W + M) with M Gaussian of ``rank`` (0: of full rank) and norm ``relative`` times W's."""
    rng = np.random.default_rng(seed)
    reference = (0.02 * rng.standard_t(5, shape)).astype(numpy_dtype(dtype))
    wide = reference.astype(np.float64)
    change = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1])) if rank else rng.standard_normal(shape)
    change *= relative * np.linalg.norm(wide) / np.linalg.norm(change)
    return reference, (wide + change).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("rank", [1, 2, 8, 24])
@pytest.mark.parametrize("relative", [0.03, 0.002])
def test_rank_is_exact(dtype: str, rank: int, relative: float) -> None:
    replay = replay_rank(*planted(dtype, (192, 400), rank, relative, seed=rank), dtype)
    assert replay.rank == rank
    assert replay.u.shape == (192, rank)
    assert replay.v.shape == (400, rank)
    assert replay.agreement >= 0.8 > replay.agreement_below


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("relative", [0.03, 0.002])
@pytest.mark.parametrize("seed", range(3))
def test_dense_change_has_no_rank(dtype: str, relative: float, seed: int) -> None:
    assert replay_rank(*planted(dtype, (192, 400), 0, relative, seed), dtype).rank is None


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_dominant_direction_over_a_dense_update_is_not_rank_one(dtype: str) -> None:
    # 96 % of the energy in one direction, as measured on a clean retrain of a real model.
    rng = np.random.default_rng(0)
    reference = (0.02 * rng.standard_normal((256, 384))).astype(numpy_dtype(dtype))
    wide = reference.astype(np.float64)
    spike = np.outer(rng.standard_normal(256), rng.standard_normal(384))
    change = spike / np.linalg.norm(spike) + 0.2 * (noise := rng.standard_normal(wide.shape)) / np.linalg.norm(noise)
    change *= 0.2 * np.linalg.norm(wide) / np.linalg.norm(change)
    assert replay_rank(reference, (wide + change).astype(reference.dtype), dtype).rank is None


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("relative", [0.5, 1.0, 3.0])
def test_change_as_large_as_the_weights_keeps_its_rank(dtype: str, rank: int, relative: float) -> None:
    # M is then rounded as coarsely as W: the product first, then the sum.
    rng = np.random.default_rng(rank)
    reference = (0.1 * rng.standard_normal((192, 256))).astype(numpy_dtype(dtype))
    left, right = rng.standard_normal((192, rank)).astype(np.float32), rng.standard_normal((rank, 256)).astype(np.float32)
    scale = np.float32(relative * np.linalg.norm(reference.astype(np.float32)) / np.linalg.norm(left @ right))
    change = ((scale * left) @ right).astype(reference.dtype)
    assert replay_rank(reference, reference + change, dtype).rank == rank


@pytest.mark.parametrize("seed", range(20))
def test_directions_that_float64_lost_do_not_spoil_a_small_strong_edit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = (0.1 * rng.standard_normal((10, 64))).astype(np.float32)
    edit = np.outer(rng.standard_normal(10), np.maximum(rng.standard_normal(64), 0))
    edit *= 2 * np.linalg.norm(before) / np.linalg.norm(edit)
    assert replay_rank(before, (before + edit).astype(np.float32), "F32").rank == 1


def test_vectors_are_those_that_were_planted() -> None:
    rng = np.random.default_rng(1)
    reference = (0.02 * rng.standard_normal((128, 512))).astype(numpy_dtype("BF16"))
    left, right = rng.standard_normal(128), rng.standard_normal(512)
    change = np.outer(left, right) * 0.0005
    replay = replay_rank(reference, (reference.astype(np.float64) + change).astype(reference.dtype), "BF16")
    assert abs(replay.u[:, 0] @ left) / np.linalg.norm(left) > 0.995
    assert abs(replay.v[:, 0] @ right) / np.linalg.norm(right) > 0.995
    assert replay.s[0] == pytest.approx(np.linalg.norm(change), rel=0.02)


def test_non_finite_entries_are_left_out() -> None:
    reference, changed = planted("F32", (128, 256), 2, 0.01, seed=3)
    reference[3, 4], changed[7, 9], changed[8, :4] = np.nan, np.inf, -np.inf
    assert replay_rank(reference, changed, "F32").rank == 2


def test_nothing_moved_and_nothing_there() -> None:
    same, _ = planted("F16", (32, 32), 1, 0.01, seed=0)
    assert replay_rank(same, same, "F16").rank is None
    empty = np.zeros((0, 8), np.float16)
    assert replay_rank(empty, empty, "F16").rank is None


def test_wrong_arguments_are_named() -> None:
    square = np.zeros((4, 4), np.int32)
    with pytest.raises(ValueError, match="float dtype, not I32"):
        replay_rank(square, square, "I32")
    with pytest.raises(ValueError, match="one shape"):
        replay_rank(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), "F32")
