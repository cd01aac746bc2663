"""A worker in the process of the tests, for tests of what a scan says and not of how it is held.

It opens the artifact and runs the detectors with the functions that a worker process runs, and every answer goes through the same bytes;
what it lacks is the process: nothing is confined or killed, and what libraries take to be imported is taken once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from modelguard._scanner.child import WorkerError
from modelguard._scanner.isolation import CONFINEMENTS
from modelguard._scanner.protocol import Answer, Answers, Failed, Job, Purse, Task, Tasks, ask, asked, encode
from modelguard._scanner.worker import describe, open_target, run_tasks
from modelguard.detector import LookedAt
from modelguard.errors import ModelguardError


class InProcessWorker:
    """Has the methods of :class:`modelguard._scanner.child.Child` that a scan calls."""

    def __init__(self, job: Job) -> None:
        # One thread: those of two test processes that wait for each other while spinning keep the late one off the core.
        one = replace(job, limits=replace(job.limits, threads=1), model=replace(job.model, threads=1))
        self._job = asked(Job, ask(one).decode())
        self._said: deque[bytes] = deque()
        self._answers = Answers()
        try:
            self._target = open_target(self._job)
            self._say(replace(describe(self._target), confinement=tuple(sorted(CONFINEMENTS))))
        except ModelguardError as error:
            self._say(Failed(str(error)))

    def _say(self, answer: Answer) -> None:
        self._said.append(encode(answer))

    def start(self, tasks: Sequence[Task], looked_at: Iterable[LookedAt], purse: Purse, lost: Iterable[str]) -> None:
        planned = asked(Tasks, ask(Tasks(tuple(tasks), tuple(looked_at), purse, tuple(lost))).decode())
        run_tasks(planned, self._target, self._job, self._say)

    def renew(self) -> None:
        self._answers.renew()

    def answer(self, deadline: float) -> Answer:
        while (answer := self._answers.next()) is None:
            if not self._said:
                raise WorkerError("has nothing more to say")
            self._answers.feed(self._said.popleft())
        return answer

    def dismiss(self) -> None:
        """Nothing is left to end."""

    close = dismiss
