"""Passes side by side: the same answers in the same order, whatever runs beside what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_triggers import case as module
from modelguard_triggers.case import Case, images_per_pass
from modelguard_triggers.evidence import Evidence
from torch import Tensor

from modelguard import DeadlineExceeded, InputSpec, Layer, ScanContext


class Model:
    device = torch.device("cpu")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x.flatten(1)[:, :3]


def case(seconds: float = 0.002) -> Case:
    images, labels = torch.zeros(9, 1, 2, 2), torch.arange(9) % 3
    evidence = Evidence(images, labels, images, labels, 3, None)
    return Case(Model(seconds), evidence, 8, np.random.default_rng, lambda done, total, note="": None)  # type: ignore[arg-type]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_heavy_passes_run_beside_each_other_and_answer_in_order(threads: Callable[[int], None]) -> None:
    threads(2)
    meeting, ticks = threading.Barrier(2, timeout=10), list[int]()

    def work(part: int) -> int:
        meeting.wait()  # nobody goes on before another is there
        return 10 * part

    assert case().side_by_side(work, [0, 1, 2, 3], ticks.append) == [0, 10, 20, 30]
    assert ticks == [0, 1, 2, 3]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("count", "seconds"), [(1, 0.002), (2, 0.0)])
def test_with_one_core_or_a_light_model_nothing_leaves_the_thread(threads: Callable[[int], None], count: int, seconds: float) -> None:
    threads(count)

    assert (
        case(seconds).side_by_side(lambda part: threading.current_thread(), [0, 1, 2], lambda done: None) == [threading.main_thread()] * 3
    )


def test_the_deadline_and_errors_come_through(threads: Callable[[int], None]) -> None:
    threads(2)

    def late(done: int) -> None:
        if done == 1:
            raise DeadlineExceeded("late")

    def broken(part: int) -> int:
        raise ValueError(part)

    with pytest.raises(DeadlineExceeded, match="late"):
        case().side_by_side(lambda part: part, [0, 1, 2, 3], late)
    with pytest.raises(ValueError, match="0"):
        case().side_by_side(broken, [0, 1], lambda done: None)


@pytest.mark.parametrize(("total", "each", "count", "sizes"), [
    (10, 4, 1, [3, 3, 4]), (10, 16, 1, [10]), (10, 16, 2, [5, 5]), (20, 6, 2, [5, 5, 5, 5]), (1, 8, 4, [1]), (3, 0, 2, [1, 1, 1]),
])  # fmt: skip
def test_shares_are_alike_and_fill_all_cores(threads: Callable[[int], None], total: int, each: int, count: int, sizes: list[int]) -> None:
    threads(count)
    found = case().shares(total, each)

    assert [part.stop - part.start for part in found] == sizes
    assert [part.start for part in found] == [0, *(part.stop for part in found[:-1])]
    assert found[-1].stop == total


def test_passes_side_by_side_share_the_memory(threads: Callable[[int], None]) -> None:
    model: Any = Model(0.0)
    model.input = InputSpec("image", (1, 6, 6), "float32", "NCHW", 0.0, 1.0, None, None, {})
    model.layers = (Layer("a", "conv", (8, 6, 6), 0),)
    context = ScanContext(memory_limit=1 << 20)
    threads(1)
    alone = images_per_pass(model, context, most=256)
    threads(2)
    assert images_per_pass(model, context, most=256) == alone // 2


def test_a_gpu_shares_a_pass_out_by_itself(monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> None:
    threads(4)
    own = case()
    assert module.passes_at_once(own.model) == 4
    monkeypatch.setattr(Model, "device", torch.device("cuda"))
    assert module.passes_at_once(own.model) == 1
