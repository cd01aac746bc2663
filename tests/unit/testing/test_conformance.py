"""The conformance check: a detector that keeps the contract passes, and every way of breaking it is named."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from modelguard import (
    Capability,
    Chart,
    Detector,
    Finding,
    Location,
    Measure,
    PluginError,
    Rule,
    ScanContext,
    Severity,
    Skip,
    Status,
    Target,
    option,
)
from modelguard.detector import DeadlineExceeded
from modelguard.testing.checkpoints import open_target, write_safetensors, write_sharded
from modelguard.testing.conformance import check_detector, run_detector

RULE = Rule("ACME-0001", "Example", "an example", Severity.MEDIUM, "It is an example.", "Nothing to do.")
_CALLS = itertools.count()


@dataclass(frozen=True)
class Good(Detector):
    """Reports the largest weight."""

    id = "good-example"
    requires = frozenset({Capability.WEIGHTS})
    rules = (RULE,)

    limit: float = option(0.0, "weights up to this are fine", ge=0)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        worst = 0.0
        for checkpoint, tensor in target.walk():
            context.check_deadline()
            largest = float(np.abs(checkpoint.read(tensor.name)).max(initial=0))
            worst = max(worst, largest)
            if largest > self.limit:
                where = Location(tensor.file, tensor.name)
                yield Finding(
                    "ACME-0001", f"{tensor.name} reaches {largest:.3f}", location=where, evidence={"noise": context.rng().random()}
                )
        context.summary(score=worst)


class Undeclared(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield Finding("ACME-0002", "not declared")
        context.summary(score=1.0)


class NotFinite(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield Finding("ACME-0001", "a finding", evidence={"value": float("nan")})
        context.summary(score=1.0)


class Scoreless(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()


class InfiniteScore(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()
        context.summary(score=float("inf"))


class Moody(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()
        context.summary(score=float(next(_CALLS)))


class Deaf(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()
        context.summary(score=sum(float(checkpoint.read(tensor.name).sum()) for checkpoint, tensor in target.walk()))


class Stubborn(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()
        with contextlib.suppress(DeadlineExceeded):
            context.check_deadline()
        context.summary(score=0.0)


class Blind(Good):
    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()
        raise Skip("nothing to see")


class ShoutingId(Good):
    id = "Loud_Detector"


class WrongRule(Good):
    rules = (Rule("X1", "Example", "an example", Severity.LOW, "It is.", "Do."),)


class OursRule(Good):
    rules = (Rule("MG9991", "Example", "an example", Severity.LOW, "It is.", "Do."),)


class SilentRule(Good):
    rules = (Rule("ACME-0001", "Example", "an example", Severity.LOW, "", "Do."),)


class SaidTwice(Good):
    shows = (Measure("score", "score", "How bad it is."), Measure("score", "mark", "How bad it is."))


class Meaningless(Good):
    shows = (Measure("score", "score", ""),)


class Undrawable(Good):
    shows = (Chart("pie", "score", "Scores"),)  # type: ignore[arg-type]


class Thawed(Detector):
    id = "thawed"
    requires = frozenset({Capability.FILES})
    rules = (RULE,)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        yield from ()


@dataclass(frozen=True)
class Unexplained(Good):
    secret: int = 3


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return open_target(write_safetensors(tmp_path_factory.mktemp("m") / "model.safetensors", {"w": np.ones(3)}))


def test_a_good_detector_passes_over_the_default_target() -> None:
    outcome = check_detector(Good)
    assert outcome.status is Status.COMPLETED
    assert outcome.summary["score"] > 0
    assert outcome.findings


def test_the_default_target_has_a_reference_and_samples_for_those_that_need_them() -> None:
    seen: list[Target] = []

    @dataclass(frozen=True)
    class Needy(Good):
        requires = frozenset({Capability.WEIGHTS, Capability.REFERENCE, Capability.SAMPLES})

        def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
            seen.append(target)
            return super().detect(target, context)

    check_detector(Needy)
    assert seen[0].capabilities >= Needy.requires
    assert seen[0].samples is not None
    assert seen[0].reference is not None


@pytest.mark.parametrize(
    ("detector", "error", "says"),
    [
        (Undeclared, PluginError, "undeclared rule ACME-0002"),
        (NotFinite, PluginError, "evidence.value is nan"),
        (InfiniteScore, PluginError, "summary.score is inf"),
        (Scoreless, AssertionError, "gives the score None"),
        (Moody, AssertionError, "two runs differ"),
        (Deaf, AssertionError, "never asks whether its time is up"),
        (Stubborn, AssertionError, "ended as completed when its time was up"),
        (Blind, AssertionError, "did not look .skipped: nothing to see"),
        (ShoutingId, AssertionError, "'Loud_Detector' is not lower-case"),
        (WrongRule, AssertionError, "'X1' of good-example is not a prefix of your own"),
        (OursRule, AssertionError, "MG9991 of good-example has modelguard's prefix"),
        (SilentRule, AssertionError, "has no description"),
        (SaidTwice, AssertionError, "good-example.shows explains score twice"),
        (Meaningless, AssertionError, "measure score of good-example has no meaning"),
        (Undrawable, AssertionError, "chart score of good-example is 'pie': it must be bars, curves, map, words"),
        (Thawed, AssertionError, "not a frozen dataclass"),
        (Unexplained, AssertionError, "option good-example.secret has no help text"),
    ],
)
def test_every_broken_promise_is_named(detector: type[Detector], error: type[Exception], says: str, target: Target) -> None:
    with pytest.raises(error, match=says):
        check_detector(detector, target)


def test_an_outcome_is_what_a_report_would_hold(target: Target) -> None:
    outcome = run_detector(Good(), target, seed=7)
    (finding,) = outcome.findings
    assert finding.severity is Severity.MEDIUM
    assert finding.fingerprint.startswith("modelguard/v1:")
    assert finding == run_detector(Good(), target, seed=7).findings[0]
    assert finding.evidence != run_detector(Good(), target, seed=8).findings[0].evidence
    assert finding.fingerprint == run_detector(Good(), target, seed=8).findings[0].fingerprint


def test_a_detector_of_files_alone_need_not_ask_for_the_time(target: Target) -> None:
    class Brief(Deaf):
        requires = frozenset({Capability.FILES})

    assert check_detector(Brief, target).status is Status.COMPLETED


def test_a_member_shares_the_clock_of_the_detector_that_runs_it() -> None:
    now = [0.0]
    member = ScanContext(deadline=5.0, clock=lambda: now[0]).member("other")
    member.check_deadline()
    assert member.remaining() == 5.0
    now[0] = 5.5
    with pytest.raises(DeadlineExceeded):
        member.check_deadline()


def test_what_else_a_detector_raises_comes_out(target: Target) -> None:
    class Broken(Good):
        def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
            yield from ()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_detector(Broken(), target)


def test_sharded_checkpoints_are_written_as_transformers_writes_them(tmp_path: Path) -> None:
    paths = write_sharded(tmp_path, {f"w{index}": np.ones(index) for index in range(4)}, 2)
    assert [path.name for path in paths] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert len(open_target(tmp_path).checkpoints[0].tensors) == 4
