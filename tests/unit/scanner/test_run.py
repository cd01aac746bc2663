"""What the parent makes of a worker that ends while it builds the model; the workers here are scripts of answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from modelguard import Artifact, Capability, ModelOptions, Status
from modelguard._scanner import run
from modelguard._scanner.child import WorkerError, WorkerTimeout
from modelguard._scanner.protocol import Answer, Building, Ended, Facts, Job, Limits, Started, Task
from modelguard._scanner.run import Scan, Silent
from modelguard.detector import Detector, LookedAt

JOB = Job(Artifact("m", "local:m", Path("/m"), (), None), None, None, ModelOptions(), (), (), 0, Limits(memory=None, threads=1))
NEEDS = {"a": Capability.GRADIENTS, "b": Capability.WEIGHTS, "c": Capability.FORWARD, "d": Capability.GRADIENTS, "e": Capability.FILES}
DETECTORS: dict[str, type[Detector]] = {
    name: type(name, (Detector,), {"id": name, "requires": frozenset({need}), "rules": ()}) for name, need in NEEDS.items()
}
STOPPED = "building the model did not end: still busy 5 s after its limit of 900 s, and was stopped; raise --timeout"


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Worker:
    """A worker in which whoever builds the model meets ``fate``; ``before`` seconds pass until it begins."""

    fate: WorkerError
    before = 0.0
    clock: Clock
    started: list[str]

    def __init__(self, job: Job) -> None:
        self.answers: Iterator[Answer] = iter([Facts()])

    def start(self, tasks: Sequence[Task], looked_at: Iterable[LookedAt]) -> None:
        self.answers = self.script(tasks)

    def script(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        for task in tasks:
            self.started.append(task.detector)
            yield Started(task.detector)
            if DETECTORS[task.detector].requires & {Capability.FORWARD, Capability.GRADIENTS}:
                self.clock.now += self.before
                yield Building(task.detector)
                self.clock.now += task.timeout + run.GRACE - self.before
                raise self.fate
            yield Ended(task.detector, Status.COMPLETED, "", {"score": 0.0})

    def answer(self, deadline: float) -> Answer:
        return next(self.answers)

    def renew(self) -> None: ...

    def close(self) -> None: ...

    def dismiss(self) -> None: ...


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    clock = Clock()
    fresh = type("Fresh", (Worker,), {"clock": clock, "started": [], "fate": WorkerTimeout()})
    monkeypatch.setattr(run, "Child", fresh)
    monkeypatch.setattr(run, "time", clock)
    return fresh


def outcomes(timeouts: dict[str, float] | None = None) -> list[tuple[str, Status, str]]:
    tasks = [Task(name, f"m:{name}", {}, (timeouts or {}).get(name, 900.0)) for name in DETECTORS]
    with Scan(JOB, Silent()) as scan:
        return [(item.detector, item.status, item.reason) for item in scan.run(tasks, DETECTORS)]


def test_a_build_that_hangs_costs_one_time_limit(worker: type[Worker]) -> None:
    assert outcomes() == [
        ("a", Status.TIMED_OUT, STOPPED),
        ("b", Status.COMPLETED, ""),
        ("c", Status.TIMED_OUT, f"not started, because a ended so: {STOPPED}"),
        ("d", Status.TIMED_OUT, f"not started, because a ended so: {STOPPED}"),
        ("e", Status.COMPLETED, ""),
    ]
    assert worker.started == ["a", "b", "e"]
    assert worker.clock.now == 905


def test_a_build_that_kills_its_worker_is_not_tried_again(worker: type[Worker]) -> None:
    worker.fate = WorkerError("was killed by SIGSEGV")
    cause = "building the model did not end: its worker was killed by SIGSEGV"
    found = outcomes({"d": 1e6})
    assert [item[2] for item in found if item[1] is Status.ERRORED] == [cause, *[f"not started, because a ended so: {cause}"] * 2]
    assert worker.started == ["a", "b", "e"]


def test_a_detector_with_more_time_gets_to_try(worker: type[Worker]) -> None:
    found = outcomes({"a": 10.0, "c": 60.0, "d": 30.0})
    assert [item[1] for item in found].count(Status.TIMED_OUT) == 3
    assert found[3][2].startswith("not started, because c ended so")
    assert worker.started == ["a", "b", "c", "e"]


def test_a_build_that_began_late_was_not_seen_to_hang(worker: type[Worker]) -> None:
    worker.before = 800.0
    outcomes()
    assert worker.started == ["a", "b", "c", "d", "e"]
