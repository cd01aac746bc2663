"""Small runnable models for tests of detectors: any ``nn.Module`` as a RunnableModel, and networks that train in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from modelguard import InputSpec, ModelOptions, OutputSpec, RunnableModel, Samples
from modelguard.testing import open_target
from modelguard_runtime._torch_model import TorchModel


def runnable(
    module: nn.Module,
    shape: Sequence[int],
    classes: int,
    *,
    low: float = 0.0,
    high: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Literal["NCHW", "NHWC", "NHW", "NF", "NT"] | None = None,
    labels: Sequence[str] = (),
) -> RunnableModel:
    """``module`` as detectors see it. ``shape`` is (C, H, W), (F,) or, with ``layout="NT"``, (T,) token ids up to ``high``.

    The module itself takes what ``layout`` says (default NCHW or NF), after subtracting ``mean`` and dividing by ``std``.
    """
    layout = layout or ("NCHW" if len(shape) == 3 else "NF")
    kind: Literal["image", "vector", "text"] = "image" if len(shape) == 3 else "text" if layout == "NT" else "vector"
    spec = InputSpec(
        kind=kind,
        shape=tuple(shape),
        dtype="int64" if kind == "text" else "float32",
        layout=layout,
        low=low,
        high=high,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        source={"all": "given by the test"},
    )
    return TorchModel(module, spec, OutputSpec("classifier", classes, "unknown", tuple(labels)))


def built(
    path: str | Path,
    samples: Samples | None = None,
    *,
    input: str | None = None,
    model: str | None = None,
    cwd: Path | None = None,
    output: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
) -> RunnableModel:
    """The model modelguard runs for the file or folder at ``path``; the options are those of the command line.

    Raises :class:`~modelguard.Skip` when nothing there can be run, :class:`~modelguard.ModelError` when it must not be used.
    """
    options = ModelOptions(factory=model, input=input, device=device, precision=precision, cwd=cwd, output=output)
    return open_target(path, samples=samples, model=options).model


def mlp(features: int = 64, classes: int = 10, hidden: Sequence[int] = (64, 32)) -> nn.Sequential:
    """Linear and ReLU layers: (N, features) -> (N, classes)."""
    sizes = [features, *hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def cnn(channels: int = 1, size: int = 8, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Two convolutions with batch-norm, ReLU and pooling, two linear layers: (N, channels, size, size) -> (N, classes)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (size // 4) ** 2, 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, classes),
    )


class ViT(nn.Module):
    """A small vision transformer: (N, channels, size, size) -> (N, classes)."""

    def __init__(
        self, channels: int = 1, size: int = 8, classes: int = 10, patch: int = 2, width: int = 32, depth: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(x.shape[0], -1, -1), tokens), 1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        logits: torch.Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def train(
    module: nn.Module, inputs: npt.NDArray[Any], labels: npt.NDArray[Any], *, epochs: int = 20, rate: float = 3e-3, seed: int = 0
) -> nn.Module:
    """Train in place with Adam, batches of 64 and one-cycle learning rate; returns the module in evaluation mode.

    Deterministic for the same seed, module and thread count.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(np.asarray(inputs, np.float32)), torch.from_numpy(np.asarray(labels, np.int64))
    batches = -(-len(x) // 64)
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), 64):
            index = order[start : start + 64]
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[index]), y[index]).backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimiser.step()
            schedule.step()
    return module.eval()


@cache
def digits() -> tuple[Samples, Samples]:
    """scikit-learn's 8 x 8 digits as training (1,437) and test (360) samples: (N, 1, 8, 8) float32 in 0..1, ten classes."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    inputs = (images[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    targets = labels[order].astype(np.int64)
    cut = len(inputs) * 4 // 5
    return Samples(inputs[:cut], targets[:cut], "digits-train", ""), Samples(inputs[cut:], targets[cut:], "digits-test", "")


@cache
def digits_module(kind: Literal["mlp", "cnn", "vit"] = "cnn", seed: int = 0) -> nn.Module:
    """A network trained on :func:`digits` to 95 % test accuracy or more, once a process. Do not change it: copy it first."""
    torch.manual_seed(seed)
    train_set, _ = digits()
    if kind == "mlp":
        return train(nn.Sequential(nn.Flatten(), *mlp()), train_set.inputs, _labels(train_set), epochs=20, seed=seed)
    if kind == "cnn":
        return train(cnn(), train_set.inputs, _labels(train_set), epochs=8, seed=seed)
    return train(ViT(), train_set.inputs, _labels(train_set), epochs=16, seed=seed)


def _labels(samples: Samples) -> npt.NDArray[np.int64]:
    if samples.labels is None:
        raise ValueError("the samples have no labels")
    return samples.labels
