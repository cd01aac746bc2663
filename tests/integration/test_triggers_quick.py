"""``--quick``: a shorter look, by every detector that has one, without those that have none, and said in the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Ran

from modelguard._plugins import load

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]


def test_quick_sets_the_option_on_every_detector_that_has_it_and_the_report_says_so(mg: Run, tiny_model: Path) -> None:
    shorter = {name for name, detector in load().detectors.items() if detector.when_quick == "shorter"}
    report = mg("scan", tiny_model, "--quick", "-q", "-f", "json").json
    assert report["options"] == {name: {"quick": True} for name in shorter}
    assert mg("scan", tiny_model, "-q", "-f", "json").json["options"] == {}
    assert f"quick=true for {len(shorter)} detectors" in " ".join(mg("scan", tiny_model, "--quick", "-q").out.split())


def test_quick_leaves_out_the_searches_that_have_no_shorter_form_and_says_so(mg: Run, tiny_model: Path) -> None:
    skipped = {name for name, detector in load().detectors.items() if detector.when_quick == "skipped" and not detector.on_request}
    report = mg("scan", tiny_model, "--quick", "-q", "-f", "json").json
    left_out = {item["detector"] for item in report["outcomes"] if item["status"] == "skipped" and "--quick" in item["reason"]}
    assert left_out == skipped


def test_an_option_of_ones_own_has_the_last_word(mg: Run, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("modelguard_companions")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nname: own\nextends: [builtin:baseline]\ndetectors: {options: {mm-bd: {quick: false, steps: 7}, abs: {quick: true}}}\n"
    )
    chosen = ("--detector", "mm-bd", "--detector", "abs", "--detector", "neuron-inspect", "-q", "-f", "json")
    by_policy = mg("scan", tiny_model, "--policy", policy, *chosen).json["options"]
    assert by_policy == {"mm-bd": {"quick": False, "steps": 7}, "abs": {"quick": True}}
    quick = mg("scan", tiny_model, "--policy", policy, "--quick", "--option", "neuron-inspect.quick=false", *chosen).json["options"]
    assert quick == {"mm-bd": {"quick": True, "steps": 7}, "abs": {"quick": True}, "neuron-inspect": {"quick": False}}


@pytest.mark.parametrize("budget", ["5", "0s", "-1m", "soon"])
def test_a_budget_is_a_length_of_time(mg: Run, tiny_model: Path, budget: str) -> None:
    ran = mg("scan", tiny_model, f"--budget={budget}")
    assert ran.code == 2
    assert f"budget {budget}" in ran.err
    assert "90s, 5m or 2h" in " ".join(ran.err.split())
