"""What a finding says and shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_triggers.facts import (
    by_class,
    change_exhibits,
    class_name,
    examples,
    mask_exhibits,
    rounded,
    score,
    source_classes,
    success_rate,
)


def test_classes_are_named_where_they_have_names() -> None:
    model: Any = SimpleNamespace(output=SimpleNamespace(labels=("stop", "")))
    assert [class_name(model, k) for k in range(3)] == ["0 (stop)", "1", "2"]


def test_numbers_have_six_digits() -> None:
    assert rounded(1 / 3) == 0.333333
    assert rounded(torch.tensor(123456789.0)) == 123457000.0


@pytest.mark.parametrize(("p", "expected"), [(1.0, 0.0), (0.01, 2.0), (0.0, 12.0)])
def test_a_score_is_the_number_of_zeros(p: float, expected: float) -> None:
    assert score(p) == pytest.approx(expected)


def test_success_is_counted_where_it_was_asked() -> None:
    hits = torch.tensor([[True, True, False, True], [True, True, True, True]])
    asked = torch.tensor([[True, True, True, False], [False, False, False, False]])
    assert success_rate(hits, asked).tolist() == pytest.approx([2 / 3, 0.0])
    rates = by_class(hits[0], asked[0], torch.tensor([4, 7, 7, 9]))
    assert rates == {4: 1.0, 7: 0.5}
    assert source_classes({7: 0.5, 4: 1 / 3}) == {"source_classes": [7], "attack_success_by_class": {"4": 0.333333, "7": 0.5}}


def test_exhibits_are_named_for_what_they_show() -> None:
    image, mask = np.zeros((3, 4, 4), np.float32), np.ones((1, 4, 4), np.float32)
    shown = mask_exhibits(image, mask, [(3, image), (7, image)], (0, 255), trigger_bounds=(0, 1))
    assert [item.name for item in shown] == ["trigger", "mask", "stamped class 3", "stamped class 7"]
    change = change_exhibits(image, [(3, image)], (-1, 1))
    assert [item.name for item in change] == ["trigger", "stamped class 3"]
    assert all(item.data.startswith(b"\x89PNG") for item in (*shown, *change))
    assert change[0].data == change[1].data, "grey where nothing changes"


def test_a_trigger_is_shown_on_one_image_of_each_of_a_few_classes() -> None:
    labels = torch.tensor([5, 5, 1, 2, 3, 4, 6])
    asked = torch.tensor([False, True, True, True, True, True, True])
    assert examples(asked, labels, 64) == [1, 2, 3, 4]
    assert examples(asked, labels, 224 * 224) == [1], "pictures are most of a report's size"
