"""What the worker writes, and when."""

from __future__ import annotations

import os

from modelguard._scanner.protocol import Answers, Looked, Progressed
from modelguard._scanner.worker import TOGETHER, Emitter
from modelguard.detector import LookedAt


def looked(number: int) -> Looked:
    return Looked("d", LookedAt(f"{number}.pkl", "a Python pickle"))


def test_files_looked_at_are_told_together_and_in_order_before_anything_else() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    emit, answers = Emitter(write), Answers()

    def arrived() -> list[object]:
        try:
            answers.feed(os.read(read, 1 << 20))
        except BlockingIOError:
            return []
        return list(iter(answers.next, None))

    emit(looked(0))
    emit(looked(1))
    assert arrived() == []
    emit(Progressed("d", 2, 3, ""))
    assert arrived() == [looked(0), looked(1), Progressed("d", 2, 3, "")]
    for number in range(TOGETHER):
        emit(looked(number))
    assert arrived() == [looked(number) for number in range(TOGETHER)]
    os.close(read)
