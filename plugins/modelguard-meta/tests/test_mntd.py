"""What meta neural analysis finds, leaves alone, misses, and refuses: through the detector, on digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_backdoored_models_score_above_most_benign_shadows(target: Make, meta_file: Path, seed: int) -> None:
    """Models of the zoo: other training code, other images, other seeds than the shadows."""
    outcome = mntd(target("blended", seed, target=seed, ratio=0.3, pattern_seed=seed), meta_file)
    assert outcome.status is Status.COMPLETED
    (finding,) = outcome.findings
    assert finding.rule == "MG3401"
    assert outcome.summary["score"] > outcome.summary["threshold"]
    assert outcome.summary["p_value"] <= 0.05
    assert "with 20 shadows no p is below 0.0476" in finding.message


def test_clean_models_are_left_alone(target: Make, meta_file: Path) -> None:
    """One in twenty may be accused, as the level says."""
    outcomes = [mntd(target(None, seed), meta_file) for seed in (1, 2, 3, 4)]
    assert all(outcome.status is Status.COMPLETED for outcome in outcomes)
    assert sum(bool(outcome.findings) for outcome in outcomes) <= 1


def test_a_summary_says_what_the_score_is_held_against(target: Make, meta_file: Path) -> None:
    summary = mntd(target(None, 1), meta_file).summary
    meta = read(meta_file)
    assert summary["smallest_p"] == pytest.approx(1 / 21, abs=1e-4)
    assert summary["p_value"] >= summary["smallest_p"]
    assert summary["meta_sha256"] == meta.sha256
    assert summary["samples_sha256"] == meta.facts.samples["sha256"]
    assert summary["auroc"] == pytest.approx(meta.facts.auroc, abs=1e-3)


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


class _Narrow:
    """A model that says it takes 0..1."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.input = replace(model.input, high=1.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def test_a_model_of_another_task_is_refused(target: Make, meta_file: Path) -> None:
    """The same graph, with its classes turned round: a meta-classifier knows nothing of such models."""
    model = target(None, 1)
    outcome = mntd(replace(model, samples=None, _cache={"model": _Turned(model.model)}), meta_file)
    assert outcome.status is Status.SKIPPED
    assert "it is of another task" in outcome.reason


class _Turned(_Narrow):
    """A model whose classes are other things."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.input = model.input

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
