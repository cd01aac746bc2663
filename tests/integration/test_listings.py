"""Commands that list and explain: rules, plugins, schemas; and progress on a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest
from support import Ran

from modelguard import Outcome, Status
from modelguard._cli._progress import LINE_SECONDS, ProgressDisplay, time_left

pytestmark = pytest.mark.usefixtures("in_process")

Run = Callable[..., Ran]


def test_rules_are_listed_in_order_with_severity_and_title(mg: Run) -> None:
    lines = mg("rules").out.splitlines()
    assert [line[:6] for line in lines] == sorted(line[:6] for line in lines)
    assert any(line.startswith("MG0101  high") for line in lines)
    listed = mg("rules", "--json").json
    assert [item["id"] for item in listed] == [line[:6] for line in lines]
    assert set(listed[0]) == {"id", "name", "title", "severity"}


def test_a_rule_is_explained(mg: Run) -> None:
    for spelling in ("MG0101", "mg0101"):
        out = mg("rules", spelling).out
        assert out.startswith("MG0101 ContentNotAsNamed: ")
        assert "reported by format-integrity" in out
        assert out.index("What it means") < out.index("What else looks like it") < out.index("What to do")
        assert max(map(len, out.splitlines())) <= 90
    explained = mg("rules", "MG0101", "--json").json
    assert explained["detectors"] == ["format-integrity"]
    assert explained["severity"] == "high"


def test_a_rule_of_the_policy_itself_is_explained_too(mg: Run) -> None:
    assert "reported by the policy's judgement" in mg("rules", "MG9001").out
    assert mg("rules", "MG9001", "--json").json["detectors"] == ["the policy's judgement"]


@pytest.mark.parametrize(("word", "hint"), [("MG0191", "did you mean MG0"), ("nonsense", "`modelguard rules` lists them")])
def test_an_unknown_rule_names_the_nearest(mg: Run, word: str, hint: str) -> None:
    ran = mg("rules", word)
    assert (ran.code, ran.out) == (2, "")
    assert f"rule {word}: there is no such rule; {hint}" in ran.err


def test_plugins_are_listed_with_what_they_register(mg: Run) -> None:
    ran = mg("plugins", "list")
    assert ran.code == 0, ran.out
    lines = ran.out.splitlines()
    assert any(line.startswith("modelguard-core ") for line in lines)
    assert len({line.index("needs") for line in lines if "  needs " in line}) == 1, "one column"
    listed = mg("plugins", "list", "--json").json
    core = next(item for item in listed["plugins"] if item["name"] == "modelguard-core")
    assert "format-integrity" in core["detectors"]
    assert {"formats:onnx", "reporters:sarif", "sources:hf"} <= set(core["registers"])
    assert listed["failures"] == []


def test_a_plugin_that_is_left_out_is_not_listed(mg: Run) -> None:
    listed = mg("plugins", "list", "--json", "-p", "no:modelguard-rome").json
    assert "modelguard-rome" not in {item["name"] for item in listed["plugins"]}


def test_two_rules_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from modelguard import Capability, Detector, PluginError, Rule, Severity
    from modelguard._plugins import load

    def detector(name: str, title: str) -> type[Detector]:
        rule = Rule("ACME-0001", "Name", title, Severity.LOW, "d", "r")
        return type(name, (Detector,), {"id": name, "requires": frozenset({Capability.FILES}), "rules": (rule,)})

    registry = replace(load(), detectors={"a": detector("a", "one thing"), "b": detector("b", "another")})
    with pytest.raises(PluginError, match="rule ACME-0001: b declares it differently"):
        registry.rules()


def test_a_plugin_that_never_finishes_importing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import time
    from importlib.metadata import EntryPoint

    from modelguard import _plugins

    monkeypatch.setattr(_plugins, "LOAD_SECONDS", 1)
    monkeypatch.setattr(_plugins, "entry_points", lambda group: [EntryPoint("sleeper", "time", group)])
    monkeypatch.setattr(EntryPoint, "load", lambda self: time.sleep(30))
    registry = _plugins.load()
    assert [(failure.name, failure.reason) for failure in registry.failures] == [("sleeper", "TimeoutError: still importing after 1 s")]
    assert _plugins.load_commands() == {}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_live_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressDisplay(quiet=False) as display:
        display.reading(1_000_000, 4_000_000, "model\x1b[31m.safetensors")
        display.started("weight-diff")
        display._began["weight-diff"] -= 3
        display.progressed("weight-diff", 1, 4, "layer 1 of 4")
        display._live.refresh()
        shown = terminal.getvalue()
        display.ended(Outcome("weight-diff", Status.COMPLETED), 1.0)
    assert "1 of 4 MB  model\\x1b[31m.safetensors" in shown
    assert "25%" in shown
    assert "layer 1 of 4" in shown
    assert "9 s left" in shown
    assert "\x1b[31m." not in shown, "what the artifact says is escaped"
    assert "completed" not in terminal.getvalue()


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr("modelguard._cli._progress.time.monotonic", lambda: now)
    with ProgressDisplay(quiet=False) as display:
        for step in range(40):
            display.progressed("weight-diff", step, 40, "")
            now += LINE_SECONDS / 10
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "modelguard: weight-diff 27% (29 s left)",
        "modelguard: weight-diff 55% (18 s left)",
        "modelguard: weight-diff 82% (7 s left)",
    ]


@pytest.mark.parametrize(
    ("done", "total", "seconds", "said"),
    [
        (0, 10, 60, ""), (1, 10, 1, ""), (5, 0, 60, ""), (10, 10, 60, ""), (5, 10, 60, "60 s left"), (1, 10, 60, "9 min left"),
        (1, 100, 240, "6.6 h left"),
    ],
)  # fmt: skip
def test_time_left_is_said_once_it_can_be_known(done: int, total: int, seconds: float, said: str) -> None:
    assert time_left(done, total, seconds) == said


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with ProgressDisplay(quiet=False) as display:
        display.ended(Outcome("a", Status.COMPLETED), 0.25)
    assert terminal.getvalue() == "modelguard: a completed in 0.2 s\n"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(quiet=True) as display:
        display.started("a")
        display.ended(Outcome("a", Status.ERRORED, "boom"), 1.0)
    assert capsys.readouterr().err == ""


def test_every_schema_is_a_schema(mg: Run) -> None:
    import jsonschema  # type: ignore[import-untyped]

    for name in ("policy", "report", "fleet"):
        jsonschema.Draft202012Validator.check_schema(mg("schema", name).json)
    assert json.loads(mg("schema", "report").out)["type"] == "object"
