"""The test on sizes has the level it claims, finds what is planted, and is not fooled by what is unusual but harmless."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from modelguard_neural_cleanse._decision import anomaly_index, small_outliers

from modelguard import png

DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "logistic": lambda rng, n: rng.logistic(size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
}


def alarms(draw: str, classes: int, trials: int, examined: int | None = None) -> float:
    """Share of benign models in which some class has p < 0.05."""
    rng = np.random.default_rng(classes)
    count = 0
    for _ in range(trials):
        x = np.sort(DRAWS[draw](rng, classes))
        weights = np.ones(classes)
        if examined is not None:
            others = rng.choice(np.arange(8, classes), examined - 8, replace=False)
            x = np.concatenate([x[:8], x[others]])
            weights = np.concatenate([np.ones(8), np.full(examined - 8, (classes - 8) / (examined - 8))])
        sizes = np.exp(0.2 * x - 2)
        count += small_outliers(sizes, np.ones(len(sizes), bool), weights, classes).p.min() < 0.05
    return count / trials


@pytest.mark.parametrize("classes", [5, 10, 43])
def test_one_benign_model_in_twenty_alarms_at_five_percent(classes: int) -> None:
    assert 0.01 < alarms("normal", classes, 600) < 0.08
    assert alarms("uniform", classes, 300) < 0.08


@pytest.mark.parametrize("classes", [10, 43])
def test_heavier_tails_cost_at_most_a_few_alarms_more(classes: int) -> None:
    assert alarms("logistic", classes, 600) < 0.20


def test_the_level_holds_when_only_a_part_of_the_classes_was_examined() -> None:
    assert alarms("normal", 1000, 300, examined=24) < 0.08
    assert alarms("normal", 100, 300, examined=24) < 0.08


def test_the_published_rule_flags_far_more_benign_models() -> None:
    rng = np.random.default_rng(0)
    flagged = np.mean([anomaly_index(np.exp(0.4 * rng.normal(size=43))).max() > 2 for _ in range(500)])
    assert flagged < 0.2  # a long upper tail hides small sizes on the linear scale ...
    flagged = np.mean([anomaly_index(rng.normal(10, 1, size=43)).max() > 2 for _ in range(500)])
    assert flagged > 0.5  # ... an even one makes most benign models anomalous


def test_a_class_far_below_the_others_is_found() -> None:
    rng = np.random.default_rng(1)
    found = bystanders = 0
    for _ in range(20):
        sizes = np.exp(0.2 * rng.normal(size=10)) * 0.1
        sizes[4] *= 0.25
        p = small_outliers(sizes, np.ones(10, bool), np.ones(10), 10).p
        assert p.argmin() == 4
        found += p[4] < 0.05
        bystanders += int((np.delete(p, 4) < 0.05).sum())
    assert found >= 18
    assert bystanders <= 5  # of 180 * 5 %


def test_two_targets_do_not_hide_each_other() -> None:
    sizes = np.array([0.1, 0.12, 0.09, 0.11, 0.02, 0.1, 0.105, 0.021, 0.13, 0.09])
    p = small_outliers(sizes, np.ones(10, bool), np.ones(10), 10).p
    assert set(np.flatnonzero(p < 0.01)) == {4, 7}


def test_a_class_far_above_the_others_accuses_nobody() -> None:
    sizes = np.array([0.1, 0.12, 0.09, 0.11, 0.9, 0.1, 0.105, 0.1, 0.13, 0.09])
    assert small_outliers(sizes, np.ones(10, bool), np.ones(10), 10).p.min() > 0.05


def test_unreached_classes_are_censored_not_dropped() -> None:
    sizes = np.array([0.1, 0.12, 0.09, 0.11, 0.02, 0.5, 0.6, 0.7, 0.8, 0.9])
    reached = sizes < 0.3
    result = small_outliers(sizes, reached, np.ones(10), 10)
    assert len(result.p) == 10
    assert result.p.argmin() == 4
    assert (result.p[5:] > 0.05).all()
    nobody = small_outliers(sizes, np.zeros(10, bool), np.ones(10), 10)
    assert (nobody.p == 1).all()


def test_a_single_reached_class_of_ordinary_size_is_no_outlier() -> None:
    """Imputed sizes do not vary; their lack of spread must not make the one real size look extreme."""
    sizes = np.array([0.375, 0.55, 0.57, 0.52, 0.6, 0.55, 0.55, 0.87, 0.56, 0.61])
    reached = np.arange(10) == 0
    assert small_outliers(sizes, reached, np.ones(10), 10).p[0] > 0.05


def test_too_few_classes_are_not_tested() -> None:
    assert (small_outliers(np.array([1.0, 1.0, 1.0, 1e-6]), np.ones(4, bool), np.ones(4), 4).p == 1).all()


def test_the_anomaly_index_is_the_published_one() -> None:
    sizes = np.array([60.0, 62, 64, 66, 68, 16])
    deviation = 1.4826 * np.median(np.abs(sizes - 63))
    assert anomaly_index(sizes)[5] == pytest.approx((63 - 16) / deviation)
    assert (anomaly_index(np.ones(6)) == 0).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_bytes_hold_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    raw = png(pixels)
    width, height, depth, colour = struct.unpack(">IIBB", raw[16:26])
    shown = 1 if channels < 3 else 3
    assert (width, height, depth, colour) == (7, 5, 8, 2 if shown == 3 else 0)
    start = raw.index(b"IDAT")
    length = struct.unpack(">I", raw[start - 4 : start])[0]
    rows = np.frombuffer(zlib.decompress(raw[start + 4 : start + 4 + length]), np.uint8).reshape(5, 1 + 7 * shown)
    assert np.array_equal(rows[:, 1:].reshape(5, 7, shown).transpose(2, 0, 1), pixels[:shown])
