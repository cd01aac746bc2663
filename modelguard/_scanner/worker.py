"""The isolated child: opens the artifact, runs the detectors it was given one after another, and answers as it goes.

Started as ``python -I -m modelguard._scanner.worker FD``. Standard input brings the requests of :mod:`modelguard._scanner.protocol`,
the answers go to file descriptor FD.
Standard output and error are the plugins' to write to; the parent keeps their tail for error messages.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelguard._scanner.isolation import confine
from modelguard._scanner.protocol import (
    MAX_NOTE,
    Answer,
    Building,
    Built,
    Ended,
    Facts,
    Failed,
    Found,
    Job,
    Looked,
    Progressed,
    Started,
    Task,
    Tasks,
    asked,
    encode,
    resolve,
)
from modelguard._scanner.target import make_target
from modelguard._scanner.values import NotJsonSafe, finite, json_safe
from modelguard.detector import DeadlineExceeded, LookedAt, ScanContext, Skip, Target, configure
from modelguard.errors import ModelguardError, SamplesError, without_paths
from modelguard.report import SamplesInfo, Status

if TYPE_CHECKING:
    from pathlib import Path

    from modelguard.findings import Finding
    from modelguard.model import RunnableModel, Samples

PROGRESS_SECONDS = 0.2
TOGETHER = 64
"""Files looked at that are told in one write: a write wakes the parent, and takes longer than looking at a small file."""


class Emitter:
    """Writes answers to the parent, in order. Safe to call from several threads.

    Everything is written at once but what was looked at, which waits for the next answer of another kind, at most :data:`TOGETHER`: of a
    worker that is lost, the last files count as not looked at.
    """

    def __init__(self, fd: int) -> None:
        self._stream = os.fdopen(fd, "wb", buffering=0)
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []

    def __call__(self, answer: Answer) -> None:
        line = encode(answer)
        with self._lock:
            self._waiting.append(line)
            if isinstance(answer, Looked) and len(self._waiting) < TOGETHER:
                return
            view = memoryview(b"".join(self._waiting))
            self._waiting.clear()
            while view:
                view = view[self._stream.write(view) or 0 :]


def main() -> int:
    """Run the job on standard input. The exit status means nothing; the parent judges by the answers."""
    emit = Emitter(int(sys.argv[1]))
    job = asked(Job, sys.stdin.readline())
    held = confine(job.limits)
    sys.path.extend(path for path in job.sys_path if path not in sys.path)
    try:
        target = open_target(job)
        emit(replace(describe(target), confinement=held))
    except ModelguardError as error:
        emit(Failed(str(error)))
        return 0
    except MemoryError:
        emit(Failed(f"{job.artifact.uri}: opening it needs more memory than the limit; raise --memory"))
        return 0
    planned = sys.stdin.readline()
    if planned:
        run_tasks(asked(Tasks, planned), target, job, emit)
    return 0


def open_target(job: Job) -> Target:
    """Open artifact, reference and samples as the job says. Headers are parsed; no tensor is read."""
    formats = [resolve(ref)() for ref in job.formats]
    factories = [resolve(ref)() for ref in job.models]
    samples = _samples(job.samples) if job.samples is not None else None
    reference = make_target(job.reference, formats, factories, job.model) if job.reference is not None else None
    return make_target(job.artifact, formats, factories, job.model, samples, reference)


def _samples(path: Path) -> Samples:
    """What :func:`load_samples` returns. Whatever it meets is said of the samples: the artifact has no part in it."""
    from modelguard._inputs.samples import load_samples

    try:
        return load_samples(path)
    except ModelguardError:
        raise
    except MemoryError:
        raise SamplesError(path.name, "need more memory than the limit", "give fewer samples, or raise --memory") from None
    except Exception as error:
        raise SamplesError(path.name, f"cannot be read ({_blame(error)})", "check the file, or scan without --samples") from error


def describe(target: Target) -> Facts:
    """What the parent needs for the plan and the report."""
    from modelguard._formats.card import read_card

    given, card = target.samples, read_card(target.artifact)
    return Facts(
        capabilities=tuple(sorted(target.capabilities, key=lambda item: item.value)),
        formats=tuple(sorted({checkpoint.format for checkpoint in target.checkpoints})),
        unread=tuple(sorted(file.path for file in target.unread)),
        problems=tuple(str(problem.message) for problem in target.problems if problem.fatal),
        samples=None if given is None else SamplesInfo(given.origin, given.sha256, len(given.inputs), given.labels is not None),
        reference=describe(target.reference) if target.reference is not None else None,
        obstacle=target.obstacle,
        licence=card.licence,
        base_models=card.base_models,
        card=card.problem,
    )


def run_tasks(planned: Tasks, target: Target, job: Job, emit: Callable[[Answer], None]) -> None:
    """Run one detector after another; each sees what those before it looked at."""
    target = replace(target, looked_at={item.path: item for item in planned.looked_at}, lost=frozenset(planned.lost))
    purse = planned.purse
    for task in planned.tasks:
        began = time.monotonic()
        target = run_task(task, target, job, emit, purse.seconds(task))
        purse.spend(task, time.monotonic() - began)


def run_task(task: Task, target: Target, job: Job, emit: Callable[[Answer], None], seconds: float) -> Target:
    """Run one detector for so many ``seconds``; every way it can end becomes an answer, findings already sent stay sent.

    Returns the target as the next one sees it.
    """
    emit(Started(task.detector))
    seen = dict(target.looked_at)

    def looked(at: LookedAt) -> None:
        seen[at.path] = at
        emit(Looked(task.detector, at))

    context = ScanContext(
        detector=task.detector,
        seed=job.seed,
        deadline=time.monotonic() + seconds,
        threads=job.limits.threads,
        memory_limit=job.limits.memory,
        folder=job.model.cwd,
        on_progress=_throttled(emit, task.detector),
        on_looked_at=looked,
    )
    problems: list[str] = []
    status, reason = Status.COMPLETED, ""
    try:
        detector = configure(resolve(task.ref), task.options)
        for finding in detector.detect(_announced(target, task.detector, emit), context):
            sayable, problem = _sayable(finding)
            emit(Found(task.detector, sayable))
            if problem:
                problems.append(problem)
    except Skip as skip:
        status, reason = Status.SKIPPED, str(skip)
    except DeadlineExceeded as late:
        short = f": {late}" if str(late) else ""
        remedy = "--timeout" if seconds == task.timeout else "--budget"
        status, reason = Status.TIMED_OUT, f"not finished after {seconds:.3g} s{short}; raise {remedy}"
    except MemoryError:
        status, reason = Status.ERRORED, "needs more memory than the limit; raise --memory"
    except ModelguardError as error:
        status, reason = Status.ERRORED, str(error)
    except Exception as error:
        status, reason = Status.ERRORED, _blame(error)
    summary, problem = _summary(context)
    if status is Status.COMPLETED:
        if problems:
            status = Status.ERRORED
            reason = f"{problems[0]}, which JSON cannot carry ({len(problems)} such findings); a detector's evidence must be finite"
        elif problem:
            status, reason = Status.ERRORED, problem
    emit(Ended(task.detector, status, reason, summary, _model(target)))
    return replace(target, looked_at=seen)


def _sayable(finding: Finding) -> tuple[Finding, str]:
    """The finding with evidence that JSON can carry, and what was wrong with it ('' when nothing)."""
    try:
        return replace(finding, evidence=json_safe(finding.evidence, "evidence")), ""
    except NotJsonSafe as error:
        return replace(finding, evidence=finite(finding.evidence)), str(error)


def _announced(target: Target, detector: str, emit: Callable[[Answer], None]) -> Target:
    """``target``, whose model is built between two answers: a parent that sees no second one does not have it built again."""
    if (build := target.build_model) is None:
        return target

    def announced() -> RunnableModel:
        emit(Building(detector))
        try:
            built = build()
        except Exception:  # kept by the target, and raised again for the next detector; anything else ends the worker
            emit(Built(detector))
            raise
        emit(Built(detector))
        return built

    return replace(target, build_model=announced)  # it shares the cache of what was built


def _model(target: Target) -> Any:
    """What the model that detectors used says of itself; its failure to describe itself costs no outcome."""
    built = target.built_model
    try:
        return None if built is None else finite(built.describe())
    except Exception as error:
        return {"error": _blame(error)}


def _summary(context: ScanContext) -> tuple[dict[str, Any], str]:
    raw = context._summary
    try:
        summary = json_safe(raw, "summary")
    except NotJsonSafe as error:
        return finite(raw), f"{error}, which JSON cannot carry; a detector's summary must be finite"
    if not isinstance(summary.get("score"), int | float):
        return summary, "the summary has no numeric `score`; every detector must give one"
    return summary, ""


def _throttled(emit: Callable[[Answer], None], detector: str) -> Callable[[int, int, str], None]:
    last = 0.0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS or done >= total:
            last = now
            emit(Progressed(detector, int(done), int(total), str(note)[:MAX_NOTE]))

    return progress


def _blame(error: Exception) -> str:
    """Exception and the innermost frame, without a path that would make the report machine-dependent."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    text = without_paths(str(error)).strip().splitlines()
    return f"{type(error).__name__}{place}" + (f": {text[0][:300]}" if text else "")


if __name__ == "__main__":
    sys.exit(main())
