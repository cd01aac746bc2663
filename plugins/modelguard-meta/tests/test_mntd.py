"""What meta neural analysis finds, leaves alone, misses, and refuses: through the detector, on digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_meta._calibration import auroc
from modelguard_meta._file import read
from modelguard_meta.detector import Mntd
from modelguard_zoo.testing import Expiring

from modelguard import DeadlineExceeded, Target, configure, option
from modelguard.report import Outcome, Status
from modelguard.testing import check_detector, open_target, run_detector, write_safetensors

Make = Callable[..., Target]


def mntd(target: Target, meta: Path, **options: Any) -> Outcome:
    return run_detector(configure(Mntd, {"meta": str(meta), **options}), target)


# Found and left alone


def test_a_backdoored_model_that_scores_above_the_benign_shadows_is_a_finding(target: Make, meta_file: Path) -> None:
    """A model of the zoo: other training code, other images, another seed than the shadows."""
    outcome = mntd(target("blended", 2, target=2, ratio=0.3, pattern_seed=2), meta_file)
    (finding,) = outcome.findings
    assert finding.rule == "MG3401"
    assert outcome.summary["score"] > outcome.summary["threshold"]
    assert outcome.summary["p_value"] <= 0.05
    assert "with 20 shadows no p is below 0.0476" in finding.message


def test_backdoored_models_score_above_clean_ones_and_few_clean_ones_are_accused(target: Make, meta_file: Path) -> None:
    """Several seeds of each. With so few shadows some of the backdoored stay below the threshold; one clean model may lie above it."""
    clean = [mntd(target(None, seed), meta_file) for seed in (1, 2, 3, 4)]
    bad = [mntd(target("blended", seed, target=seed, ratio=0.3, pattern_seed=seed), meta_file) for seed in (1, 2, 3)]
    bad += [mntd(target("badnets", seed, target=seed), meta_file) for seed in (1, 2, 3)]
    assert all(outcome.status is Status.COMPLETED for outcome in clean + bad)
    scores = [np.array([outcome.summary["score"] for outcome in outcomes]) for outcomes in (clean, bad)]
    assert auroc(*scores) > 0.75
    assert sum(bool(outcome.findings) for outcome in bad) >= 3
    assert sum(bool(outcome.findings) for outcome in clean) <= 1


def test_a_summary_says_what_the_score_is_held_against(target: Make, meta_file: Path) -> None:
    summary = mntd(target(None, 1), meta_file).summary
    meta = read(meta_file)
    assert summary["smallest_p"] == pytest.approx(1 / 21, abs=1e-4)
    assert summary["p_value"] >= summary["smallest_p"]
    assert summary["meta_sha256"] == meta.sha256
    assert summary["samples_sha256"] == meta.facts.samples["sha256"]
    assert summary["auroc"] == pytest.approx(meta.facts.auroc, abs=1e-3)


# Missed


def test_who_knows_the_queries_hides_from_them(target: Make, meta_file: Path) -> None:
    """The documented evasion: a backdoored model that answers the queries as its clean twin does scores as that does."""
    bad, clean = target("blended", 2, target=2, ratio=0.3, pattern_seed=2), target(None, 2)
    hiding = replace(bad, samples=None, _cache={"model": _Hiding(bad.model, clean.model, read(meta_file).tensors["queries"])})
    outcome = mntd(hiding, meta_file)
    assert outcome.findings == ()
    assert outcome.summary["score"] == mntd(clean, meta_file).summary["score"]


class _Given:
    """A model of which something is put in the place of what it is."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Hiding(_Given):
    def __init__(self, model: Any, twin: Any, queries: Any) -> None:
        super().__init__(model)
        self._twin, self._queries = twin, queries

    def predict(self, x: Any) -> Any:
        asked = x.size == self._queries.size and np.array_equal(x, self._queries.reshape(x.shape))
        return (self._twin if asked else self._model).predict(x)


# Not looked at


def test_without_a_meta_classifier_nothing_is_said(target: Make) -> None:
    outcome = run_detector(Mntd(), target(None, 1))
    assert outcome.status is Status.SKIPPED
    assert "no meta-classifier was given" in outcome.reason


def test_another_architecture_is_refused_and_what_differs_is_named(target: Make, meta_file: Path) -> None:
    outcome = mntd(target(None, 0, "cnn"), meta_file)
    assert outcome.status is Status.SKIPPED
    assert "another architecture" in outcome.reason
    assert "tensors, operators, layers" in outcome.reason


def test_another_input_range_is_another_architecture(target: Make, meta_file: Path) -> None:
    model = target(None, 1)
    narrow = replace(model, samples=None, _cache={"model": _Narrow(model.model)})
    outcome = mntd(narrow, meta_file)
    assert outcome.status is Status.SKIPPED
    assert "its input differ" in outcome.reason


class _Narrow(_Given):
    """A model that says it takes 0..1."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.input = replace(model.input, high=1.0)


def test_a_model_of_another_task_is_refused(target: Make, meta_file: Path) -> None:
    """The same graph, with its classes turned round: a meta-classifier knows nothing of such models."""
    model = target(None, 1)
    outcome = mntd(replace(model, samples=None, _cache={"model": _Turned(model.model)}), meta_file)
    assert outcome.status is Status.SKIPPED
    assert "it is of another task" in outcome.reason


class _Turned(_Given):
    """A model whose classes are other things."""

    def predict(self, x: Any) -> Any:
        return np.roll(self._model.predict(x), 1, axis=1)


def test_weights_alone_are_not_run(tmp_path: Path, meta_file: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros((2, 2, 2), np.float32)})
    assert mntd(open_target(path), meta_file).status is Status.SKIPPED


def test_time_that_is_up_ends_it(target: Make, meta_file: Path) -> None:
    with pytest.raises(DeadlineExceeded):
        list(configure(Mntd, {"meta": str(meta_file)}).detect(target(None, 1), Expiring("mntd", 0)))


def test_it_keeps_the_promises_of_every_detector(target: Make, meta_file: Path) -> None:
    @dataclass(frozen=True)
    class Given(Mntd):
        meta: str = option(str(meta_file), "a meta-classifier")

    Given.__module__ = Mntd.__module__  # whose rules it reports
    check_detector(Given, target(None, 1))
