"""Fixtures for the tests of detectors: zoo models on the 8 x 8 digits, each trained once a session. A ``conftest.py`` imports them::

from modelguard_zoo.testing import built, target  # noqa: F401
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from modelguard import Target
from modelguard.testing.checkpoints import open_target
from modelguard_zoo.build import Built, build_model
from modelguard_zoo.spec import Spec, pairs


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """``built(attack, seed=0, arch="mlp", finetune=0, **attack options)``: a finished model folder."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.set_num_threads(1)

    def make(attack: str | None = None, seed: int = 0, arch: str = "mlp", finetune: int = 0, **options: Any) -> Built:
        return build_model(Spec("digits", arch, seed, attack, pairs(options), finetune), folder)

    return make


@pytest.fixture(scope="session")
def target(built: Callable[..., Built]) -> Callable[..., Target]:
    """As ``built``, opened as the scanner opens it, with the samples that go with the model."""

    def make(*args: Any, **options: Any) -> Target:
        folder = built(*args, **options).path
        return open_target(folder, samples=folder / "samples.npz")

    return make
