"""What the parent makes of a worker that ends while it builds the model; the workers here are scripts of answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from modelguard import Artifact, Capability, ModelOptions, Status
from modelguard._scanner import run
from modelguard._scanner.child import WorkerError, WorkerTimeout
from modelguard._scanner.protocol import Answer, Building, Ended, Facts, Job, Limits, Purse, Started, Task
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
    told: list[tuple[float | None, list[str]]]

    def __init__(self, job: Job) -> None:
        self.answers: Iterator[Answer] = iter([Facts()])

    def start(self, tasks: Sequence[Task], looked_at: Iterable[LookedAt], purse: Purse, lost: Iterable[str]) -> None:
        self.told.append((purse.left, list(lost)))
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
    fresh = type("Fresh", (Worker,), {"clock": clock, "started": [], "told": [], "fate": WorkerTimeout()})
    monkeypatch.setattr(run, "Child", fresh)
    monkeypatch.setattr(run, "time", clock)
    return fresh


def outcomes(timeouts: dict[str, float] | None = None) -> list[tuple[str, Status, str]]:
    tasks = [Task(name, f"m:{name}", {}, (timeouts or {}).get(name, 900.0)) for name in DETECTORS]
    with Scan(JOB, Silent()) as scan:
        scan.describe(1.0)
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


def test_a_fresh_worker_is_told_who_was_lost_and_what_is_left_of_the_budget(worker: type[Worker]) -> None:
    tasks = [Task(name, name, {}, 900.0, searches=name == "a") for name in ("b", "a", "e")]
    with Scan(JOB, Silent()) as scan:
        scan.describe(1.0)
        found = scan.run(tasks, DETECTORS, 400.0)
    assert [item.status for item in found] == [Status.COMPLETED, Status.TIMED_OUT, Status.COMPLETED]
    kept = "a part is kept for those that run last, and one for hints"
    assert found[1].reason.endswith("after its limit of 360 s, and was stopped; raise --budget"), kept
    (first, second) = worker.told
    assert first == (380.0, [])
    assert second[1] == ["a"]


def test_a_search_is_given_no_worker_once_the_budget_is_used_up(worker: type[Worker]) -> None:
    tasks = [Task(name, name, {}, 900.0, searches=name in ("a", "d")) for name in ("a", "b", "d")]
    with Scan(JOB, Silent()) as scan:
        scan.describe(1.0)
        found = scan.run(tasks, DETECTORS, 1.0)
    assert [item.status for item in found] == [Status.TIMED_OUT, Status.COMPLETED, Status.TIMED_OUT]
    assert found[2].reason == "not started: the budget was used up before; raise --budget"
    assert worker.started == ["a", "b"]


def test_all_searches_share_the_budget_and_those_that_run_last_have_a_part_for_themselves() -> None:
    purse = Purse.of(120.0)
    first, other = Task("a", "a", {}, 100.0, searches=True), Task("b", "b", {}, 900.0)
    last = Task("c", "c", {}, 900.0, searches=True, last=True)
    assert purse.seconds(first) == 100, "its own limit"
    purse.spend(first, 90)
    assert purse.seconds(other) == 900, "what is no search has its own limit"
    purse.spend(other, 50)
    assert purse.seconds(first) == 18
    purse.spend(first, 18)
    assert purse.seconds(first) == 0
    assert purse.seconds(last) == 6
    hint = Task("d", "d", {}, 900.0, searches=True, hints=True)
    assert purse.seconds(hint) == 6, "what only gives hints has a part apart"
    purse.spend(hint, 4)
    assert (purse.seconds(hint), purse.seconds(last)) == (2, 6)
    assert Purse.of(None).seconds(first) == 100


def test_more_budget_leaves_no_search_less_of_what_it_can_use() -> None:
    """From the cheapest to the dearest, whether those before take all they need, what there is, or nothing because it is too little."""
    rng = random.Random(0)
    for _ in range(300):
        needs = sorted((least, least * rng.uniform(1, 10)) for least in (rng.uniform(0, 50) for _ in range(6)))

        def used(budget: float, needs: list[tuple[float, float]] = needs) -> list[float]:
            purse, taken = Purse.of(budget), []
            for number, (least, most) in enumerate(needs):
                task = Task(str(number), "", {}, 1e9, searches=True)
                given = purse.seconds(task)
                taken.append(min(given, most) if given >= least else 0.0)
                purse.spend(task, taken[-1])
            return taken

        budget = rng.uniform(1, 300)
        more = budget * rng.uniform(1, 3)
        assert all(then >= now - 1e-9 for now, then in zip(used(budget), used(more), strict=True))
