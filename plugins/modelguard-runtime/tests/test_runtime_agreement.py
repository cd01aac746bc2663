"""Whether a model understands its samples, and that detectors are kept from concluding when it does not."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import digits_module, runnable
from torch import nn

from modelguard import RunnableModel, Samples, SamplesError, Skip, agreement, class_numbers, require_understanding


@pytest.fixture(scope="module")
def model() -> RunnableModel:
    return runnable(copy.deepcopy(digits_module("cnn")), (1, 8, 8), 10)


def test_its_own_task_is_understood(model: RunnableModel, held_out: Samples) -> None:
    result = require_understanding(model, held_out)
    assert result["accuracy"] > 0.95
    assert result["chance"] == pytest.approx(0.1, abs=0.02)
    assert result["count"] == 256
    json.dumps(result, allow_nan=False)


def test_a_few_samples_are_enough(model: RunnableModel, held_out: Samples) -> None:
    few = replace(held_out, inputs=held_out.inputs[:8], labels=held_out.labels[:8])  # type: ignore[index]
    assert agreement(model, few)["ok"]


def test_two_that_agree_are_called_too_few_and_not_misunderstood(model: RunnableModel, held_out: Samples) -> None:
    two = replace(held_out, inputs=held_out.inputs[:2], labels=held_out.labels[:2])  # type: ignore[index]
    with pytest.raises(Skip, match=r"2 samples of .* are too few to tell .*give more samples"):
        require_understanding(model, two)


@pytest.mark.parametrize("seed", range(5))
def test_noise_with_labels_is_not_understood(model: RunnableModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = Samples(rng.random((200, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 200), "noise.npz", "")
    with pytest.raises(Skip, match=r"does not understand the samples in noise.npz: .*chance alone gives"):
        require_understanding(model, noise)


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_another_task_are_not_understood(model: RunnableModel, held_out: Samples, seed: int) -> None:
    shuffled = replace(held_out, labels=np.random.default_rng(seed).permutation(held_out.labels))  # type: ignore[arg-type]
    assert agreement(model, shuffled)["ok"] is False


def test_pixels_of_another_polarity_are_told_by_a_lower_accuracy(model: RunnableModel, held_out: Samples) -> None:
    inverted = agreement(model, replace(held_out, inputs=1 - held_out.inputs))
    assert inverted["accuracy"] < 0.5


def test_a_label_that_is_no_class_is_named(model: RunnableModel, held_out: Samples) -> None:
    with pytest.raises(SamplesError, match=r"has label 57, the model has classes 0..9"):
        agreement(model, replace(held_out, labels=np.full(360, 57)))


def test_labels_that_are_all_the_same_cannot_tell_and_half_right_is_enough(model: RunnableModel, held_out: Samples) -> None:
    assert held_out.labels is not None
    sevens = held_out.labels == 7
    one = replace(held_out, inputs=held_out.inputs[sevens], labels=held_out.labels[sevens])
    assert agreement(model, one)["ok"] is True
    assert agreement(model, replace(one, labels=np.zeros(sevens.sum(), np.int64)))["ok"] is False


def test_without_labels_only_collapse_and_guessing_show(model: RunnableModel, held_out: Samples) -> None:
    unlabelled = replace(held_out, labels=None)
    assert agreement(model, unlabelled)["ok"] is True
    blank = replace(unlabelled, inputs=np.zeros_like(held_out.inputs))
    with pytest.raises(Skip, match="all 256 of them are predicted as class"):
        require_understanding(model, blank)


def test_a_model_that_guesses_is_told_without_labels(held_out: Samples) -> None:
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.normal_(untrained[1].weight, std=0.01)  # type: ignore[arg-type]
    nn.init.zeros_(untrained[1].bias)  # type: ignore[arg-type]
    result = agreement(runnable(untrained, (1, 8, 8), 10), replace(held_out, labels=None))
    assert result["ok"] is False
    assert "nearly uniform" in result["reason"]


def test_a_model_that_returns_nan_is_not_used(held_out: Samples) -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(broken[1].weight, float("nan"))  # type: ignore[arg-type]
    assert agreement(runnable(broken, (1, 8, 8), 10), held_out)["ok"] is False


def test_label_names_are_matched_by_name(held_out: Samples) -> None:
    named = runnable(copy.deepcopy(digits_module("cnn")), (1, 8, 8), 10, labels=[f"digit {i}" for i in range(10)])
    order = [3, 1, 4, 0, 2, 9, 8, 7, 6, 5]
    assert held_out.labels is not None
    theirs = replace(held_out, labels=np.argsort(order)[held_out.labels].astype(np.int64), label_names=tuple(f"Digit {i}" for i in order))
    found = class_numbers(named, theirs)
    assert found is not None
    np.testing.assert_array_equal(found, held_out.labels)
    assert agreement(named, theirs)["accuracy"] > 0.95


def test_a_regressor_is_no_classifier() -> None:
    model = runnable(nn.Linear(4, 1), (4,), 1)
    model.output = replace(model.output, kind="regressor")
    with pytest.raises(Skip, match="the model is a regressor"):
        require_understanding(model, Samples(np.random.rand(30, 4).astype(np.float32), None, "x.npz", ""))
