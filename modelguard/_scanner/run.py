"""Drives workers through a plan: a worker that dies or hangs costs one detector, and a fresh one goes on with the next."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, assert_never

from modelguard._scanner.budget import FULL, Budget, clipped
from modelguard._scanner.child import Child, WorkerError, WorkerTimeout
from modelguard._scanner.protocol import Answer, Building, Built, Ended, Facts, Failed, Found, Job, Looked, Progressed, Purse, Started, Task
from modelguard.detector import Capability, Detector, LookedAt
from modelguard.errors import ModelguardError, PluginError
from modelguard.findings import Finding, fingerprint
from modelguard.report import Outcome, Status

GRACE = 5.0
"""Seconds a detector gets past its time limit to notice it by itself and keep its summary, before its worker is killed."""


BUILD_SHARE = 0.9
"""A model whose build did not end in this share of a detector's time limit is not built again for it."""
_RUNS_MODEL = frozenset({Capability.FORWARD, Capability.GRADIENTS})


class Progress(Protocol):
    """Told what happens while it happens."""

    def reading(self, done: int, total: int, note: str) -> None:
        """Bytes of the artifact that were fetched or hashed."""

    def started(self, detector: str) -> None: ...

    def progressed(self, detector: str, done: int, total: int, note: str) -> None: ...

    def ended(self, outcome: Outcome, seconds: float) -> None: ...


@dataclass
class Said:
    """What a detector said beside its outcome: the files it looked at, and what the model says of itself that it used."""

    looked_at: dict[str, LookedAt] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None


@dataclass
class _Running:
    """The detector a worker is busy with, and what it has sent."""

    task: Task
    began: float
    seconds: float = 0.0
    """How long it may take."""
    findings: list[Finding] = field(default_factory=list)
    building: float | None = None
    """Since when it has been building the model."""
    said: Said = field(default_factory=Said)

    def outcome(self, status: Status, reason: str = "", summary: Mapping[str, Any] | None = None) -> Outcome:
        return Outcome(self.task.detector, status, reason, summary or {}, tuple(self.findings))


@dataclass(frozen=True)
class _Unbuilt:
    """A build of the model that its worker did not survive: how it ended, and how long it had if it was stopped for its time."""

    outcome: Outcome
    had: float

    def repeats(self, task: Task, detector: type[Detector]) -> bool:
        """Whether ``task`` would only meet it again. One with much more time may live to see the model."""
        return bool(detector.requires & _RUNS_MODEL) and self.had >= BUILD_SHARE * task.timeout


class Scan:
    """One artifact in workers. ``describe`` first, then ``run``; use as a context manager so that no worker stays behind.

    No worker is started before it is needed: where somebody knows what one would say, there may be none at all.
    """

    def __init__(self, job: Job, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self._child: Child | None = None
        self.seconds: dict[str, float] = {}
        self.said: dict[str, Said] = {}
        self._paths = frozenset(file.path for file in job.artifact.files)
        self._models: list[Mapping[str, Any]] = []
        self._unbuilt: _Unbuilt | None = None
        self._budget = Budget()
        self._purse = Purse()
        self._lost_in: list[str] = []
        self._running: _Running | None = None
        self.interrupted = ""

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None and self._child is not None:
            self._child.dismiss()
            self._child = None
        self._drop()

    def describe(self, timeout: float) -> Facts:
        """What the worker found when it opened the artifact. Raises :class:`ModelguardError` when it could not."""
        try:
            self._child = Child(self._job)
        except WorkerError as error:
            raise ModelguardError("the isolated worker", str(error), "free memory, processes or temporary space (TMPDIR)") from None
        uri = self._job.artifact.uri
        try:
            answer = _opening(self._child, time.monotonic() + timeout)
        except WorkerTimeout:
            raise ModelguardError(
                uri, f"was not opened within {timeout:g} s", "raise --timeout, or look at the file: it may be built to hang readers"
            ) from None
        except WorkerError as error:
            raise ModelguardError(
                uri, f"could not be opened: the isolated worker {error}", "the file may be built to crash readers; do not load it"
            ) from None
        if isinstance(answer, Failed):
            raise _Reason(clipped(answer.reason))
        return answer

    def recall(self, detector: type[Detector], kept: Sequence[Answer]) -> Outcome | None:
        """The outcome of a detector that said ``kept`` of these very bytes before, and not to ask it again; None for what it cannot say."""
        said, findings, outcome = Said(), [], None
        try:
            for answer in kept:
                match answer:
                    case Found(detector=detector.id, finding=finding):
                        findings.append(admitted(finding, detector, self._job.artifact.identity))
                    case Looked(detector=detector.id, at=at) if at.path in self._paths:
                        said.looked_at[at.path] = at
                    case Ended(detector=detector.id, status=status, reason=reason, summary=summary, model=model) if answer is kept[-1]:
                        said.model = model
                        outcome = Outcome(detector.id, status, clipped(reason), summary, tuple(findings))
                    case _:
                        return None
        except PluginError:
            return None
        # A report has room for so much, whoever said it; what would not fit is asked again, and then said to be too much.
        if outcome is None or not self._fits(outcome, said):
            return None
        self.said[detector.id] = said
        return outcome

    def _fits(self, outcome: Outcome, said: Said) -> bool:
        for finding in outcome.findings:
            self._budget.finding(finding)
        self._budget.values(outcome.summary)
        if said.model is not None and said.model not in self._models:
            self._budget.values(said.model)
            self._models.append(said.model)
        return not self.full

    @property
    def full(self) -> bool:
        """Whether the report had no room for something that a detector said."""
        return self._budget.full

    def looked_at(self, order: Iterable[str]) -> dict[str, LookedAt]:
        """What detectors said of files, in the order they run in; the last word counts."""
        return {path: at for name in order if name in self.said for path, at in self.said[name].looked_at.items()}

    def model(self, order: Iterable[str]) -> Mapping[str, Any] | None:
        """What the model that they used says of itself: the last word again."""
        return next((found for name in reversed(list(order)) if name in self.said and (found := self.said[name].model) is not None), None)

    def run(self, tasks: Sequence[Task], detectors: Mapping[str, type[Detector]], budget: float | None = None) -> list[Outcome]:
        """One outcome per task, in order. ``budget`` is the seconds there are for all searches together.

        Ctrl-C ends it: what was found until then is kept, ``interrupted`` is the detector that ran, and no more is started.
        """
        self._purse = Purse.of(budget)
        outcomes: dict[str, Outcome] = {}
        try:
            self._run(tasks, detectors, outcomes)
        except KeyboardInterrupt as error:
            if type(error) is not KeyboardInterrupt:  # the process is being ended, and nobody waits for a report
                raise
            self._drop()
            self._interrupt([task for task in tasks if task.detector not in outcomes], outcomes)
        return [outcomes[task.detector] for task in tasks]

    def _interrupt(self, tasks: Sequence[Task], outcomes: dict[str, Outcome]) -> None:
        """The outcomes of the detector that ran when Ctrl-C came, and of those that were still to come."""
        for task in tasks:
            running = self._running
            if running is not None and running.task == task:
                self.interrupted = task.detector
                outcomes[task.detector] = self._ended(running, running.outcome(Status.ERRORED, "interrupted (Ctrl-C)"))
            else:
                outcomes[task.detector] = Outcome(task.detector, Status.ERRORED, "not started: the scan was interrupted (Ctrl-C)")
        self.interrupted = self.interrupted or "no detector"

    def _run(self, tasks: Sequence[Task], detectors: Mapping[str, type[Detector]], outcomes: dict[str, Outcome]) -> None:
        while left := self._spared([task for task in tasks if task.detector not in outcomes], detectors, outcomes):
            first = left[0]
            if self._child is None:
                try:
                    self._child = Child(self._job)
                except WorkerError as error:
                    running = _Running(first, time.monotonic())
                    outcomes[first.detector] = self._ended(running, running.outcome(Status.ERRORED, f"a fresh worker {error}"))
                    continue
                if (failed := self._reopen(self._child, first)) is not None:
                    outcomes[first.detector] = failed
                    self._drop()
                    continue
            self._child.start(left, self.looked_at(self.said).values(), self._purse, self._lost_in)
            for task in left:
                outcomes[task.detector], usable = self._one(self._child, task, detectors[task.detector])
                if not usable:
                    self._drop()
                    break

    def _spared(self, tasks: Sequence[Task], detectors: Mapping[str, type[Detector]], outcomes: dict[str, Outcome]) -> list[Task]:
        """The tasks worth starting; a search gets no worker of its own once the budget is used up, and what would only build a model again
        that its worker did not survive gets that outcome."""
        left = []
        for task in tasks:
            if self._purse.seconds(task) <= 0:
                running = _Running(task, time.monotonic())
                reason = "not started: the budget was used up before; raise --budget"
                outcomes[task.detector] = self._ended(running, running.outcome(Status.TIMED_OUT, reason))
                continue
            if self._unbuilt is None or not self._unbuilt.repeats(task, detectors[task.detector]):
                left.append(task)
                continue
            before = self._unbuilt.outcome
            running = _Running(task, time.monotonic())
            reason = f"not started, because {before.detector} ended so: {before.reason}"
            outcomes[task.detector] = self._ended(running, running.outcome(before.status, reason))
        return left

    def _reopen(self, child: Child, task: Task) -> Outcome | None:
        """Wait until a fresh worker has opened the artifact again; the outcome of ``task`` when it cannot."""
        running = _Running(task, time.monotonic())
        try:
            answer = _opening(child, time.monotonic() + task.timeout + GRACE)
        except WorkerTimeout:
            return self._ended(running, running.outcome(Status.TIMED_OUT, "a fresh worker did not open the artifact in time"))
        except WorkerError as error:
            return self._ended(running, running.outcome(Status.ERRORED, f"a fresh worker {error}"))
        if isinstance(answer, Failed):
            reason = f"a fresh worker could not open the artifact: {answer.reason}"
            return self._ended(running, running.outcome(Status.ERRORED, reason))
        return None

    def _one(self, child: Child, task: Task, detector: type[Detector]) -> tuple[Outcome, bool]:
        """The outcome of one task, and whether the worker can go on with the next."""
        self._running = running = _Running(task, time.monotonic(), self._purse.seconds(task))
        self.said[task.detector] = running.said
        self._progress.started(task.detector)
        child.renew()
        try:
            return self._ended(running, self._followed(child, running, detector)), True
        except WorkerTimeout:
            remedy = "--timeout" if running.seconds == task.timeout else "--budget"
            reason = f"still busy {GRACE:g} s after its limit of {running.seconds:.3g} s, and was stopped; raise {remedy}"
            return self._lost(running, Status.TIMED_OUT, reason), False
        except WorkerError as error:
            return self._lost(running, Status.ERRORED, f"its worker {error}"), False

    def _followed(self, child: Child, running: _Running, detector: type[Detector]) -> Outcome:
        """The outcome, once the worker has said how the detector ended. Raises :class:`WorkerError` when it does not come to that."""
        name, deadline, fault = running.task.detector, running.began + running.seconds + GRACE, ""
        while True:
            try:
                answer = child.answer(deadline)
                match answer:
                    case Facts() | Failed():
                        raise WorkerError(f"answered about the artifact while {name} ran")
                    case _ if answer.detector != name:
                        raise WorkerError(f"answered about {answer.detector!r} while {name} ran")
                    case Started():
                        pass
                    case Progressed(done=done, total=total, note=note):
                        self._progress.progressed(name, done, total, note)
                    case Found(finding=finding):
                        held = self._budget.finding(admitted(finding, detector, self._job.artifact.identity))
                        running.findings += [held] if held is not None else []
                        fault = fault or (FULL if held is None else "")
                    case Looked(at=at) if at.path not in self._paths:
                        cause = f"said that it looked at {at.path!r}, which the artifact does not have"
                        raise PluginError(f"detector {name}", cause, "report it to the plugin's author")
                    case Looked(at=at):
                        running.said.looked_at[at.path] = at
                    case Building():
                        running.building = time.monotonic()
                    case Built():
                        running.building = None
                    case Ended(status=status, reason=reason, summary=summary, model=model):
                        if model is not None and (model in self._models or self._budget.values(model) is not None):
                            running.said.model = model
                            self._models.append(model)
                        told = self._budget.values(summary)
                        fault = fault or (FULL if told is None else "")
                        if fault and status is Status.COMPLETED:
                            status, reason = Status.ERRORED, fault
                        return running.outcome(status, clipped(reason), told)
                    case _:
                        assert_never(answer)
            except PluginError as error:
                fault = fault or str(error)

    def _lost(self, running: _Running, status: Status, reason: str) -> Outcome:
        """The outcome of a detector whose worker died or was killed. If it was building the model, the next one would build it again."""
        self._lost_in.append(running.task.detector)
        if running.building is None:
            return self._ended(running, running.outcome(status, reason))
        outcome = running.outcome(status, f"building the model did not end: {reason}")
        had = time.monotonic() - running.building if status is Status.TIMED_OUT else float("inf")
        self._unbuilt = _Unbuilt(outcome, had)
        return self._ended(running, outcome)

    def _ended(self, running: _Running, outcome: Outcome) -> Outcome:
        seconds = time.monotonic() - running.began
        self._purse.spend(running.task, seconds)
        self.seconds[outcome.detector] = round(seconds, 3)
        self._progress.ended(outcome, seconds)
        return outcome

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


class _Reason(ModelguardError):
    """A worker's own complete sentence, passed through."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "")

    def __str__(self) -> str:
        return self.thing


def _opening(child: Child, deadline: float) -> Facts | Failed:
    """What the worker says of the artifact once it has opened it, or failed to. Raises :class:`WorkerError`."""
    with contextlib.suppress(PluginError):
        answer = child.answer(deadline)
        if isinstance(answer, Facts | Failed):
            return answer
    raise WorkerError("answered something other than facts")


def admitted(finding: Finding, detector: type[Detector], identity: str) -> Finding:
    """The finding as the report of the model ``identity`` takes it: of a rule that ``detector`` declares, and with its fingerprint.

    Raises :class:`PluginError` for any other rule.
    """
    declared = sorted(rule.id for rule in detector.rules)
    if finding.rule not in declared:
        cause = f"yielded the undeclared rule {finding.rule}"
        raise PluginError(f"detector {detector.id}", cause, f"declare it in `rules` (declared: {', '.join(declared) or 'none'})")
    return replace(finding, fingerprint=fingerprint(finding.rule, identity, finding.location, finding.key))


class Silent:
    """A :class:`Progress` that says nothing."""

    def reading(self, done: int, total: int, note: str) -> None: ...

    def started(self, detector: str) -> None: ...

    def progressed(self, detector: str, done: int, total: int, note: str) -> None: ...

    def ended(self, outcome: Outcome, seconds: float) -> None: ...
