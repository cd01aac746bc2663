"""Guards of zoo models, and what these models say: what the test modules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from modelguard_monitor._fit import MakeGuard, per_unit
from modelguard_monitor._make import result, write
from modelguard_monitor.guard import GUARD, Guard
from modelguard_zoo import Built
from modelguard_zoo.attacks import make_attack
from modelguard_zoo.testing import built, target, zoo_folder  # noqa: F401

from modelguard import RunnableModel
from modelguard.testing import open_target, run_detector

Images = npt.NDArray[Any]
OF_GUARD = 260
"""Samples of the 400 that come with a zoo model that guards are made of; the others are streamed."""


@dataclass(frozen=True)
class Guarded:
    """A zoo model, a guard of it in ``folder``, and clean images (N, 1, 8, 8) with labels that the guard was not made of."""

    built: Built
    model: RunnableModel
    folder: Path
    images: Images
    labels: npt.NDArray[np.int64]

    @property
    def guard(self) -> Guard:
        return Guard(self.folder / "guard.safetensors")

    def stamped(self) -> Images:
        """The images of the attack's victims with the trigger in them."""
        spec = self.built.spec
        assert spec.attack is not None
        attack = make_attack(spec.attack, dict(spec.options))
        return attack.stamped(self.images[attack.victims(self.labels)])

    def answers(self, images: Images) -> tuple[Images, Images | None, Images | None]:
        """Logits, features and overlaid logits, as far as the guard has a use for them."""
        guard, x = self.guard, np.asarray(images, np.float32)
        layer = guard.facts["layer"]
        with torch.inference_mode():
            logits, seen = self.model.capture(torch.from_numpy(x), [layer] if layer else [])
            features = per_unit(self.model, layer, seen[layer]).numpy() if layer else None
        overlaid = self.model.predict(guard.superpose(x)) if "strip" in guard.thresholds else None
        return logits.numpy(), features, overlaid

    def verdicts(self, images: Images) -> list[dict[str, Any]]:
        return self.guard.judge(*self.answers(images))


@pytest.fixture(scope="session")
def guarded(built: Callable[..., Built], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Guarded]:  # noqa: F811
    """``guarded(attack, seed=0, guard=options of the guard, **options of the attack)``, each made once."""
    kept: dict[str, Guarded] = {}

    def make(attack: str | None, seed: int = 0, guard: dict[str, Any] | None = None, **options: Any) -> Guarded:
        name = f"{attack}-{seed}-{options}-{guard}"
        if name not in kept:
            kept[name] = _guarded(built(attack, seed, **options), tmp_path_factory.mktemp("guard"), **(guard or {}))
        return kept[name]

    return make


def _guarded(zoo: Built, place: Path, **options: Any) -> Guarded:
    """A guard of 260 of the model's samples, written to ``place``; 5 % of clean inputs may be rejected unless ``options`` say otherwise."""
    with np.load(zoo.path / "samples.npz") as arrays:
        images, labels = arrays["inputs"], arrays["labels"]
    order = np.random.default_rng(0).permutation(len(images))  # the file is in no order, but that is not said
    images, labels = images[order], labels[order]
    opened = open_target(zoo.path, samples=zoo.path / "samples.npz")
    assert opened.samples is not None
    samples = replace(opened.samples, inputs=images[:OF_GUARD], labels=labels[:OF_GUARD], sha256="")
    opened = replace(opened, samples=samples, _cache={})
    facts, arrays = result(run_detector(MakeGuard(**{"false_alarms": 0.05, **options}), opened), zoo.path.name)
    write(place / "guard", facts | {"format": GUARD}, arrays)
    return Guarded(zoo, opened.model, place / "guard", images[OF_GUARD:], labels[OF_GUARD:])
