"""One summary of many models."""

from __future__ import annotations

import json

import pytest

from modelguard._fleet.run import Done
from modelguard._fleet.summary import FORMATS, render, summary
from modelguard._fleet.targets import FleetTarget
from modelguard._fleet.work import lost, perform
from modelguard.report import PolicyInfo

HOSTILE = "<script>alert(1)</script>\x1b[31m"


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_without_a_report_is_in_every_format_and_nothing_hostile_is(form: str) -> None:
    targets = [FleetTarget("a"), FleetTarget(HOSTILE), FleetTarget("=1+1"), FleetTarget("never")]
    done = Done(rows={item.key: lost(f"died of {HOSTILE}") for item in targets[:3]})
    document = summary(targets, done, PolicyInfo("gate", "0" * 64), None)
    assert (document["exit_code"], document["not_scanned"], document["counts"]["incomplete"]) == (3, 1, 3)
    text = render(document, form)
    assert "\x1b" not in text
    assert "died of" in text
    if form == "html":
        assert HOSTILE[:8] not in text.split('<body class="broad">')[1].split("</footer>")[0].replace("&lt;", "")
        assert "alert(1)" in text
    if form == "csv":
        assert "\n'=1+1," in text


def test_what_no_scan_can_be_made_of_is_a_row_too() -> None:
    asked = {"policy": "/no/such/policy.yaml", "quick": False, "budget": None, "without": [], "run": {}}
    answer = json.loads(perform(json.dumps({"asked": asked, "target": {"uri": "a", "name": "", "lock": ""}})))
    assert answer["report"] == ""
    assert set(answer["row"]) == set(lost(""))
    assert (answer["row"]["verdict"], answer["row"]["exit_code"]) == ("incomplete", 3)
    assert "/no/such/policy.yaml" in answer["row"]["reasons"][0]["message"]
