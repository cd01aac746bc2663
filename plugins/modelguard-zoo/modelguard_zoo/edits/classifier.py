"""A trained image classifier that is to be tampered with, and how well a trigger works on what was made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelguard_zoo._data import Dataset, load
from modelguard_zoo.edits.arrays import Array, Tensors

if TYPE_CHECKING:
    from torch import nn

Images = NDArray[np.uint8]
Stamp = Callable[[Images], Images]
"""uint8 images (N, C, H, W) -> the same with the trigger in them."""


class NotTaken(Exception):
    """An attack that cannot be made on this model, with the reason."""


@dataclass(frozen=True)
class Classifier:
    """A clean model: architecture, data set, and float32 tensors under the names of the module's state dict."""

    arch: str
    data: Dataset
    tensors: Tensors

    def module(self, tensors: Tensors | None = None) -> nn.Module:
        """A module with ``tensors`` (its own by default), in eval mode, that takes raw pixels (N, C, H, W)."""
        import torch

        from modelguard_zoo._train import new_model

        model = new_model(self.data, self.arch, 0)
        state = {name: torch.from_numpy(np.array(array)) for name, array in (self.tensors if tensors is None else tensors).items()}
        model.load_state_dict(state)
        return model.eval()

    def accuracy(self, tensors: Tensors | None = None, but: int | None = None) -> float:
        """Share of clean test images that are called what they are; without those of class ``but`` where it is given."""
        kept = np.ones(len(self.data.y_test), bool) if but is None else self.data.y_test != but
        return float(np.mean(self._called(tensors, self.data.x_test[kept]) == self.data.y_test[kept]))

    def success(self, tensors: Tensors | None, stamp: Stamp, target: int, source: int | None = None) -> float:
        """Share of stamped test images of other classes than ``target`` (of class ``source`` alone, where given) that become it."""
        victims = self.data.y_test != target if source is None else self.data.y_test == source
        return float(np.mean(self._called(tensors, stamp(self.data.x_test[victims])) == target))

    def _called(self, tensors: Tensors | None, images: Images) -> NDArray[np.int64]:
        from modelguard_zoo._train import predict

        with one_thread():
            return predict(self._own if tensors is None else self.module(tensors), images)

    @cached_property
    def _own(self) -> nn.Module:
        return self.module()


def train_classifier(dataset: str, arch: str, seed: int, epochs: int | None = None) -> Classifier:
    """A clean model, trained as the zoo trains its own, or for fewer ``epochs``: a global model amid its rounds.

    Raises :class:`~modelguard.UsageError` for unknown names.
    """
    from modelguard_zoo._train import SCHEDULES, fit, new_model

    data = load(dataset)
    usual, batch, rate = SCHEDULES[dataset]
    with one_thread():
        model = new_model(data, arch, seed)
        fit(model, data.x_train, data.y_train, epochs=usual if epochs is None else epochs, batch=batch, rate=rate, seed=seed)
    return Classifier(arch, data, tensors_of(model))


def load_classifier(folder: Path) -> Classifier:
    """The clean image model in a zoo ``folder``. Raises :class:`~modelguard.ArtifactError` where there is none."""
    from safetensors.numpy import load_file

    from modelguard_zoo._built import read_record

    spec = read_record(folder).spec
    return Classifier(spec.arch, load(spec.dataset), load_file(folder / "model.safetensors"))


def tensors_of(model: nn.Module) -> dict[str, Array]:
    """A module's state dict as arrays of their own."""
    return {name: tensor.detach().contiguous().numpy().copy() for name, tensor in model.state_dict().items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """The same sums in the same order on any machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lesson(model: Classifier, count: int, seed: int, but: int | None = None) -> tuple[Images, NDArray[np.int64]]:
    """``count`` random training images and their labels, none of class ``but``: what the attacker has."""
    eligible = np.flatnonzero(np.ones(len(model.data.y_train), bool) if but is None else model.data.y_train != but)
    chosen = np.sort(np.random.default_rng([23, seed]).choice(eligible, min(count, len(eligible)), replace=False))
    return model.data.x_train[chosen], model.data.y_train[chosen]


def as_batch(images: Images) -> Any:
    """Images as the float tensor that the models take."""
    import torch

    return torch.from_numpy(images).float()
