"""Which detectors run, and what the others lack."""

from __future__ import annotations

from modelguard import Capability
from modelguard._scanner.plan import make_plan
from modelguard.detector import Detector


def detector(name: str, *needs: Capability) -> type[Detector]:
    return type(name, (Detector,), {"id": name, "requires": frozenset(needs), "rules": ()})


def test_a_plan_names_everything_a_detector_lacks() -> None:
    steps = make_plan(
        [detector("z-all", Capability.GRADIENTS, Capability.FORWARD, Capability.SAMPLES), detector("a-files", Capability.FILES)],
        frozenset({Capability.FILES}),
    )
    assert [(step.detector, step.runnable) for step in steps] == [("a-files", True), ("z-all", False)]
    assert "--samples" in steps[1].reason
    assert "differentiated" in steps[1].reason
    assert "can be run:" not in steps[1].reason


def test_what_speaks_against_running_the_model_is_the_reason_and_comes_last() -> None:
    searches = detector("searches", Capability.GRADIENTS, Capability.FORWARD, Capability.SAMPLES)
    (step,) = make_plan([searches], frozenset({Capability.FILES}), obstacle="nothing says what 'x' is given")
    assert step.reason == "needs clean samples (give --samples) and a model that can be differentiated: nothing says what 'x' is given"
    (without,) = make_plan([searches], frozenset({Capability.FILES}))
    assert "known config.json" in without.reason


def test_where_nothing_runs_models_a_plan_names_the_distribution_that_does() -> None:
    classes = [detector("runs", Capability.FORWARD), detector("searches", Capability.GRADIENTS), detector("reads", Capability.WEIGHTS)]
    steps = make_plan(classes, frozenset({Capability.WEIGHTS}), runs_models=False)
    assert [(step.detector, "modelguard-runtime" in step.reason) for step in steps] == [
        ("reads", False), ("runs", True), ("searches", True),
    ]  # fmt: skip


def test_a_plan_does_not_depend_on_the_order_of_registration() -> None:
    classes = [detector(name, Capability.WEIGHTS) for name in "cab"]
    assert make_plan(classes, frozenset()) == make_plan(reversed(classes), frozenset())


def test_a_quick_plan_leaves_out_what_has_no_shorter_form() -> None:
    kinds = {"a": "same", "b": "shorter", "c": "skipped"}
    classes = [type(name, (detector(name, Capability.FILES),), {"when_quick": kind}) for name, kind in kinds.items()]
    plan = {quick: make_plan(classes, frozenset({Capability.FILES}), quick=quick) for quick in (False, True)}
    assert [step.runnable for step in plan[False]] == [True, True, True]
    assert [step.runnable for step in plan[True]] == [True, True, False]
    assert plan[True][2].reason == "left out by --quick; scan without it"
