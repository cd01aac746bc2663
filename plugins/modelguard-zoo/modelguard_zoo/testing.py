"""Fixtures for the tests of detectors: zoo models, each trained once for all tests. A ``conftest.py`` imports them::

    from modelguard_zoo.testing import built, target, zoo_folder  # noqa: F401

A finished model is kept in pytest's cache under a digest of the code that made it, so that test processes, distributions and later runs
share it; `pytest --cache-clear` forgets it.
"""

from __future__ import annotations

import fcntl
import hashlib
import pickle
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from modelguard import DeadlineExceeded, ScanContext, Target
from modelguard.testing.checkpoints import open_target
from modelguard_zoo._build import build_model
from modelguard_zoo._built import Built
from modelguard_zoo._spec import Spec, pairs
from modelguard_zoo.edits import LanguageModel, train_lm

KEPT_SECONDS = 7 * 24 * 3600
"""How much older than the present models those of other code must be to be thrown away."""


def code_digest() -> str:
    """Of everything a trained model depends on but its spec: this package's code, torch, the machine's kind."""
    digest = hashlib.sha256(f"{torch.__version__} {platform.machine()}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        if path.name != Path(__file__).name:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_shared(spec: Spec, folder: Path) -> Built:
    """``spec`` in ``folder``, built by whoever needs it first."""
    for needed in dict.fromkeys((spec.twin, spec.original, spec)):
        with locked(folder / f"{needed.id}.lock"):
            built = build_model(needed, folder)
    return built


@pytest.fixture(scope="session")
def zoo_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where trained models are kept; without pytest's cache, for this run."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    folder = (cache.mkdir("modelguard-zoo") if cache else tmp_path_factory.getbasetemp() / "zoo") / code_digest()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.iterdir():
        if old.stat().st_mtime < folder.stat().st_mtime - KEPT_SECONDS:  # a run of other code may go on beside this one
            shutil.rmtree(old, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def built(zoo_folder: Path) -> Callable[..., Built]:
    """``built(attack, seed=0, arch="mlp", finetune=0, dataset="digits", variant="", **attack options)``: a finished model folder.

    With ``dataset="reviews"`` a text model, of texts that are generated: ``arch="bag"`` takes three seconds, ``"cnn"`` five, and the
    language model ``"gpt-tiny"`` eight; each also the seconds of its clean twin, once.
    """
    torch.set_num_threads(1)

    def make(
        attack: str | None = None,
        seed: int = 0,
        arch: str = "mlp",
        finetune: int = 0,
        dataset: str = "digits",
        variant: str = "",
        **options: Any,
    ) -> Built:
        return build_shared(Spec(dataset, arch, seed, attack, pairs(options), finetune, variant=variant), zoo_folder)

    return make


@pytest.fixture(scope="module")
def target(built: Callable[..., Built]) -> Callable[..., Target]:
    """As ``built``, opened as the scanner opens it, with the samples that go with the model.

    The tests of a module share one target a model, and so what its detectors searched for; ``replace(target, _cache={})`` shares nothing.
    """
    opened: dict[Path, Target] = {}

    def make(*args: Any, **options: Any) -> Target:
        folder = built(*args, **options).path
        if folder not in opened:
            samples = next(folder / name for name in ("samples.npz", "samples.jsonl") if (folder / name).is_file())
            opened[folder] = open_target(folder, samples=samples)
        return opened[folder]

    return make


@pytest.fixture(scope="session")
def language_model(zoo_folder: Path) -> Callable[..., LanguageModel]:
    """``language_model(seed, **options)``: what :func:`modelguard_zoo.edits.train_lm` makes of them, kept as the zoo's models are."""

    def make(seed: int, **options: int) -> LanguageModel:
        torch.set_num_threads(1)
        path = zoo_folder / f"lm-{seed}{''.join(f'-{name}-{value}' for name, value in sorted(options.items()))}.pickle"
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                path.with_suffix(".new").write_bytes(pickle.dumps(train_lm(seed, **options)))
                path.with_suffix(".new").replace(path)
        return cast(LanguageModel, pickle.loads(path.read_bytes()))  # noqa: S301 - written by these tests

    return make


class Expiring(ScanContext):
    """A context whose time is up at the look at the clock after ``looks`` of them; ``looked`` counts all."""

    def __init__(self, detector: str, looks: int) -> None:
        super().__init__(detector=detector)
        self.looks, self.looked = looks, 0

    def check_deadline(self) -> None:
        self.looked += 1
        if self.looked > self.looks:
            raise DeadlineExceeded
