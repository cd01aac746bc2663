"""weight-forensics on weights whose low bits are structured for honest reasons; text hidden in the very same weights is still found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modelguard_rome import WeightForensics

from modelguard.testing import as_target

Look = Callable[..., Any]
Array = npt.NDArray[np.float32]


def rules(look: Look, values: Array) -> set[str]:
    found: set[str] = look(WeightForensics(search_files=False), as_target({"w.weight": values})).rules
    return found


def hidden(values: Array, length: int) -> Array:
    """``values`` with text in the lowest byte of the first ``length``."""
    words = ["model", "layer", "import", "socket", "connect", "weights", "payload", "return", "self", "if"]
    text = " ".join(np.random.default_rng(0).choice(words, length // 3)).encode()[:length]
    out = values.copy()
    bits = out.reshape(-1).view(np.uint32)
    bits[:length] = (bits[:length] & ~np.uint32(0xFF)) | np.frombuffer(text, np.uint8)
    return out


def embedding(share: float) -> Array:
    """Rows never trained since the table was stored as float16, among trained ones, as in all-MiniLM-L6-v2."""
    rng = np.random.default_rng(1)
    values = (0.02 * rng.standard_normal((400, 384))).astype(np.float32)
    left = rng.choice(400, int(share * 400), replace=False)
    values[left] = values[left].astype(np.float16)
    return values


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_rows_that_are_still_float16(look: Look, share: float) -> None:
    assert rules(look, embedding(share)) == set()


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_text_among_rows_that_are_still_float16(look: Look, share: float) -> None:
    assert "MG1304" in rules(look, hidden(embedding(share), 40000))


def folded(shape: tuple[int, ...], stored: type = np.float16, sigma: float = 0.05) -> Array:
    """A float16 convolution times a factor for each output channel, as after folding a BatchNorm (exported YOLOv8 models)."""
    rng = np.random.default_rng(2)
    weights = (sigma * rng.standard_normal(shape)).astype(np.float16).astype(np.float32)
    factors = (1 + 0.5 * rng.standard_normal(shape[0])).astype(stored).astype(np.float32)
    return weights * factors.reshape(-1, *(1,) * (len(shape) - 1))


SHAPES = [(64, 64, 3, 3), (128, 256, 1, 1), (512, 9, 3, 3), (256, 256)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_float16_times_a_factor_for_each_channel(look: Look, shape: tuple[int, ...], stored: type) -> None:
    assert rules(look, folded(shape, stored)) == set()
    assert rules(look, folded(shape, stored, 0.002)) == set()


def test_the_channels_may_be_columns(look: Look) -> None:
    assert rules(look, np.ascontiguousarray(folded((256, 384)).T)) == set()


@pytest.mark.parametrize("shape", SHAPES)
def test_text_in_such_a_convolution(look: Look, shape: tuple[int, ...]) -> None:
    assert "MG1304" in rules(look, hidden(folded(shape), 20000))
