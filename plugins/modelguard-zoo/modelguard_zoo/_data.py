"""Image data sets the zoo trains on: uint8 NCHW arrays, the same bytes every time.

scikit-learn's digits and the procedural signs need no file. MNIST, GTSRB and CIFAR-10 are read from ``NAME.npz`` (keys
``x_train, y_train, x_test, y_test``; uint8 NHW or NHWC) in the folder that the environment variable ``MODELGUARD_DATA`` names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelguard import UsageError
from modelguard_zoo._signs import draw_signs

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

# Training and test images used of the sets read from files: enough to learn from, few enough for one core.
FILES = {"mnist": (6000, 2000), "gtsrb": (11100, 1935), "cifar10": (10000, 2000)}
BUILT_IN = ("digits", "signs")


@dataclass(frozen=True)
class Dataset:
    """``x_*`` uint8 (N, C, H, W) in 0..255, ``y_*`` int64 (N,) in 0..classes-1."""

    name: str
    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    classes: int
    origin: str


def available() -> tuple[str, ...]:
    """Names of the data sets that can be loaded here."""
    folder = data_folder()
    return BUILT_IN + tuple(name for name in FILES if folder is not None and (folder / f"{name}.npz").is_file())


def data_folder() -> Path | None:
    """The folder that ``MODELGUARD_DATA`` names; None where it is not set. Nothing else is looked at."""
    named = os.environ.get("MODELGUARD_DATA")
    return Path(named) if named else None


@cache
def load(name: str) -> Dataset:
    """The data set called ``name``. Raises :class:`~modelguard.UsageError` when there is none, or its file is absent."""
    if name == "digits":
        return _digits()
    if name == "signs":
        x_train, y_train = draw_signs(3000, seed=0)
        x_test, y_test = draw_signs(1000, seed=1)
        return Dataset(name, x_train, y_train, x_test, y_test, int(y_train.max()) + 1, "procedural")
    if name not in FILES:
        raise UsageError(f"data set {name}", "there is no such data set", f"known: {', '.join((*BUILT_IN, *FILES))}")
    folder = data_folder()
    path = None if folder is None else folder / f"{name}.npz"
    if path is None or not path.is_file():
        cause = "MODELGUARD_DATA is not set" if path is None else f"there is no {path.name} in the folder that MODELGUARD_DATA names"
        raise UsageError(f"data set {name}", cause, f"set MODELGUARD_DATA to the folder that holds {name}.npz")
    with np.load(path, allow_pickle=False) as arrays:
        train, test = FILES[name]
        x_train, y_train = _canonical(arrays["x_train"], arrays["y_train"], train)
        x_test, y_test = _canonical(arrays["x_test"], arrays["y_test"], test)
    return Dataset(name, x_train, y_train, x_test, y_test, int(y_train.max()) + 1, path.name)


def _canonical(images: npt.NDArray[Any], labels: npt.NDArray[Any], limit: int) -> tuple[Images, Labels]:
    # A fixed shuffle: the files may be sorted by class.
    order = np.random.default_rng(0).permutation(len(images))[:limit]
    chosen = images[order]
    nchw = chosen[:, None] if chosen.ndim == 3 else chosen.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(nchw, dtype=np.uint8), labels[order].astype(np.int64)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    train, test = order[:1297], order[1297:]
    labels = labels.astype(np.int64)
    return Dataset("digits", pixels[train], labels[train], pixels[test], labels[test], 10, "sklearn.datasets.load_digits")
