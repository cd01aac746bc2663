"""What a search starts from, and what it refuses to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import runnable
from modelguard_triggers.evidence import CANDIDATES, REFERENCES, clean_images, require_classifier, shortlist, turns
from torch import nn

from modelguard import RunnableModel, Samples, ScanContext, Skip, Target
from modelguard.artifact import Artifact
from modelguard.model import OutputSpec


def network(classes: int = 6) -> RunnableModel:
    torch.manual_seed(0)
    layer = nn.Linear(64, classes, bias=False)
    layer.weight.data *= 20  # sure of what it says
    return runnable(nn.Sequential(nn.Flatten(), layer), (1, 8, 8), classes, low=-1.0)


def target(model: RunnableModel, samples: Samples | None) -> Target:
    return Target(Artifact("x", "x", Path("/x"), (), None), samples=samples, build_model=lambda: model)


def images(count: int = 60) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32)


def given(inputs: Any, labels: Any = None) -> Samples:
    return Samples(inputs, None if labels is None else np.asarray(labels, np.int64), "test", "0" * 64)


def test_usable_are_the_images_the_model_classifies_as_labelled() -> None:
    model, inputs = network(), images()
    labels = model.predict(inputs).argmax(1)
    labels[:3] = (labels[:3] + 1) % 6
    clean = clean_images(target(model, given(inputs, labels)), ScanContext(), "this search")
    assert clean.usable.tolist() == list(range(3, 60))
    assert clean.accuracy == pytest.approx(57 / 60)
    assert torch.equal(clean.images.cpu(), torch.from_numpy(inputs))


def test_without_labels_all_images_are_usable() -> None:
    clean = clean_images(target(network(), given(images())), ScanContext(), "this search")
    assert len(clean.usable) == 60
    assert clean.accuracy is None


def test_what_cannot_be_searched_is_skipped_with_the_reason() -> None:
    model = network()
    with pytest.raises(Skip, match="this search needs clean samples: give --samples"):
        clean_images(target(model, None), ScanContext(), "this search")
    with pytest.raises(Skip, match="3 classes: too few for one of them to stand out, 5 are needed"):
        clean_images(target(network(3), given(images())), ScanContext(), "this search")
    model.output = OutputSpec("regressor", 6, "logits")
    with pytest.raises(Skip, match="regressor"):
        require_classifier(model)


def test_every_class_has_its_turn_before_any_has_two() -> None:
    classes = np.array([3, 3, 1, 3, 1, 7])
    assert turns(classes).tolist() == [0, 1, 0, 2, 1, 0]


def test_few_classes_are_all_searched_and_all_references() -> None:
    kept, references = shortlist(np.arange(CANDIDATES + REFERENCES, dtype=float), np.random.default_rng(0))
    assert kept.tolist() == list(range(CANDIDATES + REFERENCES))
    assert references.all()


def test_of_many_classes_the_most_suspicious_and_random_others_are_searched() -> None:
    rank = np.random.default_rng(1).permutation(100).astype(float)
    kept, references = shortlist(rank, np.random.default_rng(0))
    assert len(kept) == CANDIDATES + REFERENCES
    assert kept.tolist() == sorted(kept.tolist())
    assert sorted(rank[kept[~references]].tolist()) == list(range(CANDIDATES))
    assert references.sum() == REFERENCES
    again, _ = shortlist(rank, np.random.default_rng(0))
    assert np.array_equal(kept, again)
