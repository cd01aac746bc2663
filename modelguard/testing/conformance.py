"""Does a detector keep the contract of ``modelguard.detector``? For the tests of plugins."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from modelguard._policies.catalogue import first_party
from modelguard.detector import Capability, DeadlineExceeded, Detector, ScanContext, Skip, Target, option_fields
from modelguard.display import Chart, Measure
from modelguard.errors import PluginError
from modelguard.findings import OWN_PREFIX, RULE_ID, rule_prefix, settled
from modelguard.report import Outcome, Status

if TYPE_CHECKING:
    from modelguard.model import Samples

_TAKES_LONG = frozenset({Capability.WEIGHTS, Capability.REFERENCE, Capability.FORWARD, Capability.GRADIENTS})
"""A detector that requires one of these has as much to do as the model is large."""


def run_detector(detector: Detector, target: Target, *, seed: int = 0, timeout: float | None = None) -> Outcome:
    """Run a detector in this process; the outcome is what a report would hold, fingerprints included.

    Raises :class:`PluginError` for an undeclared rule, or evidence or a summary that JSON cannot carry. Unlike in a scan, whatever else
    the detector raises comes out.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    return _run(detector, target, ScanContext(detector=detector.id, seed=seed, deadline=deadline))


class _Clock:
    """A clock that stands still, and counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return 0.0


def _run(detector: Detector, target: Target, context: ScanContext) -> Outcome:
    from modelguard._scanner.protocol import Found, decode, encode
    from modelguard._scanner.run import admitted

    severities = {rule.id: rule.severity for rule in detector.rules}
    findings = []
    status, reason = Status.COMPLETED, ""
    try:
        for finding in detector.detect(target, context):
            evidence = _sayable(detector.id, finding.evidence, "evidence")
            answer = decode(encode(Found(detector.id, dataclasses.replace(finding, evidence=evidence))))
            assert isinstance(answer, Found)
            findings.append(settled(admitted(answer.finding, type(detector), target.artifact.identity), severities))
    except Skip as skip:
        status, reason = Status.SKIPPED, str(skip)
    except DeadlineExceeded as late:
        status, reason = Status.TIMED_OUT, str(late) or "the deadline passed"
    return Outcome(detector.id, status, reason, _sayable(detector.id, context._summary, "summary"), tuple(findings))


def _sayable(detector: str, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    from modelguard._scanner.values import NotJsonSafe, json_safe

    try:
        return dict(json_safe(values, what))
    except NotJsonSafe as error:
        raise PluginError(f"detector {detector}", str(error), f"make the {what} finite numbers, text, lists and mappings") from None


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract, and how a detector that was tried keeps it: ``wrong`` says what is wrong, and is empty where nothing is.

    ``tried`` is False where nobody knows: a promise before it was broken, or the detector skips the target.
    """

    name: str
    promise: str
    wrong: str = ""
    tried: bool = True


def check_detector(cls: type[Detector], target: Target | None = None) -> Outcome:
    """Assert that a detector class keeps its contract over ``target`` (a tiny model with a reference and samples by default).

    Checked: the declaration (id, capabilities, rules, options); two runs give the same outcome; only declared rules, and evidence
    that JSON can carry; a finite ``score``; that it asks whether its time is up, if it may take long, and ends when told so. Returns the
    outcome. Raises ``AssertionError`` naming what is wrong, or :class:`PluginError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(cls, target, Path(folder))
        for _, _, step in _CONTRACT:
            step(trial)
    assert trial.first is not None
    return trial.first


def contract(cls: type[Detector], target: Target | None = None) -> list[Check]:
    """The same as :func:`check_detector`, promise by promise; whatever a detector raises is what is wrong with it."""
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(cls, target, Path(folder))
        for name, promise, step in _CONTRACT:
            if any(check.wrong or not check.tried for check in checks if check.name in ("declaration", "looks")):
                checks.append(Check(name, promise, tried=False))
                continue
            try:
                step(trial)
            except Exception as error:
                if step is _Trial.looks and trial.first is not None and trial.first.status is Status.SKIPPED:
                    checks.append(Check(name, f"{promise}; skipped: {trial.first.reason}", tried=False))
                    continue
                text = str(error) if isinstance(error, AssertionError | PluginError) else f"raised {type(error).__name__}: {error}"
                checks.append(Check(name, promise, text or type(error).__name__))
            else:
                checks.append(Check(name, promise))
    return checks


class _Trial:
    """One detector class on one target; :data:`_CONTRACT` says in which order its methods are called."""

    def __init__(self, cls: type[Detector], target: Target | None, folder: Path) -> None:
        self.cls = cls
        self._target = target
        self._folder = folder
        self._clock = _Clock()
        self.first: Outcome | None = None

    def declares(self) -> None:
        _check_declaration(self.cls)

    def looks(self) -> None:
        if self._target is None:
            self._target = _default_target(self._folder, self.cls.requires)
        self.first = _run(self.cls(), self._target, ScanContext(detector=self.cls.id, deadline=3600.0, clock=self._clock))
        assert self.first.status is Status.COMPLETED, (
            f"{self.cls.id} did not look ({self.first.status.value}: {self.first.reason}); give check_detector a target that it can look at"
        )

    def repeats(self) -> None:
        assert self._target is not None
        second = run_detector(self.cls(), self._target)
        assert self.first == second, f"{self.cls.id} is not deterministic: two runs differ; draw randomness from context.rng() only"

    def scores(self) -> None:
        assert self.first is not None
        score = self.first.summary.get("score")
        numeric = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        assert numeric, f"{self.cls.id} gives the score {score!r}; call context.summary(score=...) with a finite number"

    def asks(self) -> None:
        assert self._clock.reads or not self.cls.requires & _TAKES_LONG, (
            f"{self.cls.id} never asks whether its time is up; call context.check_deadline() at least once a second"
        )

    def ends(self) -> None:
        assert self._target is not None
        late = _Clock()
        ended = _run(self.cls(), self._target, ScanContext(detector=self.cls.id, deadline=-1.0, clock=late)).status
        # What was kept from the runs before may be all it needs.
        assert ended is Status.TIMED_OUT or (ended is Status.COMPLETED and not late.reads), (
            f"{self.cls.id} ended as {ended.value} when its time was up; let what context.check_deadline() raises pass"
        )


_CONTRACT: tuple[tuple[str, str, Callable[[_Trial], None]], ...] = (
    ("declaration", "id, capabilities, rules and options are complete", _Trial.declares),
    ("looks", "completes on a tiny model, with declared rules and evidence that JSON can carry", _Trial.looks),
    ("repeats", "two runs say the same", _Trial.repeats),
    ("score", "summary has a finite score", _Trial.scores),
    ("deadline", "asks whether its time is up, if it may take long", _Trial.asks),
    ("ends", "ends when its time is up", _Trial.ends),
)


def _check_declaration(cls: type[Detector]) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cls.id), f"detector id {cls.id!r} is not lower-case words joined by hyphens"
    assert isinstance(cls.requires, frozenset), f"{cls.id}.requires is not a frozenset"
    assert all(isinstance(item, Capability) for item in cls.requires), f"{cls.id}.requires holds something that is not a Capability"
    assert cls.rules, f"{cls.id} declares no rules"
    package = cls.__module__.partition(".")[0]
    ours = {"modelguard", *(item.name.replace("-", "_") for item in first_party())}
    for rule in cls.rules:
        form = "a prefix of your own, a hyphen and four digits, such as ACME-0001"
        assert re.fullmatch(RULE_ID, rule.id), f"rule id {rule.id!r} of {cls.id} is not {form}"
        assert rule_prefix(rule.id) != OWN_PREFIX or package in ours, f"rule id {rule.id} of {cls.id} has modelguard's prefix; use {form}"
        empty = [name for name in ("name", "title", "description", "remedy") if not getattr(rule, name).strip()]
        assert not empty, f"rule {rule.id} of {cls.id} has no {' or '.join(empty)}"
    _check_shows(cls)
    ids = [rule.id for rule in cls.rules]
    assert len(ids) == len(set(ids)), f"{cls.id} declares a rule twice"
    parameters = getattr(cls, "__dataclass_params__", None)
    assert getattr(parameters, "frozen", False), f"{cls.id} is not a frozen dataclass"
    quick = [item.default for item in option_fields(cls) if item.name == "quick"]
    assert cls.when_quick in ("same", "shorter", "skipped"), (
        f"{cls.id}.when_quick is {cls.when_quick!r}: it must be same, shorter or skipped"
    )
    if cls.when_quick == "shorter":
        assert quick == [False], f"{cls.id} has a shorter look, but no option `quick` that is off by default"
    else:
        assert not quick, f'{cls.id} has an option `quick`, but --quick does not set it: say when_quick = "shorter"'
    for item in option_fields(cls):
        assert item.metadata.get("help"), f"option {cls.id}.{item.name} has no help text: declare it with option()"
        assert item.default is not dataclasses.MISSING, f"option {cls.id}.{item.name} has no default"


def _check_shows(cls: type[Detector]) -> None:
    keys = [item.key for item in cls.shows if isinstance(item, Measure)]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    assert not twice, f"{cls.id}.shows explains {', '.join(twice)} twice"
    for item in cls.shows:
        if isinstance(item, Measure):
            assert item.name.strip(), f"measure {item.key} of {cls.id} has no name"
            assert item.meaning.strip(), f"measure {item.key} of {cls.id} has no meaning"
        else:
            kinds = get_args(get_type_hints(Chart)["kind"])
            assert item.kind in kinds, f"chart {item.key} of {cls.id} is {item.kind!r}: it must be {', '.join(kinds)}"
            assert item.title.strip(), f"chart {item.key} of {cls.id} has no title"


def _default_target(folder: Path, requires: frozenset[Capability]) -> Target:
    """A tiny image classifier with a reference that differs in one weight, and samples where they are required."""
    import onnx
    from onnx import numpy_helper

    from modelguard.testing.checkpoints import open_target, write_onnx_cnn

    reference = write_onnx_cnn(folder / "reference" / "model.onnx")
    model = onnx.load(str(reference))
    edited = numpy_helper.to_array(model.graph.initializer[0]).copy()
    edited.flat[0] += 0.5
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(edited, model.graph.initializer[0].name))
    path = folder / "target" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, str(path))
    samples = _samples() if Capability.SAMPLES in requires else None
    return open_target(path, reference if Capability.REFERENCE in requires else None, samples)


def _samples() -> Samples:
    import numpy as np

    from modelguard.model import Samples

    rng = np.random.default_rng(0)
    inputs = rng.random((32, 1, 8, 8)).astype(np.float32)
    return Samples(inputs, np.arange(32, dtype=np.int64) % 4, "generated", "0" * 64)
