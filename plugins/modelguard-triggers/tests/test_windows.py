"""Windows: where they are tried, what they change, how they move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modelguard_triggers.windows import Windows, places, side_of

from modelguard.model import InputSpec


def spec(shape: tuple[int, ...], high: float) -> InputSpec:
    return InputSpec("image", shape, "float32", "NCHW", 0.0, high, None, None, {})


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 48), (7, 65)])
def test_no_pixel_is_outside_all_windows_and_no_window_outside_the_image(height: int, width: int) -> None:
    side = side_of(height, width, 3)
    seen = torch.zeros(height, width, dtype=torch.bool)
    for row, column in places(height, width, side).tolist():
        assert 0 <= row <= height - side
        assert 0 <= column <= width - side
        seen[row : row + side, column : column + side] = True
    assert bool(seen.all())


def test_a_window_changes_its_own_pixels_only_also_after_it_moved() -> None:
    taken = spec((3, 8, 12), 255.0)
    generator = torch.Generator().manual_seed(0)
    windows = Windows(taken, (3, 8, 12), 3, torch.tensor([[0, 0], [5, 9], [2, 4]]), generator, torch.device("cpu"))
    first = windows.parameters[0].clone()
    windows.restart(torch.tensor([False, True, True]), generator)
    assert torch.equal(windows.parameters[0][0], first[0])
    assert not torch.equal(windows.parameters[0][1], first[1])
    assert windows.corners[0].tolist() == [0, 0]
    assert bool((windows.corners[1] <= torch.tensor([5, 9])).all())
    images = 255 * torch.rand(3, 3, 8, 12)
    stamped = windows.stamp(torch.arange(3), images)
    for arm in range(3):
        mask, laid = torch.from_numpy(windows.mask(arm)), torch.from_numpy(windows.image(arm))
        assert int(mask.sum()) == 9
        torch.testing.assert_close(stamped[arm], torch.where(mask > 0, 255 * laid, images[arm]))


def test_a_shifted_window_keeps_what_both_places_show() -> None:
    generator = torch.Generator().manual_seed(0)
    taken = spec((1, 6, 6), 1.0)
    windows = Windows(taken, (1, 6, 6), 3, torch.tensor([[0, 2]]), generator, torch.device("cpu"))
    moved = windows.shifted(1)
    assert moved.corners.tolist() == [[max(0, r), 2 + c] for r in (-1, 0, 1) for c in (-1, 0, 1)]
    before = windows.image(0) * windows.mask(0)
    for arm in range(9):
        shared = (windows.mask(0) * moved.mask(arm)) > 0
        assert np.array_equal(moved.image(arm)[shared], before[shared])
