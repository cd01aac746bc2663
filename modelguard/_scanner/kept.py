"""What detectors said of the very same bytes in an earlier scan, in the place of asking them again.

An entry is what the worker answered about one detector, line for line, and is believed no more than a worker is. Its name is a digest of
all that decides what a detector says: the bytes (of artifact, reference and samples), what the artifact is called, the detector with
its options, the seed, how a model is run and on what kind of device, and the code: of the detector, of what reads formats and builds
models, and of the libraries under them. Left out is what decides only whether a detector comes to its end: time limits, budget, memory,
threads. One that did not (errored, timed-out) is not kept, so time and memory that were short once are not short for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modelguard._plugins import Registry
from modelguard._scanner.plain import to_plain
from modelguard._scanner.protocol import Answer, Answers, BadAnswer, Ended, Facts, Found, Job, Looked, Task, encode
from modelguard._scanner.run import Scan
from modelguard.artifact import Artifact
from modelguard.detector import Detector
from modelguard.errors import ModelguardError, PluginError, without_paths
from modelguard.model import ModelOptions
from modelguard.report import CORE, Outcome, Status

if TYPE_CHECKING:
    from modelguard._cache.store import Store

FACTS = "opened"
"""The kind of an entry that says what was seen when the artifact was opened."""
_LAYOUT = 1
_KEPT = frozenset({Status.COMPLETED, Status.SKIPPED})


class Kept:
    """The part of the cache that is about one job. A context manager.

    ``problem`` says why the cache could not be used, in the words of an error; empty while it could, and where nobody wants it.
    """

    def __init__(self, wanted: bool, registry: Registry, job: Job) -> None:
        self.problem = ""
        self._registry = registry
        self._store: Store | None = None
        self._names: dict[str, str] = {}
        self._tasks: Sequence[Task] = ()
        self._readers = {CORE, *(owner for (kind, _), owner in registry.owners.items() if kind in ("formats", "models"))}
        if not wanted or (bytes_ := _bytes(job)) is None:
            return
        self._base = {"layout": _LAYOUT, "bytes": bytes_, "seed": job.seed, "model": _model(job.model)}
        self._open()

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._store is not None:
            self._store.close()

    def _open(self) -> None:
        from modelguard._cache.store import CacheError, Store, folder

        if (place := folder()) is not None:
            try:
                self._store = Store(place)
            except CacheError as error:
                self.problem = without_paths(str(error))

    def facts(self) -> Facts | None:
        """What a worker saw when it opened these bytes."""
        match self._said([self._name(FACTS, self._readers)]):
            case [[Facts() as facts]]:
                return facts
        return None

    def outcomes(self, tasks: Sequence[Task], detectors: Mapping[str, type[Detector]], running: Scan) -> list[Outcome]:
        """The outcomes that are known. The tasks are those of the whole scan, in order.

        Who runs last is asked again where one that it waits for is; and so are all searches where one of them is, because they ask each
        other for what they found, and would make it again.
        """
        self._tasks = tasks
        self._names = self._named(tasks, detectors)
        found: dict[str, Outcome] = {}
        said = dict(zip(self._names, self._said(self._names.values()), strict=True))
        usable = {name for name, answers in said.items() if answers}
        searches = {task.detector for task in tasks if task.searches}
        for _ in range(2):  # a search that is asked again is waited for
            usable -= {task.detector for task in tasks if not usable.issuperset(_awaited(task, tasks))}
            usable -= set() if usable >= searches else searches
        for task in tasks:
            if task.detector in usable and (outcome := running.recall(detectors[task.detector], said[task.detector])) is not None:
                found[task.detector] = outcome
        return list(found.values())

    def keep(self, facts: Facts, new: Iterable[Outcome], known: Iterable[Outcome], running: Scan) -> None:
        """Keep what was seen and said of bytes that did not change meanwhile, as far as it was said to the end."""
        if self._store is None or running.full:
            return
        tasks = {task.detector: task for task in self._tasks}
        ended = {outcome.detector for outcome in (*new, *known) if outcome.status in _KEPT}
        entries = {self._name(FACTS, self._readers): (FACTS, encode(facts))}
        for outcome in new:
            detector = outcome.detector
            if detector in self._names and ended.issuperset({detector, *_awaited(tasks[detector], self._tasks)}):
                entries[self._names[detector]] = (detector, _lines(outcome, running))
        with self._trouble():
            self._store.put(entries)

    def _said(self, names: Iterable[str]) -> list[list[Answer]]:
        """The answers in each entry, none for one that is not there or cannot be believed."""
        names = list(names)
        found: Mapping[str, bytes] = {}
        if self._store is not None:
            with self._trouble():
                found = self._store.get(names)
        return [_answers(found.get(name, b"")) for name in names]

    @contextlib.contextmanager
    def _trouble(self) -> Any:
        try:
            yield
        except ModelguardError as error:
            self.problem = without_paths(str(error))
            if self._store is not None:
                self._store.close()
            self._store = None

    def _named(self, tasks: Sequence[Task], detectors: Mapping[str, type[Detector]]) -> dict[str, str]:
        """The names of entries by detector, for those that may have one."""
        if self._store is None:
            return {}
        names: dict[str, str] = {}
        for task in sorted(tasks, key=lambda item: item.last):
            cls = detectors[task.detector]
            owner = self._registry.owners.get(("detectors", task.detector))
            if owner is None or self._registry.detectors[task.detector] is not cls or (task.options and not cls.keeps_with_options):
                continue
            others: list[str] = []
            if task.last:
                before = _awaited(task, tasks)
                if any(name not in names for name in before):
                    continue
                others = sorted(names[name] for name in before)
            what = {"ref": task.ref, "options": dict(task.options), "after": others}
            names[task.detector] = self._name(task.detector, {owner, *self._readers}, **what)
        return names

    def _name(self, kind: str, owners: Iterable[str], **what: Any) -> str:
        if self._store is None:
            return ""
        from modelguard._cache.code import code, machine

        whole = {**self._base, "kind": kind, "code": [*machine(), *code(frozenset(owners))], **what}
        return hashlib.sha256(json.dumps(to_plain(whole), sort_keys=True).encode()).hexdigest()


def _awaited(task: Task, tasks: Iterable[Task]) -> list[str]:
    """The detectors that ``task`` says something of: a search that runs last judges searches, what else runs last is told by all."""
    return [item.detector for item in tasks if task.last and not item.last and (item.searches or not task.searches)]


def _lines(outcome: Outcome, running: Scan) -> bytes:
    said = running.said[outcome.detector]
    answers: list[Answer] = [Found(outcome.detector, finding) for finding in outcome.findings]
    answers += [Looked(outcome.detector, at) for at in said.looked_at.values()]
    answers.append(Ended(outcome.detector, outcome.status, outcome.reason, outcome.summary, said.model))
    return b"".join(map(encode, answers))


def _answers(body: bytes) -> list[Answer]:
    answers, read = [], Answers()
    try:
        read.feed(body)
        while (answer := read.next()) is not None:
            answers.append(answer)
    except (BadAnswer, PluginError):
        return []
    return answers


def _bytes(job: Job) -> dict[str, Any] | None:
    """What is looked at, by its digests; None where there is not one for everything."""
    if job.model.factory is not None:  # the user's own code, which no digest stands for
        return None
    parts: dict[str, Any] = {}
    for name, artifact in (("target", job.artifact), ("reference", job.reference)):
        if artifact is not None and any(file.sha256 is None for file in artifact.files):
            return None
        parts[name] = None if artifact is None else _artifact(artifact)
    if job.samples is not None:
        from modelguard._inputs.samples import samples_sha256

        try:
            parts["samples"] = [job.samples.name, samples_sha256(job.samples)]
        except (ModelguardError, OSError):
            return None
    return parts


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "called": [artifact.uri, artifact.identity, artifact.revision],
        "files": [[file.path, file.size, file.sha256] for file in artifact.files],
        "unfetched": to_plain(artifact.unfetched),
        "left_out": to_plain(artifact.left_out),
    }


def _model(options: ModelOptions) -> Any:
    return [to_plain(replace(options, threads=None, cwd=None)), _devices(options.device)]


def _devices(wanted: str) -> list[str]:
    """The kinds of devices that a model may run on here; the driver's own words, because only the worker imports what would ask it."""
    if wanted == "cpu":
        return []
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            found += [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("Model:")]
    return [*found, f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}"] if found else []
