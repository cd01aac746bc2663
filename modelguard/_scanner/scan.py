"""One scan, from a resolved target to a report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import modelguard
from modelguard._plugins import Registry
from modelguard._policies.compare import check_same
from modelguard._scanner.budget import clipped
from modelguard._scanner.kept import Kept
from modelguard._scanner.plan import Step, make_plan
from modelguard._scanner.protocol import Facts, Job, Limits, Task, reference_to
from modelguard._scanner.run import Progress, Scan
from modelguard.artifact import Artifact, Source, SourceContext
from modelguard.detector import Detector, LookedAt
from modelguard.display import Chart, Measure, keys
from modelguard.errors import ArtifactError, ModelguardError, UsageError
from modelguard.findings import Rule, Severity
from modelguard.model import ModelOptions
from modelguard.report import CHECKPOINT, FileInfo, Outcome, PolicyInfo, Report, Status, TargetInfo

DEFAULT_TIMEOUT = 900.0
"""Seconds one detector may run unless policy or ``--timeout`` says otherwise."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be scanned, and how. ``detectors`` are the classes to consider; ``options`` and ``timeouts`` are by detector id."""

    target: str
    detectors: tuple[type[Detector], ...]
    reference: str | None = None
    samples: Path | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timeouts: Mapping[str, float] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    budget: float | None = None
    """Seconds that all searches may take together."""
    seed: int = 0
    limits: Limits = field(default_factory=lambda: Limits(memory=None, threads=1))
    source: SourceContext = field(default_factory=SourceContext)
    sys_path: tuple[str, ...] = ()
    quick: bool = False
    """Leave out the detectors whose ``when_quick`` is ``skipped``."""
    identity: str | None = None
    """What the model is called in fingerprints, instead of what its source calls it."""
    baseline: Report | None = None
    """An earlier report, which must be about the same artifact."""
    by_range: bool = False
    """Read of two artifacts only what may differ, where their source can. What comes of it can be compared, and used for nothing else."""
    origin: Source | None = None
    """Where the target comes from, instead of the source that its URI names."""
    cache: bool = False
    """Take what detectors said of the very same bytes before, and keep what they say now."""


@dataclass(frozen=True, slots=True)
class Described:
    """An artifact that has been fetched and opened, and the plan made for it. ``failure`` is what a scan would end with, if anything."""

    artifact: Artifact
    reference: Artifact | None
    facts: Facts
    steps: tuple[Step, ...]
    failure: str = ""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while detectors ran. ``report`` has what they had found until then, and no verdict can be a pass."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def scan(request: Request, registry: Registry, policy: PolicyInfo, progress: Progress) -> Report:
    """Fetch, open, plan, run. Never raises for what is wrong with the artifact: the report's ``failure`` says it.

    Raises :class:`UsageError` for what is wrong with the request, and :class:`Interrupted` for Ctrl-C while detectors ran.
    """
    began = time.monotonic()
    artifact = reference = None
    facts = Facts()
    outcomes: list[Outcome] = []
    seconds: dict[str, float] = {}
    model: Mapping[str, Any] | None = None
    looked_at: Mapping[str, LookedAt] = {}
    known: list[Outcome] = []
    unkept = ""
    failure = itself = interrupted = ""
    try:
        with brought(request, registry, progress) as (artifact, reference):
            job = _job(request, registry, artifact, reference)
            with Kept(request.cache and not request.by_range, registry, job) as kept, Scan(job, progress) as running:
                if request.baseline is not None:
                    check_same(request.baseline, request.identity or artifact.identity)
                # What is only compared is vouched for by nothing, so a comparison with itself says what it seems to say.
                itself = _same_place(artifact, reference) if reference is not None and not request.by_range else ""
                facts = kept.facts() or running.describe(request.timeout)
                steps = _plan(request, registry, facts)
                outcomes = [Outcome(step.detector, Status.SKIPPED, step.reason) for step in steps if not step.runnable]
                detectors = {item.id: item for item in request.detectors}
                tasks = _tasks(request, [detectors[step.detector] for step in steps if step.runnable])
                order = [task.detector for task in tasks]
                known = kept.outcomes(tasks, detectors, running)
                done = {outcome.detector for outcome in known}
                new = running.run([task for task in tasks if task.detector not in done], detectors, request.budget)
                outcomes += [*known, *new]
                seconds, interrupted = running.seconds, running.interrupted
                model, looked_at = running.model(order), running.looked_at(order)
                changed = _changed(artifact) or (_changed(reference) if reference else "")
                if new and not changed:
                    kept.keep(facts, new, known, running)
                unkept = kept.problem
        failure = changed or _nothing_scannable(artifact, reference, facts, models=any(item.format for item in looked_at.values()))
    except UsageError:
        raise
    except ModelguardError as error:
        failure = str(error)
    if interrupted:
        failure = f"the scan was interrupted (Ctrl-C) while {interrupted} ran; {failure or 'the report has what was found until then'}"
    report = Report(
        tool_version=modelguard.__version__,
        target=_info(request.target, artifact, facts, looked_at, request.identity),
        reference=_info(request.reference, reference, facts.reference or Facts(), {}) if request.reference is not None else None,
        samples=facts.samples,
        policy=policy,
        plugins=registry.plugins,
        plugin_failures=registry.failures,
        seed=request.seed,
        outcomes=tuple(outcomes),
        rules=_rules(request.detectors),
        shows=_shows(request.detectors, outcomes),
        options={item.id: _told(request.options[item.id]) for item in request.detectors if request.options.get(item.id)},
        model=model,
        failure=clipped(failure),
        self_reference=itself,
        confinement=facts.confinement,
        timings=_timings(seconds, time.monotonic() - began, known, unkept),
    )
    if interrupted:
        raise Interrupted(report)
    return report


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a report has them: of a path its last part, because a report holds none of the machine it was made on."""
    return {
        name: Path(value).name if isinstance(value, str) and "\n" not in value and Path(value).is_absolute() else value
        for name, value in options.items()
    }


def _timings(seconds: Mapping[str, float], total: float, known: Iterable[Outcome], unkept: str) -> dict[str, Any]:
    """How long it took, and what took no time because it was known: the only part that differs from scan to scan of the same bytes."""
    cached = sorted(outcome.detector for outcome in known)
    said = {"cached": cached} if cached else {}
    return {"detectors": dict(sorted(seconds.items())), "total": round(total, 3), **said, **({"cache": unkept} if unkept else {})}


def describe(request: Request, registry: Registry, progress: Progress) -> Described:
    """Fetch, open and plan, and stop there. Raises :class:`ModelguardError`."""
    with (
        brought(request, registry, progress) as (artifact, reference),
        Scan(_job(request, registry, artifact, reference), progress) as running,
    ):
        facts = running.describe(request.timeout)
    return Described(artifact, reference, facts, _plan(request, registry, facts), _nothing_scannable(artifact, reference, facts))


@contextmanager
def brought(request: Request, registry: Registry, progress: Progress) -> Iterator[tuple[Artifact, Artifact | None]]:
    """Target and reference, there for as long as the context lasts. Raises :class:`~modelguard.errors.SourceError`."""
    source, target = (request.origin, request.target) if request.origin is not None else _source(request.target, registry)
    endings = {ending for item in registry.formats.values() for ending in item.extensions}
    extensions = tuple(sorted(endings.union(*(item.fetches for item in request.detectors))))
    context = replace(request.source, extensions=extensions, progress=progress.reading)
    if request.reference is None:
        yield source.fetch(target, context), None
        return
    other, reference = _source(request.reference, registry)
    pair = source.pair(reference, target, context) if request.by_range and other.scheme == source.scheme else None
    if pair is None:
        yield source.fetch(target, context), other.fetch(reference, context)
    else:
        with pair as (old, new):
            yield new, old


def _source(uri: str, registry: Registry) -> tuple[Source, str]:
    from modelguard._sources import resolve_source

    return resolve_source(uri, registry.sources.values())


def _job(request: Request, registry: Registry, artifact: Artifact, reference: Artifact | None) -> Job:
    return Job(
        artifact=replace(artifact, identity=request.identity or artifact.identity),
        reference=reference,
        samples=request.samples,
        model=request.model,
        formats=tuple(reference_to(item) for item in registry.formats.values()),
        models=tuple(reference_to(item) for item in registry.models.values()),
        seed=request.seed,
        limits=request.limits,
        sys_path=request.sys_path,
    )


def _plan(request: Request, registry: Registry, facts: Facts) -> tuple[Step, ...]:
    return make_plan(
        request.detectors, frozenset(facts.capabilities), runs_models=bool(registry.models), quick=request.quick, obstacle=facts.obstacle
    )


def _tasks(request: Request, detectors: Iterable[type[Detector]]) -> list[Task]:
    """In the order they run: the cheapest first, so that a search that there is time for never waits for one that there is not; and last
    those that wait for the others."""
    return [
        Task(
            cls.id,
            reference_to(cls),
            dict(request.options.get(cls.id, {})),
            request.timeouts.get(cls.id, request.timeout),
            searches=cls.cost > 0,
            hints=all(rule.severity <= Severity.LOW for rule in cls.rules),
            last=cls.runs_last,
        )
        for cls in sorted(detectors, key=lambda item: (item.runs_last, item.cost, item.id))
    ]


def _rules(detectors: Iterable[type[Detector]]) -> tuple[Rule, ...]:
    return tuple(sorted({rule.id: rule for detector in detectors for rule in detector.rules}.values(), key=lambda rule: rule.id))


def _shows(detectors: Iterable[type[Detector]], outcomes: Iterable[Outcome]) -> dict[str, tuple[Measure | Chart, ...]]:
    """How what was measured is shown, as far as something was."""
    given = {
        outcome.detector: keys(outcome.summary, *(finding.evidence for finding in outcome.findings))
        | {item.name for finding in outcome.findings for item in finding.attachments}
        for outcome in outcomes
    }
    shown = {cls.id: tuple(item for item in cls.shows if item.key in given.get(cls.id, ())) for cls in detectors}
    return {detector: items for detector, items in sorted(shown.items()) if items}


def _info(uri: str, artifact: Artifact | None, facts: Facts, looked_at: Mapping[str, LookedAt], identity: str | None = None) -> TargetInfo:
    if artifact is None:
        name = uri if "://" in uri else Path(uri).name if Path(uri).is_absolute() else uri
        return TargetInfo(name, "", None, (), ())
    unread = frozenset(facts.unread)
    what = {file.path: CHECKPOINT for file in artifact.files if file.path not in unread}
    what |= {path: "" if item.missed else item.what for path, item in looked_at.items()}
    return TargetInfo(
        uri=artifact.uri,
        identity=identity or artifact.identity,
        revision=artifact.revision,
        format=tuple({*facts.formats, *(item.format for item in looked_at.values() if item.format)}),
        files=tuple(FileInfo(file.path, file.size, file.sha256, what.get(file.path, "")) for file in artifact.files),
        unread=tuple(
            sorted({*(file.path for file in artifact.files if not what.get(file.path)), *(file.path for file in artifact.unfetched)})
        ),
        notes=artifact.notes,
        left_out=artifact.left_out,
        licence=facts.licence,
        base_models=facts.base_models,
        card=facts.card,
    )


def _same_place(artifact: Artifact, reference: Artifact) -> str:
    """Why the reference is the artifact itself, however the two were named; empty when it is not.

    Equal bytes in another place are what a comparison is for. Two commits of one repository share blobs of a cache and are two artifacts.
    """
    if artifact.revision is not None and reference.revision is not None:
        same = (artifact.identity, artifact.revision) == (reference.identity, reference.revision)
        return f"both are commit {artifact.revision}" if same else ""
    places = {(file.stamp.device, file.stamp.inode) for file in reference.files if file.stamp is not None}
    shared = [file.path for file in artifact.files if file.stamp is not None and (file.stamp.device, file.stamp.inode) in places]
    return f"{shared[0]} is the same file in both" if shared else ""


def _changed(artifact: Artifact) -> str:
    """What to say when a file is no longer the one that was hashed; the findings may be about other bytes."""
    for file in artifact.files:
        try:
            file.check()
        except ArtifactError as error:
            return str(error)
    return ""


def _nothing_scannable(artifact: Artifact, reference: Artifact | None, facts: Facts, *, models: bool = False) -> str:
    """What to say of an artifact, or reference, without a checkpoint. ``models``: a detector has read a model all the same."""
    for uri, needed, seen in (
        (artifact.uri, not models, facts),
        (reference.uri if reference else "", reference is not None, facts.reference or Facts()),
    ):
        if needed and not seen.formats:
            cause = f"holds nothing that can be scanned ({seen.problems[0]})" if seen.problems else "holds nothing that can be scanned"
            return f"{uri}: {cause}; point at a safetensors or ONNX file, a folder with one, or hf://org/name"
    return ""
