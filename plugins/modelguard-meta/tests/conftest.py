"""One meta-classifier for the zoo's digits-mlp, trained on its test images, once a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from modelguard_meta._train import Plan, train
from modelguard_zoo import Built
from modelguard_zoo.testing import built, target, zoo_folder  # noqa: F401

from modelguard.testing import open_target

SMALL = Plan(shadows=32, held_out=20)


@pytest.fixture(scope="session")
def meta_file(built: Callable[..., Built], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The samples that go with a model of the zoo are test images, which no model of it was trained on."""
    path = tmp_path_factory.mktemp("meta") / "meta.safetensors"
    folder = built(None, 0).path
    train(open_target(folder, samples=folder / "samples.npz"), path, SMALL, lambda note: None)
    return path
