"""What a target keeps for the detectors that follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelguard import Capability, Detector, Finding, Rule, ScanContext, Severity, Target, option
from modelguard.artifact import Artifact
from modelguard.testing.conformance import check_detector

RULE = Rule("ACME-0001", "Test", "a test", Severity.LOW, "A test.", "Nothing.")


@dataclass(frozen=True)
class Search(Detector):
    id = "search"
    requires = frozenset({Capability.FILES})
    rules = (RULE,)

    steps: int = option(3, "how long")
    level: float = option(0.5, "what is accused", judges=True)

    def detect(self, target: Target, context: ScanContext) -> Iterator[Finding]:
        context.check_deadline()
        context.summary(score=0.0)
        yield from ()


@dataclass(frozen=True)
class Other(Search):
    id = "other"


@pytest.fixture
def target() -> Target:
    return Target(Artifact("x", "x", Path("/x"), (), None))


def test_a_result_is_made_once_for_detector_options_seed_and_part(target: Target) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    context = ScanContext(detector="search", seed=0)
    assert target.memo(Search(), context, make) == 0
    assert target.memo(Search(), ScanContext(detector="ensemble", seed=0), make) == 0
    assert target.memo(Search(level=0.9), context, make) == 0, "a threshold starts no new search"
    assert target.memo(Search(steps=4), context, make) == 1
    assert target.memo(Other(), context, make) == 2
    assert target.memo(Search(), ScanContext(detector="search", seed=1), make) == 3
    assert target.memo(Search(), context, make, "refined", 2) == 4
    assert target.memo(Search(), context, make, "refined", 2) == 4


@pytest.mark.parametrize(("when", "has", "problem"), [
    ("same", True, "does not set it"), ("skipped", True, "does not set it"),
    ("shorter", False, "no option `quick`"), ("later", False, "must be"),
])  # fmt: skip
def test_an_option_quick_goes_with_a_shorter_look(when: str, has: bool, problem: str) -> None:
    fields = {"quick": option(False, "shorter"), "__annotations__": {"quick": bool}} if has else {}
    made: type[Detector] = type("Bad", (Search,), {"__module__": __name__, "id": "bad", "when_quick": when, **fields})
    with pytest.raises(AssertionError, match=problem):
        check_detector(dataclass(frozen=True)(made))
