"""The level of the outlier test, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from modelguard_triggers.outliers import (
    Prior,
    class_p_values,
    largest,
    over_all,
    student_tail_beta,
    student_tail_series,
)
from scipy import stats


@pytest.mark.parametrize("classes", [5, 10, 43, 200])
def test_a_class_of_a_benign_model_is_called_an_outlier_as_often_as_promised(classes: int) -> None:
    rng = np.random.default_rng(classes)
    rate = np.mean([largest(rng.normal(size=classes)).p_value <= 0.05 for _ in range(3000)])
    assert 0.035 <= rate <= 0.06


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_pooling_with_the_usual_spread_keeps_the_level_where_the_spread_is_not_larger(spread: float) -> None:
    rng = np.random.default_rng(0)
    rate = np.mean([largest(spread * rng.normal(size=10), Prior(1.0, 4)).p_value <= 0.05 for _ in range(3000)])
    assert rate <= 0.06


def test_pooling_lets_nothing_stand_out_from_classes_that_hardly_differ() -> None:
    values = np.array([1.0, 1.0001, 0.9999, 1.0, 1.0001, 1.002])
    assert largest(values).p_value < 0.01
    assert largest(values, Prior(0.1, 4)).p_value > 0.9


def test_one_far_value_is_an_outlier_and_named() -> None:
    found = largest(np.array([0.1, -0.2, 0.3, 4.0, 0.0, 0.2, -0.1, 0.1]))
    assert found.index == 3
    assert found.p_value < 1e-4


def test_equal_values_hold_no_outlier() -> None:
    assert largest(np.full(10, 2.0)).p_value > 0.99


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        largest(np.arange(4.0))


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 15, 41])
def test_the_tail_is_students(degrees: int) -> None:
    for t in (-3.0, 0.0, 0.7, 2.5, 9.0):
        assert student_tail_series(t, degrees) == pytest.approx(float(stats.t.sf(t, degrees)), abs=1e-12)
        assert student_tail_beta(t, degrees) == pytest.approx(float(stats.t.sf(t, degrees)), rel=1e-9)
        assert student_tail_beta(t, degrees) == pytest.approx(student_tail_series(t, degrees), abs=1e-14)


@pytest.mark.parametrize("degrees", [0.7, 3.5, 41.2])
def test_the_tail_is_students_for_degrees_that_are_not_whole(degrees: float) -> None:
    for t in (-3.0, 0.0, 0.7, 2.5, 9.0, 40.0):
        assert student_tail_beta(t, degrees) == pytest.approx(float(stats.t.sf(t, degrees)), rel=1e-9)


def test_the_smallest_of_the_class_p_values_is_the_models() -> None:
    values = np.random.default_rng(1).normal(size=12)
    assert over_all(float(class_p_values(values).min()), 12) == pytest.approx(largest(values).p_value)
