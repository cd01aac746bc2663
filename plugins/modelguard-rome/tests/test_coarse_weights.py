"""weight-forensics on weights whose low bits are structured for honest reasons; text hidden in the very same weights is still found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modelguard_rome import WeightForensics
from numpy._core import _multiarray_umath as multiarray_umath  # type: ignore[attr-defined, unused-ignore]

from modelguard.testing import as_target

CODE = str(multiarray_umath.__file__)
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


def branched(shape: tuple[int, ...], against: float) -> Array:
    """A convolution with a branch folded into it that cancels it in every other channel, as in the text detectors of PaddleOCR."""
    rng = np.random.default_rng(3)
    first, second = ((0.05 * rng.standard_normal((shape[0], int(np.prod(shape[1:]))))).astype(np.float32) for _ in range(2))
    whole = first + np.float32(0.01) * second
    cancelled = first + (np.float32(-against) * first + np.float32(0.01) * second)
    scale = np.float32(2.0 ** np.round(-np.log2(1 - against)))
    return np.where(np.arange(shape[0])[:, None] % 2, scale * cancelled, whole).reshape(shape)


def program(values: Array) -> Array:
    """``values`` with machine code in their lowest bit."""
    code = np.fromfile(CODE, np.uint8)
    bits = np.unpackbits(code[len(code) // 4 :][: values.size // 8 + 1])[: values.size]
    out = values.copy()
    words = out.reshape(-1).view(np.uint32)
    words[:] = (words & ~np.uint32(1)) | bits
    return out


BRANCHED = [(384, 384, 1, 1), (64, 128, 3, 3), (256, 512)]


@pytest.mark.parametrize("shape", BRANCHED)
@pytest.mark.parametrize("against", [0.6, 0.65])
def test_a_branch_that_cancels_some_channels_more_than_others(look: Look, shape: tuple[int, ...], against: float) -> None:
    assert rules(look, branched(shape, against)) == set()


@pytest.mark.parametrize("shape", BRANCHED)
@pytest.mark.parametrize("against", [0.6, 0.75])
def test_text_and_programs_in_such_a_convolution(look: Look, shape: tuple[int, ...], against: float) -> None:
    assert "MG1304" in rules(look, hidden(branched(shape, against), 40000))
    assert "MG1304" in rules(look, program(branched(shape, against)))


def peaked(count: int) -> Array:
    """Values around -0.02 that rarely are less, as the logits of characters that never occur have them (PaddleOCR's recognisers)."""
    rng = np.random.default_rng(4)
    edges = np.array([0, 2**-6, 1.5 * 2**-6, 2**-5, 2**-4])
    parts = rng.choice(4, count, p=[0.484, 0.32, 0.148, 0.048])
    return -rng.uniform(edges[parts], edges[parts + 1]).astype(np.float32)


def test_a_bias_that_was_trained_to_one_value(look: Look) -> None:
    assert rules(look, peaked(6625)) == set()


@pytest.mark.parametrize("place", [0.4, 0.6])
def test_a_program_in_the_whole_mantissa_of_such_a_bias(look: Look, place: float) -> None:
    values, code = peaked(40000), np.fromfile(CODE, np.uint8)
    code = code[int(place * len(code)) :][:120000].reshape(-1, 3).astype(np.uint32)
    words = values.view(np.uint32)
    words[:] = (words & np.uint32(0xFF800000)) | code[:, 0] | code[:, 1] << 8 | (code[:, 2] & 0x7F) << 16
    assert "MG1302" in rules(look, values)
