"""Detectors: what they need, what they get, what they may say.

Whoever reads this file alone can write a detector::

    @dataclass(frozen=True)
    class NonFinite(Detector):
        id = "non-finite"
        requires = frozenset({Capability.WEIGHTS})
        rules = (Rule("ACME-0001", "NonFiniteWeights", "weights that are NaN or infinite", Severity.MEDIUM, "...", "..."),)

        limit: int = option(0, "how many non-finite values are tolerated", ge=0)

        def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
            worst = 0
            for done, (checkpoint, tensor) in enumerate(target.walk()):
                context.check_deadline()
                ...
                if bad > self.limit:
                    yield Finding("ACME-0001", f"{bad} values of {tensor.name} are not finite", location=Location(tensor.file, tensor.name))
            context.summary(score=float(worst))
"""

from __future__ import annotations

import dataclasses
import time
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from modelguard._options import check_options, options_of
from modelguard.artifact import Artifact, ArtifactFile
from modelguard.checkpoint import Checkpoint, FormatProblem, TensorInfo
from modelguard.display import Chart, Measure
from modelguard.findings import Finding, Rule

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from modelguard.model import RunnableModel, Samples

T = TypeVar("T")


class Capability(str, Enum):
    """What a target provides and a detector requires."""

    FILES = "files"
    WEIGHTS = "weights"
    REFERENCE = "reference"
    FORWARD = "forward"
    GRADIENTS = "gradients"
    SAMPLES = "samples"


class Skip(Exception):
    """Raised by a detector, or by building the model, to say why it cannot look. The outcome is ``skipped``, never a pass."""


class DeadlineExceeded(Exception):
    """Raised by :meth:`ScanContext.check_deadline`; the outcome is ``timed-out`` and keeps the findings made so far.

    A detector that ends itself with what it has by then raises it with words that say what there was no time for.
    """


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A file of the artifact that a detector has read; ``what`` completes the sentence "the file is ...".

    ``format`` is the id of a format that holds weights or a whole model, for a file that is one: reports list it, and a policy's
    ``sources.formats`` judges it, as they do the formats of checkpoints.
    ``missed`` says, in words that stand alone, what in it could not be read and why; empty when it was read to its end.
    """

    path: str
    what: str
    format: str = ""
    missed: str = ""


@dataclass(frozen=True)
class Target:
    """What is being scanned, and everything a detector may use to look at it.

    ``checkpoints`` has one entry per checkpoint of the artifact (shards count as one). ``problems`` is what opening them found
    wrong; ``unread`` lists the files no format recognised, and ``looked_at`` those that detectors have read all the same
    (:meth:`ScanContext.looked_at`). ``reference`` is the trusted counterpart, a target of its own.
    ``build_model`` is called at most once, by :attr:`model`; ``obstacle`` says why the model plainly cannot be built, "" where nothing
    speaks against it. ``lost`` are the detectors whose worker died or was stopped in this scan, for one that would ask them again.
    """

    artifact: Artifact
    checkpoints: tuple[Checkpoint, ...] = ()
    problems: tuple[FormatProblem, ...] = ()
    unread: tuple[ArtifactFile, ...] = ()
    reference: Target | None = None
    samples: Samples | None = None
    capabilities: frozenset[Capability] = frozenset({Capability.FILES})
    build_model: Callable[[], RunnableModel] | None = None
    looked_at: Mapping[str, LookedAt] = field(default_factory=dict)
    obstacle: str = ""
    lost: frozenset[str] = frozenset()
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def walk(self) -> Iterator[tuple[Checkpoint, TensorInfo]]:
        """Every tensor of every checkpoint, in a fixed order."""
        for checkpoint in self.checkpoints:
            for tensor in checkpoint.tensors.values():
                yield checkpoint, tensor

    @property
    def model(self) -> RunnableModel:
        """The runnable model, built on first use and kept for the detectors that follow.

        Raises :class:`Skip` when there is none, with the reason; the same reason every time.
        """
        if self.build_model is None:
            needs = "it needs ONNX, a known config.json, or --model package.module:factory"
            raise Skip(f"the artifact has no runnable model: {self.obstacle or needs}")
        if "model" not in self._cache:
            try:
                self._cache["model"] = self.build_model()
            except Exception as error:
                self._cache["model"] = error
        if isinstance(self._cache["model"], Exception):
            raise self._cache["model"]
        return typing.cast("RunnableModel", self._cache["model"])

    @property
    def built_model(self) -> RunnableModel | None:
        """The model, if some detector has already had it built; never builds it."""
        built = self._cache.get("model")
        return None if built is None or isinstance(built, Exception) else typing.cast("RunnableModel", built)

    def memo(self, detector: Detector, context: ScanContext, make: Callable[[], T], *part: Hashable) -> T:
        """What ``make`` returns, made once per target and kept for the detectors that follow in this process.

        It is kept for the class of ``detector``, its options (but those that only judge, see :func:`option`) and the seed of
        ``context``. ``part`` tells apart several results of one detector. What the deadline cut off is not made again: whoever asks
        next is told by :class:`DeadlineExceeded` too.
        """
        searched = tuple(
            (item.name, getattr(detector, item.name)) for item in option_fields(type(detector)) if not item.metadata.get("judges")
        )
        key = (type(detector), searched, context.seed, part)
        if key not in self._cache:
            try:
                self._cache[key] = make()
            except DeadlineExceeded as late:
                self._cache[key] = late
        if isinstance(kept := self._cache[key], DeadlineExceeded):
            raise kept
        return typing.cast("T", kept)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once per target and kept for all detectors. ``key`` begins with the name of the package that asks."""
        if key not in self._cache:
            self._cache[key] = make()
        return typing.cast("T", self._cache[key])


class ScanContext:
    """What the scanner lends a detector while it runs."""

    def __init__(
        self,
        *,
        detector: str = "",
        seed: int = 0,
        deadline: float | None = None,
        threads: int = 1,
        memory_limit: int | None = None,
        folder: Path | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
        on_looked_at: Callable[[LookedAt], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``deadline`` is a reading of ``clock`` (seconds); a test gives a clock of its own."""
        self.detector = detector
        self.seed = seed
        self.threads = threads
        """How many threads the detector may use."""
        self.memory_limit = memory_limit
        """Bytes of anonymous memory the worker may hold, or None."""
        self.folder = folder
        """Where the user is: what relative paths and modules in options are looked up from. None where nobody says."""
        self._deadline = deadline
        self._on_progress = on_progress
        self._on_looked_at = on_looked_at
        self._clock = clock
        self._summary: dict[str, Any] = {}

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` units of work are finished. Cheap; call it often."""
        if self._on_progress is not None:
            self._on_progress(done, total, note)

    def looked_at(self, path: str, what: str, *, format: str = "", missed: str = "") -> None:
        """Say that the artifact's file ``path`` was read to its end, or all but what ``missed`` names, and what it is (:class:`LookedAt`).

        Files that nobody says this of, and that are no checkpoint, are reported as not looked at. Say it only once nothing of the
        file is left that could change the findings.
        """
        if self._on_looked_at is not None:
            self._on_looked_at(LookedAt(path, what, format, missed))

    def check_deadline(self) -> None:
        """Raise :class:`DeadlineExceeded` when the detector's time is up. Call it at least once a second."""
        if self._deadline is not None and self._clock() > self._deadline:
            raise DeadlineExceeded

    def remaining(self) -> float:
        """Seconds left; infinite without a limit. Not for decisions that change the result of a run that finishes."""
        return float("inf") if self._deadline is None else self._deadline - self._clock()

    def rng(self, stream: str = "") -> np.random.Generator:
        """The only source of randomness a detector may use: the same seed, detector and ``stream`` give the same numbers."""
        import numpy as np

        return np.random.default_rng([self.seed, *f"{self.detector}/{stream}".encode()])

    def summary(self, **values: Any) -> None:
        """Add numbers to the outcome. ``score`` (float, larger is more suspicious) is required of every detector that completes."""
        self._summary.update(values)

    @property
    def numbers(self) -> Mapping[str, Any]:
        """What :meth:`summary` was given so far."""
        return dict(self._summary)

    def member(self, detector: str) -> ScanContext:
        """The context another detector would run in now, for a detector that combines others: its own randomness and summary, the same
        seed, deadline and limits."""
        return ScanContext(
            detector=detector,
            seed=self.seed,
            deadline=self._deadline,
            threads=self.threads,
            memory_limit=self.memory_limit,
            folder=self.folder,
            on_progress=self._on_progress,
            on_looked_at=self._on_looked_at,
            clock=self._clock,
        )


class Detector(ABC):
    """One way of looking. Subclasses are frozen dataclasses whose fields, made with :func:`option`, are the options."""

    id: ClassVar[str]
    requires: ClassVar[frozenset[Capability]]
    rules: ClassVar[tuple[Rule, ...]]
    when_quick: ClassVar[Literal["same", "shorter", "skipped"]] = "same"
    """What ``--quick`` does with it: nothing; a shorter look, by its option ``quick`` (bool, off by default); or it is left out."""
    fetches: ClassVar[tuple[str, ...]] = ()
    """Lower-case endings of files, beyond those that formats read, that a remote source is to bring for it, whatever their size."""
    shows: ClassVar[tuple[Measure | Chart, ...]] = ()
    """What the numbers of its evidence and summary are called and mean, and which are drawn."""
    runs_last: ClassVar[bool] = False
    """Whether it judges what the others have looked at, and so has to wait for them."""

    cost: ClassVar[int] = 0
    """What a first look takes for each class, in inputs that go forward and backward through the model; 0 for a detector that runs no
    search. Searches run from the cheapest to the dearest, each in what is left of the scan's ``budget``, of which those
    whose rules are all of low severity share a twentieth."""

    on_request: ClassVar[bool] = False
    """Whether it is left out of a scan in which nobody asks for it: by ``--detector``, by ``--option``, or by ``required`` or ``options``
    of the policy. For a detector that has nothing to look at unless it is told what."""

    keeps_with_options: ClassVar[bool] = True
    """Whether what it says with options set may be taken for the same bytes, options and versions again. False where an option names
    what those do not cover: a file, the day, a service."""

    @abstractmethod
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        """Yield findings as they are made. Raise :class:`Skip` when it turns out that looking is impossible."""


def option(default: T, help: str, *, ge: float | None = None, le: float | None = None, gt: float | None = None, judges: bool = False) -> T:
    """Declare a detector option: a dataclass field with a help text and bounds.

    ``judges`` marks an option that only judges what was found, such as a threshold: another value starts no new search
    (:meth:`Target.memo`).
    """
    return dataclasses.field(default=default, metadata={"help": help, "ge": ge, "le": le, "gt": gt, "judges": judges})


def configure(detector: type[Detector], values: Mapping[str, Any]) -> Detector:
    """An instance of ``detector`` with ``values`` (strings or typed) as options.

    Raises :class:`~modelguard.errors.UsageError` naming the option when it is unknown, of the wrong type, or out of bounds.
    """
    return detector(**check_options(detector.id, options_of(detector), values))


def option_fields(detector: type[Detector]) -> tuple[dataclasses.Field[Any], ...]:
    """The option fields of a detector class, in order of declaration (none when it is no dataclass)."""
    plain: Any = detector  # Detector itself is no dataclass, and a subclass without options need not be one
    return dataclasses.fields(plain) if dataclasses.is_dataclass(plain) else ()
