"""The statistic that parts a class, and its null."""

from __future__ import annotations

import numpy as np
import pytest
from modelguard_audit._content import content
from modelguard_audit._parts import SMALLEST, best_parts, cut, normal_like, tail, usual, whitened


def planted(seed: int, count: int, of: int, apart: float, dimensions: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Normal samples (of, dimensions) of which ``count`` are shifted by ``apart`` standard deviations, and which."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((of, dimensions))
    member = np.arange(of) < count
    direction = rng.standard_normal(dimensions)
    values[member] += apart * direction / np.linalg.norm(direction)
    return values, member


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "of"), [(12, 300), (60, 200), (100, 200)])
def test_a_planted_part_is_found(seed: int, count: int, of: int) -> None:
    values, member = planted(seed, count, of, 9.0)
    parts = best_parts(values)
    assert parts is not None
    right = max((parts.member == member).mean(), (parts.member != member).mean() if 2 * count == of else 0.0)
    assert right > 0.99
    assert parts.distance > 6


def test_parts_of_one_kind_are_no_further_apart_than_their_null() -> None:
    """Of 40 normal data sets, two are expected at p <= .05; six or fewer with probability .995."""
    accused = 0
    for seed in range(40):
        values, _ = planted(seed, 0, 120, 0.0)
        parts = best_parts(values)
        assert parts is not None
        rng = np.random.default_rng([1, seed])
        null = np.array([found.ratio for _ in range(10) if (found := best_parts(normal_like(values, rng))) is not None])
        accused += tail(parts.ratio, null) <= 0.05
    assert accused <= 6


def test_the_cut_is_the_best_of_all() -> None:
    along = np.random.default_rng(0).standard_normal(40)
    along[:9] += 6
    above, ratio, distance = cut(along)
    assert np.array_equal(above, np.arange(40) < 9)

    def ratio_of(member: np.ndarray) -> float:
        one, other = along[member], along[~member]
        within = ((one - one.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum()
        return float(((along - along.mean()) ** 2).sum() / within - 1)

    every = [ratio_of(along > value) for value in np.sort(along)[SMALLEST - 1 : -SMALLEST]]
    assert ratio == pytest.approx(max(every))
    assert distance**2 * 9 / 40 * 31 / 40 == pytest.approx(ratio)


def test_fewer_than_the_smallest_part_are_outliers() -> None:
    values, _ = planted(0, SMALLEST - 2, 200, 12.0)
    parts = best_parts(values)
    assert parts is None or parts.member.sum() >= SMALLEST


def test_equal_samples_have_no_parts() -> None:
    parts = best_parts(np.ones((60, 4)))
    assert parts is None or parts.ratio == pytest.approx(0, abs=1e-6)


def test_what_is_usual_leaves_out_the_planted() -> None:
    values, member = planted(0, 15, 150, 12.0)
    labels = np.zeros(300, np.int64)
    labels[150:] = 1
    both = np.concatenate([values, np.random.default_rng(9).standard_normal((150, 12)) + 5])
    residuals, keep = usual(both, labels)
    assert not keep[:150][member].any()
    white = whitened(residuals, residuals[keep])
    assert (white[keep] ** 2).mean() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_a_part_of_many_classes_is_told_from_a_natural_kind(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 5, 1000)
    values = rng.standard_normal((1000, 20)) + 5 * np.eye(20)[shown]
    labels = np.where(rng.random(1000) < 0.2, 3, shown)
    values[labels != shown, 19] += 40.0  # a mark, however strong, is no content
    kind = (labels == 4) & (rng.random(1000) < 0.3)
    values[kind, 18] += 40.0

    poison = content(values, labels, 3, labels[labels == 3] != shown[labels == 3])
    natural = content(values, labels, 4, kind[labels == 4])

    assert poison.foreign > 0.85
    assert poison.kinds > poison.kinds_rest - 0.1
    assert natural.foreign == pytest.approx(0.5, abs=0.15)
    assert poison.swapped.foreign == pytest.approx(1 - poison.foreign)


def test_a_part_of_one_other_class_looks_like_fewer() -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 5, 1000)
    values = rng.standard_normal((1000, 20)) + 5 * np.eye(20)[shown]
    labels = np.where((shown == 2) & (rng.random(1000) < 0.3), 3, shown)

    found = content(values, labels, 3, labels[labels == 3] != shown[labels == 3])

    assert found.kinds <= 4
    assert found.foreign < 0.7
