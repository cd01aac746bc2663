"""Exhibits: pictures small enough for a report, that show what they are of."""

from __future__ import annotations

import io

import numpy as np
import pytest

from modelguard import exhibit
from modelguard.images import LARGEST

image = pytest.importorskip("PIL.Image")


def opened(data: bytes) -> np.ndarray:
    return np.asarray(image.open(io.BytesIO(data)), float)


def test_a_small_exhibit_is_shown_pixel_by_pixel() -> None:
    pixels = np.arange(3 * 8 * 8, dtype=np.float64).reshape(3, 8, 8)
    shown = opened(exhibit("x", pixels, 0, 191).data)
    assert np.allclose(shown.transpose(2, 0, 1), pixels / 191 * 255, atol=0.5)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (129, 7), (500, 333)])
def test_a_large_exhibit_is_shrunk_and_keeps_what_it_shows(height: int, width: int) -> None:
    pixels = np.zeros((3, height, width))
    pixels[:, height // 2 :] = 1.0
    shown = opened(exhibit("x", pixels, 0, 1).data)
    assert max(shown.shape[:2]) <= LARGEST
    assert shown[0].max() == 0
    assert shown[-1].min() == 255, "a block that is cut is the mean of what is in it"
    assert shown.mean() == pytest.approx(pixels.mean() * 255, abs=4)
