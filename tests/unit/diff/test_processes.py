"""Work over processes: every result, the first failure, and nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import DeadlineExceeded, ModelguardError, diff_checkpoints
from modelguard._diff.processes import scatter
from modelguard.testing import ArrayCheckpoint

forks = pytest.mark.skipif(sys.platform != "linux", reason="one process does everything where forking is not safe")


@pytest.mark.parametrize("processes", [1, 2, 3, 50])
def test_every_item_once(processes: int) -> None:
    found = list(scatter(lambda item: item * item, range(20), processes, lambda: None))
    assert sorted(found) == [(index, index * index) for index in range(20)]
    assert list(scatter(abs, [], processes, lambda: None)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_failure_of_one_item_ends_all(processes: int) -> None:
    def divide(item: int) -> float:
        return 1 / item

    with pytest.raises(ZeroDivisionError):
        list(scatter(divide, [1, 2, 0, 4], processes, lambda: None))
    assert not multiprocessing.active_children()


@forks
def test_check_stops_processes_that_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._diff.processes.PATIENCE", 0.01)
    busy: list[int] = []

    def check() -> None:
        busy.append(len(multiprocessing.active_children()))
        if len(busy) == 4:
            raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        list(scatter(time.sleep, [60, 60], 2, check))
    assert busy == [2, 2, 2, 2]
    assert not multiprocessing.active_children()


@forks
def test_a_killed_process_is_an_error_and_no_result() -> None:
    def suicide(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(ModelguardError, match=r"^comparison: one of its processes was killed; "):
        list(scatter(suicide, [0, 1, 2, 3], 2, lambda: None))
    assert not multiprocessing.active_children()


@forks
def test_what_the_parent_has_buffered_comes_out_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        log.write("once\n")
        list(scatter(abs, [-1, -2], 2, lambda: None))
    assert (tmp_path / "log").read_text() == "once\n"
    assert capfd.readouterr() == ("", "")


class Unreadable(ArrayCheckpoint):
    """One tensor fails once the comparison reads it."""

    def raw(self, name: str) -> Any:
        if name == "layers.3.w":
            raise ModelguardError("layers.3.w", "cannot be read")
        return super().raw(name)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tensor_that_cannot_be_read_ends_the_diff(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._diff.diff.SHARE", 1)
    tensors = {f"layers.{index}.w": np.full((8, 8), index, np.float32) for index in range(6)}
    with pytest.raises(ModelguardError, match=r"layers\.3\.w: cannot be read"):
        diff_checkpoints([ArrayCheckpoint(tensors)], [Unreadable({name: value + 1 for name, value in tensors.items()})], threads=threads)
