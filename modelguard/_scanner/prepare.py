"""From what somebody asks of a scan to what the scanner runs: everything is checked here, before anything is fetched or opened."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from modelguard._inputs.output import POOLS
from modelguard._options import check_options, options_of
from modelguard._plugins import Registry, check_prefixes, check_rule_ids, load
from modelguard._policies.model import seconds as duration
from modelguard._scanner.protocol import Limits
from modelguard._scanner.run import Progress
from modelguard._scanner.scan import DEFAULT_TIMEOUT, Described, Request, describe, scan
from modelguard._sources import refuse_missing
from modelguard.artifact import SourceContext
from modelguard.detector import Detector
from modelguard.errors import UsageError
from modelguard.model import ModelOptions
from modelguard.policy import Policy, load_policy
from modelguard.report import Report

StrPath = str | os.PathLike[str]

MEMORY_SHARE = 0.75
"""Share of the machine's memory a worker may hold unless the user says otherwise."""
MIN_MEMORY = 1 << 28
MAX_THREADS = 1024
MAX_IDENTITY = 200
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How detectors run: seed of every random choice, seconds each may take, memory and threads of the worker, whether offline, and
    whether what they said of the very same bytes before is taken, and what they say is kept.

    ``memory`` is in bytes or a size such as ``8G``; ``none`` lifts the limit, None means three quarters of the machine's. ``threads``
    None means all cores.
    """

    seed: int = 0
    timeout: float = DEFAULT_TIMEOUT
    memory: int | str | None = None
    threads: int | None = None
    offline: bool = False
    cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanArguments:
    """What somebody asks of a scan, in their words. :func:`prepare` checks it.

    ``detectors`` are ids or classes, None for every one installed; ``options`` are by detector id and name; ``without`` names plugins
    that are not loaded. ``budget`` is in seconds, or a duration such as ``5m``; the policy's where it is None. ``identity``, ``by_range``
    and ``digest`` are what :class:`Request` and :class:`SourceContext` say of them. ``baseline`` is an earlier
    report that the scan will be judged against.
    """

    target: StrPath
    reference: StrPath | None = None
    samples: StrPath | None = None
    policy: Policy | StrPath | None = None
    detectors: tuple[str | type[Detector], ...] | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quick: bool = False
    budget: float | str | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    run: RunOptions = field(default_factory=RunOptions)
    without: tuple[str, ...] = ()
    identity: str | None = None
    baseline: Report | None = None
    by_range: bool = False
    digest: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scan that only has to be run. ``policy`` requires the detectors that were named, where any were.

    ``alone`` are those, where the policy as written requires others too.
    """

    request: Request
    registry: Registry
    policy: Policy
    alone: tuple[str, ...] = ()

    def scan(self, progress: Progress) -> Report:
        """Fetch, open, plan, run."""
        return scan(self.request, self.registry, replace(self.policy.info, alone=self.alone), progress)

    def describe(self, progress: Progress) -> Described:
        """Fetch, open and plan. Raises :class:`~modelguard.errors.ModelguardError`."""
        return describe(self.request, self.registry, progress)


def prepare(asked: ScanArguments) -> Prepared:
    """Check everything that was asked. Raises :class:`UsageError` or :class:`~modelguard.errors.PluginError`, naming what is wrong."""
    policy = asked.policy if isinstance(asked.policy, Policy) else load_policy(asked.policy)
    if asked.baseline is not None:
        policy.check_baseline(asked.baseline)
    registry = load(disabled=asked.without, allows=policy.allows_plugin, declared=True)
    policy.check(registry.rules(), registry.detectors)
    chosen = _chosen(asked, policy, registry)
    alone: tuple[str, ...] = ()
    if asked.detectors is not None:
        named = tuple(detector.id for detector in chosen)
        if set(policy.required_for(reference=asked.reference is not None, samples=asked.samples is not None)) - set(named):
            alone = named
        policy = policy.requiring(named)
    run, threads = asked.run, _threads(asked.run.threads)
    request = Request(
        target=os.fspath(asked.target),
        detectors=chosen,
        reference=None if asked.reference is None else os.fspath(asked.reference),
        samples=_samples(asked.samples),
        model=_model(asked.model, run.threads),
        options=_options(asked, policy, chosen, registry),
        timeouts={name: float(seconds) for name, seconds in policy.detectors.timeouts.items()},
        timeout=_timeout(run.timeout),
        budget=_budget(asked.budget, policy),
        seed=_seed(run.seed),
        limits=Limits(memory=bytes_of(run.memory), threads=threads),
        source=SourceContext(offline=run.offline, digest=asked.digest),
        sys_path=tuple(sorted({folder for detector in chosen if (folder := _folder(detector, registry))})),
        quick=asked.quick,
        identity=_identity(asked.identity),
        baseline=asked.baseline,
        by_range=asked.by_range,
        cache=run.cache,
    )
    for place in filter(None, (request.target, request.reference)):
        refuse_missing(place)
    return Prepared(request, registry, policy, alone)


def _chosen(asked: ScanArguments, policy: Policy, registry: Registry) -> tuple[type[Detector], ...]:
    """The classes named, by id, or all that are installed but those that run on request only and that nobody requests."""
    names = asked.detectors
    if names is None:
        required = policy.required_for(reference=asked.reference is not None, samples=asked.samples is not None)
        requested = {*required, *policy.detectors.options, *asked.options}
        return tuple(item for name, item in registry.detectors.items() if not item.on_request or name in requested)
    found: dict[str, type[Detector]] = {}
    for name in names:
        detector = _registered(name, registry) if isinstance(name, str) else name
        if found.setdefault(detector.id, detector) is not detector or registry.detectors.get(detector.id, detector) is not detector:
            raise UsageError(f"detector {detector.id}", "another class has this id", "give the class an id of its own")
    if not found:
        raise UsageError("detectors", "names none, so nothing would be looked at", "leave it out to run all, or name one")
    own = [detector for name, detector in found.items() if name not in registry.detectors]
    for detector in own:
        check_rule_ids(detector)
    owned = [(registry.owners["detectors", name], detector) for name, detector in registry.detectors.items()]
    check_prefixes([*owned, *((_package(detector), detector) for detector in own)])
    return tuple(found[name] for name in sorted(found))


def _registered(name: str, registry: Registry) -> type[Detector]:
    if name in registry.detectors:
        return registry.detectors[name]
    from difflib import get_close_matches

    near = get_close_matches(name, registry.detectors, n=1)
    failed = [failure for failure in registry.failures if name in (failure.name, failure.distribution)]
    cause = f"its plugin failed to load ({failed[0].reason})" if failed else "there is no such detector"
    raise UsageError(f"detector {name}", cause, f"did you mean {near[0]}?" if near else "`modelguard plugins list` shows those installed")


def _package(detector: type[Detector]) -> str:
    return detector.__module__.partition(".")[0]


def _folder(detector: type[Detector], registry: Registry) -> str | None:
    """The folder a worker finds a class in that no plugin registers; None for one that is installed.

    Raises :class:`UsageError` for a class that no other process can import.
    """
    if detector.id in registry.detectors or _package(detector) == __name__.partition(".")[0]:
        return None
    module = sys.modules.get(_package(detector))
    file = getattr(module, "__file__", None)
    if detector.__module__ == "__main__" or "<locals>" in detector.__qualname__ or file is None:
        place = f"is defined in {detector.__module__}:{detector.__qualname__}"
        raise UsageError(f"detector {detector.id}", f"{place}, and the isolated worker cannot import that", "put the class into a module")
    path = Path(file).absolute()
    return str(path.parent.parent if hasattr(module, "__path__") else path.parent)


def _options(asked: ScanArguments, policy: Policy, chosen: Iterable[type[Detector]], registry: Registry) -> dict[str, dict[str, Any]]:
    """The options set on each detector: by policy, then ``quick``, then by the user, each over the one before."""
    detectors = {**registry.detectors, **{detector.id: detector for detector in chosen}}
    values = {name: dict(item) for name, item in policy.detectors.options.items() if name in detectors}
    if policy.provenance.signature is not None:
        values.setdefault("signature", {}).update(policy.provenance.signature)
    if asked.quick:
        for detector in chosen:
            if detector.when_quick == "shorter":
                values.setdefault(detector.id, {})["quick"] = True
    for name, item in asked.options.items():
        if name not in detectors:
            raise UsageError(f"options of {name}", "there is no such detector", "`modelguard plugins list` shows those installed")
        values.setdefault(name, {}).update(item)
    for name, item in values.items():
        values[name] = check_options(name, options_of(detectors[name]), item)
    return values


def _identity(name: str | None) -> str | None:
    if name is not None and not (0 < len(name) <= MAX_IDENTITY and name.isprintable() and name.strip() == name):
        raise UsageError("identity", f"must be 1 to {MAX_IDENTITY} visible characters", "write for example acme/classifier")
    return name


def _samples(path: StrPath | None) -> Path | None:
    if path is None:
        return None
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        cause = "does not exist" if missing else f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise UsageError(f"samples {os.fspath(path)}", cause, "check the path") from error
    return Path(path).absolute()


def _model(options: ModelOptions, threads: int | None) -> ModelOptions:
    """A factory is looked up from the working directory. What is wrong whatever the model is would be the detectors' failure to look."""
    if options.input is not None:
        from modelguard._inputs.hints import InputHints

        InputHints.from_option(options.input)
    if options.output is not None:
        name, comma, pool = options.output.partition(",")
        if not name or (comma and pool not in POOLS):
            raise UsageError(f"--model-output {options.output}", "is not NAME[,POOL]", f"POOL is one of {', '.join(POOLS)}")
    if options.factory is not None:
        module, colon, function = options.factory.partition(":")
        if not (colon and all(module.split(".")) and all(part.isidentifier() for part in function.split("."))):
            raise UsageError(f"model {options.factory}", "is not module:factory", "write for example mypackage.models:resnet")
    hints = get_type_hints(ModelOptions)
    for name in ("device", "precision"):
        if getattr(options, name) not in get_args(hints[name]):
            raise UsageError(f"{name} {getattr(options, name)}", "is not known", f"write one of {', '.join(get_args(hints[name]))}")
    return replace(options, threads=threads, cwd=Path.cwd())


def _timeout(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"timeout {seconds:g}", "must be a finite number of seconds above 0", "write for example 86400")
    return float(seconds)


def _budget(budget: float | str | None, policy: Policy) -> float | None:
    """In seconds: what was asked, else what the policy says."""
    if budget is None:
        return None if policy.detectors.budget is None else float(policy.detectors.budget)
    try:
        seconds = float(duration(budget)) if isinstance(budget, str) else float(budget)
    except ValueError:
        seconds = 0.0
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"budget {budget}", "is no length of time above 0", "write for example 90s, 5m or 2h")
    return seconds


def _seed(seed: int) -> int:
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed}", "must be from 0 to 2^63 - 1", "choose another")
    return seed


def _threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads {threads}", f"must be from 1 to {MAX_THREADS}", "leave it out to use all cores")
    return threads


def bytes_of(size: int | str | None) -> int | None:
    """Bytes from ``8G``, ``512M``, plain bytes or ``none``; the default is a share of what the machine has."""
    if size is None:
        try:
            return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
        except (ValueError, OSError, AttributeError):
            return None
    text = str(size)
    if text.lower() == "none":
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    try:
        count = int(float(number) * (1 << _UNITS.get(unit, 0)))
    except (ValueError, OverflowError):
        count = 0
    if count < MIN_MEMORY:
        raise UsageError(f"memory {text}", "must be a size of at least 256M", "write for example 8G, or none")
    return count
