"""What the guard rejects, leaves alone and misses, and what no guard is made of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from modelguard_monitor._fit import MakeGuard, baseline, conformal, fewest, penultimate
from modelguard_monitor._make import write
from modelguard_monitor.guard import GUARD, Guard, agreement, unsure
from modelguard_runtime.testing import mlp, runnable
from modelguard_zoo.testing import Expiring
from torch import nn

from modelguard import DeadlineExceeded, OutputSpec, Samples, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing import check_detector, run_detector

Make = Callable[..., Target]
BADNETS = {"target": 3, "size": 2, "at": (-2, -2)}
SOURCE = {"target": 3, "source": (4,), "size": 2, "at": (-2, -2)}


def rejected(verdicts: list[dict[str, Any]], guard: Guard) -> dict[str, float]:
    """The part of verdicts above each threshold, and of those that do not accept."""
    parts = {name: float(np.mean([v["scores"][name] > level for v in verdicts])) for name, level in guard.thresholds.items()}
    return parts | {"any": float(np.mean([not v["accept"] for v in verdicts]))}


# What it rejects, leaves alone, and misses


@pytest.mark.parametrize("seed", range(3))
def test_triggered_inputs_are_rejected_and_clean_ones_accepted(guarded: Callable[..., Any], seed: int) -> None:
    it = guarded("badnets", seed, **BADNETS)
    assert rejected(it.verdicts(it.stamped()), it.guard)["any"] > 0.9
    assert rejected(it.verdicts(it.images), it.guard)["any"] < 0.1


def test_clean_models_reject_no_more_than_was_promised(guarded: Callable[..., Any]) -> None:
    """Of 140 images for each of four seeds: 5 % promised, 9 % is four standard deviations above it."""
    cases = [guarded(None, seed) for seed in range(4)]
    verdicts = [item for it in cases for item in it.verdicts(it.images)]
    assert np.mean([not item["accept"] for item in verdicts]) < 0.09


def test_a_source_specific_trigger_passes_strip_and_is_seen_in_the_features(guarded: Callable[..., Any]) -> None:
    """STRIP looks for a trigger that works on whatever it stands on; this one does not (Tang et al. 2021)."""
    it = guarded("source-specific", 0, **SOURCE)
    seen = rejected(it.verdicts(it.stamped()), it.guard)
    assert seen["strip"] < 0.2
    assert seen["features"] > 0.6


def test_a_verdict_says_why(guarded: Callable[..., Any]) -> None:
    it = guarded("badnets", 0, **BADNETS)
    verdict = next(item for item in it.verdicts(it.stamped()) if not item["accept"])
    assert verdict["label"] == 3
    assert "the features are unlike those" in verdict["reason"] or "whatever is laid over the input" in verdict["reason"]
    accepted = next(item for item in it.verdicts(it.images) if item["accept"])
    assert accepted["reason"] == ""
    assert 0.5 < accepted["confidence"] <= 1


def test_what_a_statistic_needs_is_asked_for_and_never_passed_over(guarded: Callable[..., Any]) -> None:
    it = guarded("badnets", 0, **BADNETS)
    logits, features, overlaid = it.answers(it.images[:4])
    with pytest.raises(ValueError, match="judges by features, strip too"):
        it.guard.judge(logits)
    assert {*it.guard.judge(logits, only=("confidence",))[0]["scores"]} == {"confidence"}
    assert {*it.guard.judge(logits, features, overlaid)[0]["scores"]} == {"confidence", "features", "strip"}


def test_values_that_are_not_finite_are_rejected(guarded: Callable[..., Any]) -> None:
    it = guarded("badnets", 0, **BADNETS)
    logits, features, overlaid = it.answers(it.images[:4])
    for broken in (np.nan, np.inf, -np.inf):
        spoiled = logits.copy()
        spoiled[:, 5] = broken
        assert not any(item["accept"] for item in it.guard.judge(spoiled, features, overlaid))


# The files


@pytest.mark.parametrize("statistics", ["", "confidence", "features", "strip,confidence"])
def test_the_onnx_graph_gives_the_numbers_of_guard_py(guarded: Callable[..., Any], statistics: str) -> None:
    it = guarded("badnets", 0, {"statistics": statistics}, **BADNETS)
    images = np.concatenate([it.images[:30], it.stamped()[:30]])
    logits, features, overlaid = it.answers(images)
    logits[0, 0] = np.nan
    session = ort.InferenceSession(it.folder / "guard.onnx")
    given = {"logits": logits, "features": features, "overlaid": None if overlaid is None else overlaid.reshape(len(logits), -1, 10)}
    wanted = {item.name for item in session.get_inputs()}
    assert wanted == {"logits", *({"features": "features", "strip": "overlaid"}.get(name, "logits") for name in it.guard.thresholds)}
    names = [item.name for item in session.get_outputs()]
    out = dict(zip(names, session.run(None, {name: given[name] for name in wanted}), strict=True))
    verdicts = it.guard.judge(logits, features, overlaid)
    for name in it.guard.thresholds:
        np.testing.assert_allclose(out[f"score_{name}"], [item["scores"][name] for item in verdicts], rtol=1e-9, atol=1e-9)
    assert out["reject"].tolist() == [not item["accept"] for item in verdicts]
    assert out["reject"][0]


def test_a_class_that_no_clean_sample_was_of_is_rejected_by_both(tmp_path: Path) -> None:
    means = np.array([[0.0, 0.0], [np.nan, np.nan]], np.float32)
    arrays: dict[str, Any] = {
        "means": means,
        "whiten": np.eye(2, dtype=np.float32),
        "clean.features": np.ones(9),
        "clean.class": np.array([9.0, 0.0]),
    }
    write(tmp_path / "g", {"format": GUARD, "thresholds": {"features": 5.0}, "labels": [], "layer": "x"}, arrays)
    logits, features = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.zeros((2, 2), np.float32)
    assert [item["accept"] for item in Guard(tmp_path / "g" / "guard.safetensors").judge(logits, features)] == [True, False]
    session = ort.InferenceSession(tmp_path / "g" / "guard.onnx")
    assert session.run(["reject"], {"logits": logits, "features": features})[0].tolist() == [False, True]


def test_the_guard_runs_where_modelguard_is_not(guarded: Callable[..., Any]) -> None:
    it = guarded("badnets", 0, **BADNETS)
    code = """
import sys
for name in ("modelguard", "modelguard_monitor", "torch", "safetensors", "onnx"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import numpy as np
from guard import Guard
from drift import Watch
guard = Guard(sys.argv[1] + "/guard.safetensors")
verdict, = guard.judge(np.eye(10)[:1], only=("confidence",))
Watch(guard.facts, guard.arrays, ("class", "confidence")).take(verdict["label"], verdict["scores"])
print(guard.superpose(np.zeros((2, 1, 8, 8))).shape, verdict["accept"])
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code, str(it.folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "(40, 1, 8, 8) False"


@pytest.mark.parametrize("content", [b"", b"junk", b"\x02" + 7 * b"\0" + b"{}", b"\xff" * 16])
def test_another_file_is_no_guard(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="x is not a guard that modelguard wrote"):
        Guard(tmp_path / "x")


# No guard is made


def made(target: Target, **options: Any) -> Outcome:
    return run_detector(configure(MakeGuard, {"false_alarms": 0.05, **options}), target)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda samples: None, "give --samples"),
        (lambda samples: replace(samples, labels=None), "have no labels"),
        (lambda samples: of_class(samples, 3), "all samples are of one class"),
        (lambda samples: replace(samples, labels=np.roll(samples.labels, 1), sha256=""), "does not understand"),
        (lambda samples: replace(samples, inputs=samples.inputs[:40], labels=samples.labels[:40]), "40 samples are too few"),
    ],
)
def test_samples_of_which_no_guard_can_be_made(target: Make, change: Callable[[Samples], Samples | None], reason: str) -> None:
    model = target("badnets", 0)
    assert model.samples is not None
    outcome = made(replace(model, samples=change(model.samples), _cache={}))
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


def of_class(samples: Samples, label: int) -> Samples:
    assert samples.labels is not None
    return replace(samples, inputs=samples.inputs[samples.labels == label], labels=samples.labels[samples.labels == label])


def test_the_rate_that_too_few_samples_are_said_to_allow_is_allowed(target: Make) -> None:
    outcome = made(target("badnets", 0), false_alarms=0.001)
    assert "give 5998, or --false-alarms 0.015" in outcome.reason
    assert made(target("badnets", 0), false_alarms=0.015).status is Status.COMPLETED


def test_a_regressor_is_skipped(target: Make) -> None:
    clean = target(None, 0)
    model = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 10, high=255.0)
    model.output = OutputSpec("regressor", 10, "logits")
    outcome = made(replace(clean, build_model=lambda: model, _cache={}))
    assert outcome.status is Status.SKIPPED
    assert "regressor" in outcome.reason


def test_what_cannot_be_laid_over_another_has_no_strip(target: Make) -> None:
    text = target(None, dataset="reviews", arch="bag")
    outcome = made(text)
    assert outcome.status is Status.COMPLETED
    assert "text inputs, which cannot be laid over" in outcome.summary["guard"]["left_out"]["strip"]
    assert made(text, statistics="strip").status is Status.SKIPPED


def test_time_that_is_up_ends_it(target: Make) -> None:
    for looks in (0, 3):
        with pytest.raises(DeadlineExceeded):
            list(MakeGuard(0.05).detect(target("badnets", 0), Expiring("monitor-make", looks)))


def test_it_keeps_the_promises_of_every_detector(target: Make) -> None:
    check_detector(Lenient, target("badnets", 0))


class Lenient(MakeGuard):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"false_alarms": 0.05, **options})


# The numbers


@pytest.mark.parametrize(("count", "level"), [(19, 0.05), (99, 0.05), (150, 0.1)])
def test_a_threshold_keeps_its_level_on_average(count: int, level: float) -> None:
    """Of a uniform score the threshold's own value is the part accepted; over calibration sets its mean is the promise."""
    rng = np.random.default_rng(0)
    rates = [1 - conformal(rng.random(count), level) for _ in range(4000)]
    assert np.mean(rates) <= level + 0.002
    assert np.mean(rates) > level - 0.01
    assert fewest(level) <= count


def test_the_fewest_samples_are_those_that_make_a_level_possible() -> None:
    assert [fewest(level) for level in (0.5, 0.05, 0.01, 0.01 / 3)] == [1, 19, 99, 299]


def test_scores_are_those_of_the_definitions() -> None:
    assert unsure([[np.log(0.7), np.log(0.2), np.log(0.1)]]) == pytest.approx([np.log(0.3 / 0.7)])
    assert agreement(np.log([[[0.5, 0.5], [1.0 - 1e-12, 1e-12]]])) == pytest.approx([-np.log(2) / 2])
    assert np.isfinite(unsure([[1e6, 0.0, -1e6]])).all()


def test_distances_of_clean_features_are_chi_squared_however_they_are_scaled() -> None:
    """Squared Mahalanobis distances of a normal of 5 dimensions have the mean 5."""
    rng = np.random.default_rng(0)
    scale = np.array([1e-3, 1.0, 5.0, 100.0, 2.0])
    labels = np.repeat([0, 1], 2000)
    features = rng.normal(size=(4000, 5)) * scale + labels[:, None] * 10
    means, whiten = baseline(features, labels, np.ones(4000, np.bool_), 3)
    assert np.isnan(means[2]).all()
    away = (features - means[labels]) @ whiten
    assert (away[:, 1:] ** 2).sum(1).mean() <= 5.2
    assert ((away**2).sum(1)).mean() == pytest.approx(4, abs=1.2)  # shrinking damps what hardly varies


def test_the_layer_before_the_logits_is_found() -> None:
    assert penultimate(runnable(nn.Sequential(nn.Flatten(), *mlp()), (1, 8, 8), 10))
    assert penultimate(runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 10)) != "1"
