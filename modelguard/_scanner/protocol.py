"""What parent and worker say to each other, one JSON object a line.

The parent asks twice: a :class:`Job` is opened, later :class:`Tasks` are run. The worker answers with :class:`Facts` (or :class:`Failed`),
then, for every task, with one :class:`Started`, any number of :class:`Progressed`, :class:`Found`, :class:`Looked`, :class:`Building`
and :class:`Built`, and one :class:`Ended`. The worker runs plugins and has opened a hostile file, so the parent believes an answer only
once :class:`Answers` has held it to every limit and given it its type. Whether a rule is declared is for the parent to ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from modelguard import _limits
from modelguard._scanner.plain import from_plain, to_plain
from modelguard._scanner.values import load
from modelguard._schemas.finding import read_finding, write_finding
from modelguard.artifact import Artifact
from modelguard.detector import Capability, LookedAt
from modelguard.errors import PluginError
from modelguard.findings import Finding
from modelguard.model import ModelOptions
from modelguard.report import SamplesInfo, Status

MAX_LINE = _limits.ANSWER
MAX_TOTAL = _limits.ANSWERS
MAX_FINDINGS = _limits.FINDINGS
MAX_ATTACHMENT = _limits.ATTACHMENT
MAX_NOTE = _limits.NOTE

RESERVE = 0.05
"""The part of a budget that is kept for detectors that run last."""


# Requests


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may use: bytes of anonymous memory (None: unlimited), threads, and bytes it may write to one file."""

    memory: int | None
    threads: int
    file_size: int = 1 << 26


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker opens, and how. ``formats`` and ``models`` are class references; tasks follow once the parent has planned."""

    artifact: Artifact
    reference: Artifact | None
    samples: Path | None
    model: ModelOptions
    formats: tuple[str, ...]
    models: tuple[str, ...]
    seed: int
    limits: Limits
    sys_path: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Task:
    """One detector to run: ``ref`` is ``module:qualified name`` of its class, ``timeout`` in seconds.

    ``searches`` says whether its time is the budget's, ``hints`` whether nothing it finds is above low, ``last`` whether it judges what
    those before it found.
    """

    detector: str
    ref: str
    options: Mapping[str, Any]
    timeout: float
    searches: bool = False
    hints: bool = False
    last: bool = False


@dataclass(slots=True)
class Purse:
    """The budget as parent and worker each keep it: ``left`` seconds for all searches together, None without a limit, of which
    ``reserve`` is kept for those that judge what the others found. What only gives hints has ``hints`` seconds apart, and no others:
    were they one purse, a hint that more time makes possible would take time from a search that accuses."""

    left: float | None = None
    reserve: float = 0.0
    hints: float = 0.0

    @classmethod
    def of(cls, budget: float | None) -> Purse:
        if budget is None:
            return cls()
        part = RESERVE * budget
        return cls(budget - part, part, part)

    def seconds(self, task: Task) -> float:
        """How long ``task`` may take, whose turn it is."""
        if self.left is None or not task.searches:
            return task.timeout
        given = self.hints if task.hints else self.left - (0.0 if task.last else self.reserve)
        return max(0.0, min(task.timeout, given))

    def spend(self, task: Task, seconds: float) -> None:
        """``task`` took so long."""
        if self.left is None or not task.searches:
            return
        if task.hints:
            self.hints -= seconds
        else:
            self.left -= seconds


@dataclass(frozen=True, slots=True)
class Tasks:
    """The detectors to run, one after another."""

    tasks: tuple[Task, ...]
    looked_at: tuple[LookedAt, ...] = ()
    """What detectors said before, in a worker that is no more."""
    purse: Purse = field(default_factory=Purse)
    lost: tuple[str, ...] = ()
    """The detectors in which a worker ended."""


R = TypeVar("R", Job, Tasks)


def ask(request: Job | Tasks) -> bytes:
    """``request`` as the line that the worker reads."""
    return json.dumps(to_plain(request)).encode() + b"\n"


def asked(kind: type[R], line: str) -> R:
    """The request in ``line``, which the parent wrote and the worker trusts."""
    request: R = from_plain(kind, json.loads(line))
    return request


def reference_to(item: type) -> str:
    """``module:qualified name``, by which a worker imports a class again."""
    return f"{item.__module__}:{item.__qualname__}"


def resolve(ref: str) -> Any:
    """The object ``module:qualified name`` names. Raises :class:`PluginError` when it cannot be imported."""
    module, _, name = ref.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise PluginError(ref, f"cannot be imported in the worker ({type(error).__name__}: {error})", "reinstall the plugin") from error
    return found


# Answers


@dataclass(frozen=True, slots=True)
class Facts:
    """What the worker saw when it opened an artifact: all the parent needs for the plan and the report.

    ``problems`` are the messages of the fatal ones; ``reference`` is the same about the reference; ``confinement`` is what the worker was
    held by when it opened them; ``obstacle`` is why the model cannot be built, where that is plain. ``licence`` and ``base_models`` are
    what the model card claims, and ``card`` is why it could not be read.
    """

    capabilities: tuple[Capability, ...] = ()
    formats: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    samples: SamplesInfo | None = None
    reference: Facts | None = None
    confinement: tuple[str, ...] = ()
    obstacle: str = ""
    licence: str | None = None
    base_models: tuple[str, ...] = ()
    card: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The artifact could not be opened; ``reason`` names thing, cause and remedy."""

    reason: str


@dataclass(frozen=True, slots=True)
class Started:
    detector: str


@dataclass(frozen=True, slots=True)
class Progressed:
    detector: str
    done: int
    total: int
    note: str


@dataclass(frozen=True, slots=True)
class Found:
    """A finding as the detector made it: its fingerprint means nothing yet, and it has a severity only if that is not the rule's."""

    detector: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class Looked:
    """The detector has read a file."""

    detector: str
    at: LookedAt


@dataclass(frozen=True, slots=True)
class Building:
    """The detector begins to have the model built."""

    detector: str


@dataclass(frozen=True, slots=True)
class Built:
    """The build of the model ended, well or not."""

    detector: str


@dataclass(frozen=True, slots=True)
class Ended:
    """``model`` is what the model that the detectors used says of itself, if one was built."""

    detector: str
    status: Status
    reason: str
    summary: Mapping[str, Any]
    model: Mapping[str, Any] | None = None


Event = Started | Progressed | Found | Looked | Building | Built | Ended
"""What happens while a detector runs."""
Answer = Facts | Failed | Event


class BadAnswer(ValueError):
    """What a worker sent cannot be believed, so nothing more that it sends is read; the text completes "the worker ..."."""


def encode(answer: Answer) -> bytes:
    """``answer`` as a line. Raises ``ValueError`` or ``TypeError`` for values that JSON cannot carry."""
    match answer:
        case Found(detector=detector, finding=finding):
            body = {"detector": detector, "key": str(finding.key), "finding": write_finding(finding)}
        case Looked(detector=detector, at=at):
            body = {"detector": detector, "at": {"path": at.path, "what": at.what, "format": at.format, "missed": at.missed}}
        case Facts():
            body = asdict(answer)
        case _:
            body = {item.name: getattr(answer, item.name) for item in fields(answer)}
    return json.dumps({"answer": type(answer).__name__.lower(), **body}, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Answer:
    """The answer in ``line``, within every limit but those on a detector's sum.

    Raises :class:`PluginError` for a finding that is malformed, which costs the detector its completion and no more; otherwise
    :class:`BadAnswer`.
    """
    try:
        return _typed(load(line))
    except ValueError:
        raise BadAnswer(f"wrote {line[:40]!r} to the answer pipe, which is not an answer") from None


def _typed(data: dict[str, Any]) -> Answer:
    match data:
        case {"answer": "facts"}:
            return _facts(data)
        case {"answer": "failed", "reason": str(reason)}:
            return Failed(reason)
        case {"answer": "started", "detector": str(detector)}:
            return Started(detector)
        case {"answer": "progressed", "detector": str(detector), "done": int(done), "total": int(total), "note": str(note)}:
            return Progressed(detector, max(done, 0), max(total, 0), note[:MAX_NOTE])
        case {"answer": "found", "detector": str(detector), "key": str(key), "finding": dict(finding)}:
            return Found(detector, _finding(detector, key, finding))
        case {
            "answer": "looked", "detector": str(detector),
            "at": {"path": str(path), "what": str(what), "format": str(format), "missed": str(missed)},
        }:  # fmt: skip
            return Looked(detector, LookedAt(path, what[:MAX_NOTE], format[:MAX_NOTE], missed[:MAX_NOTE]))
        case {"answer": "building", "detector": str(detector)}:
            return Building(detector)
        case {"answer": "built", "detector": str(detector)}:
            return Built(detector)
        case {
            "answer": "ended", "detector": str(detector), "status": str(status), "reason": str(reason), "summary": dict(summary),
            "model": dict() | None as model,
        }:  # fmt: skip
            return Ended(detector, Status(status), reason, summary, model)
    raise ValueError("not an answer")


def _finding(detector: str, key: str, data: dict[str, Any]) -> Finding:
    try:
        finding = read_finding(data)
        for item in finding.attachments:
            if len(item.data) > MAX_ATTACHMENT:
                raise ValueError(f"attachment {item.name} has {len(item.data)} bytes, more than {MAX_ATTACHMENT}")
    except ValueError as error:
        raise PluginError(f"detector {detector}", f"sent a malformed finding ({error})", "report it to the plugin's author") from error
    return replace(finding, key=key)


def _facts(data: dict[str, Any]) -> Facts:
    match data:
        case {
            "capabilities": list(capabilities), "formats": list(formats), "unread": list(unread), "problems": list(problems),
            "samples": dict() | None as samples, "reference": dict() | None as reference, "confinement": list(confinement),
            "obstacle": str(obstacle), "licence": str() | None as licence, "base_models": list(base_models), "card": str(card),
        }:  # fmt: skip
            return Facts(
                tuple(Capability(item) for item in capabilities),
                _texts(formats),
                _texts(unread),
                _texts(problems),
                _samples(samples) if samples is not None else None,
                _facts(reference) if reference is not None else None,
                _texts(confinement),
                obstacle,
                licence,
                _texts(base_models),
                card,
            )
    raise ValueError("not facts")


def _samples(data: dict[str, Any]) -> SamplesInfo:
    match data:
        case {"origin": str(origin), "sha256": str(sha256), "count": int(count), "labelled": bool(labelled)} if type(count) is int:
            return SamplesInfo(origin, sha256, count, labelled)
    raise ValueError("not a description of samples")


def _texts(items: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(item, str) for item in items):
        raise ValueError("not texts")
    return tuple(items)


class Answers:
    """The answers in a stream of bytes, in order. Every limit of this module is held here, and nowhere else.

    After :class:`BadAnswer` the stream cannot be read on.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._received = 0
        self._findings = 0

    def renew(self) -> None:
        """Begin counting for another detector."""
        self._received = self._findings = 0

    def feed(self, block: bytes) -> None:
        """Take what was read from the pipe. Raises :class:`BadAnswer` when it is too much."""
        self._received += len(block)
        if self._received > MAX_TOTAL:
            raise BadAnswer(f"sent more than {MAX_TOTAL >> 20} MiB of answers")
        self._buffer += block

    def next(self) -> Answer | None:
        """The next answer, or None when more has to be fed first. Raises what :func:`decode` raises."""
        end = self._buffer.find(b"\n")
        if (len(self._buffer) if end < 0 else end) > MAX_LINE:
            raise BadAnswer(f"sent an answer of more than {MAX_LINE >> 20} MiB")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        answer = decode(line)
        if isinstance(answer, Found):
            self._findings += 1
            if self._findings > MAX_FINDINGS:
                raise BadAnswer(f"sent more than {MAX_FINDINGS} findings")
        return answer
