"""What the plan makes of what a search says at each stage, and which classes there is time for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import runnable
from modelguard_triggers import case
from modelguard_triggers.plan import CLEAR, Look, Search, Stage
from torch import nn

from modelguard import Capability, DeadlineExceeded, Finding, Rule, ScanContext, Severity, Target
from modelguard.artifact import Artifact
from modelguard.report import Outcome, Status
from modelguard.testing.conformance import run_detector

RULE = Rule("TEST-0001", "Accused", "a class that is accused", Severity.HIGH, "It is.", "Look.")


@dataclass(frozen=True)
class Scripted(Search):
    """Says what it is told to at each stage; None is no time."""

    id = "scripted"
    requires = frozenset({Capability.GRADIENTS})
    rules = (RULE,)
    screen: Look | None = None
    full: Look | None = None
    asked: list[Stage] = field(default_factory=list)

    def look(self, target: Target, context: ScanContext, stage: Stage) -> Look:
        self.asked.append(stage)
        found = self.screen if stage is Stage.SCREEN else self.full
        if found is None:
            raise DeadlineExceeded
        return found


def says(p: float, *, accuses: bool = False, left_out: tuple[int, ...] = ()) -> Look:
    finding = Finding(RULE.id, "class 0", evidence={"target_class": 0, "p_value": p})
    return Look({"score": 1.0}, (finding,) if accuses else (), {0: p, 1: 1.0, 2: 1.0}, not_looked_at=left_out)


def scan(search: Search) -> Outcome:
    return run_detector(search, Target(Artifact("m", "local:m", Path("/m"), (), None)))


@pytest.mark.parametrize(("screen", "stages"), [
    (says(0.5), [Stage.SCREEN]), (says(CLEAR / 2), [Stage.SCREEN, Stage.FULL]), (says(1e-4, accuses=True), [Stage.SCREEN]),
])  # fmt: skip
def test_the_full_search_is_for_what_the_screen_neither_clears_nor_accuses(screen: Look, stages: list[Stage]) -> None:
    search = Scripted(screen, says(0.3))
    outcome = scan(search)
    assert search.asked == stages
    assert outcome.status is Status.COMPLETED
    assert outcome.summary["stage"] == stages[-1].value
    assert len(outcome.findings) == len(screen.findings)


def test_the_full_search_decides_where_it_is_made() -> None:
    assert scan(Scripted(says(0.05), says(1e-4, accuses=True))).findings
    assert scan(Scripted(says(0.05), says(0.05))).summary["suspect"] == [0]


def test_what_there_was_no_time_for_is_said_with_what_was_found() -> None:
    outcome = scan(Scripted(says(0.05), None))
    assert outcome.status is Status.TIMED_OUT
    assert "2 classes cleared, 1 suspect (0 at p = 0.05), 0 not looked at" in outcome.reason
    assert (outcome.summary["stage"], outcome.summary["suspect"]) == ("screen", [0])
    outcome = scan(Scripted(says(1e-4, accuses=True, left_out=(3, 4)), None))
    assert outcome.status is Status.TIMED_OUT
    assert [item.rule for item in outcome.findings] == [RULE.id]
    assert outcome.summary["not_looked_at"] == [3, 4]
    assert scan(Scripted(None, None)).status is Status.TIMED_OUT


def test_more_time_leaves_no_class_out_that_less_time_had_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "seconds_a_pass", lambda model, images: len(images) / 1000)  # a thousand images a second
    model = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 10)
    ticks: list[str] = []

    def tick(done: int, total: int, note: str = "") -> None:
        ticks.append(note)

    def afford(seconds: float) -> set[int]:
        images, rng = torch.rand(4, 1, 8, 8), np.random.default_rng(0)
        return set(case.affordable(model, images, lambda n: 1000 * n, 100, lambda: seconds, rng, tick).tolist())

    assert afford(float("inf")) == afford(200) == set(range(100))
    assert afford(12.5) < afford(50) < afford(100) < set(range(100))
    with pytest.raises(DeadlineExceeded, match="there is time for 4 of 100 classes, and 5 are needed to compare"):
        afford(5)
    assert "100 classes: about 100 s of 50 s" in ticks
