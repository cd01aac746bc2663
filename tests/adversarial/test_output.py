"""Text from an artifact commands nothing it is shown in: terminals, pages, logs of CI jobs, code scanning; nor does it fill a report.

No cell of a table in comma-separated form is a formula, which spreadsheets run (tests/unit/reporters/test_reviews.py).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from everything import everything, hostile
from support import Ran

from modelguard import Confidence, Finding, Location, Reporter, SourceContext, SourceError
from modelguard._cli._progress import ProgressDisplay
from modelguard._cli._streams import complain
from modelguard._reporters import builtin_reporters
from modelguard._reporters.escape import visible
from modelguard._scanner.budget import Budget
from modelguard._sources.local import LocalSource
from modelguard.errors import SourceError as Refused
from modelguard.testing import write_safetensors

Run = Callable[..., Ran]

HOSTILE = {
    # https://nvd.nist.gov/vuln/detail/CVE-2021-42574 and terminal escapes
    "terminal": "\x1b[2J\x1b]0;pwned\x07\x9b31m\r\x08\x7f",
    "bidi": "exe\u202etxt\u2066\u2069\u200b\u200d\ufeff\u2028\u2029",
    "html": "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'<!--",
    "template": "{{ 7*7 }}{% raw %}${7*7}[bold red]x[/]",
    "markdown": "[click](http://evil.example) ![x](http://evil.example/x) `x` | a | b |",
    "sarif": "{0} {1} [a](1) \\](x)",
    # https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    "command": "::error file=a,line=1::pwned",
    "command after text": "a ::set-output name=x::y ::::stop-commands::z",
    "old command": "##[set-env name=PATH]x ##vso[task.setvariable variable=x]y",
    "formula": '=HYPERLINK("http://evil.example","x")',
    "newline": "a\n::error::pwned\r\n##[error]pwned",
}


def check(shown: str, own: str = "$.") -> None:
    """Whatever it is shown in, the text has one line for each of ours, and no character or command that acts on it.
    ``own`` is how lines begin that are commands on purpose."""
    assert shown.replace("\n", "").isprintable()
    for line in shown.splitlines():
        assert re.match(own, line) or not re.match(r"\s*::[\w-]+.*::", line), line
        assert "##[" not in line
        assert "##vso[" not in line


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("reporter", builtin_reporters(), ids=lambda item: item.format)
def test_no_report_carries_out_what_it_shows(reporter: type[Reporter], kind: str) -> None:
    report, decision = everything()
    shown = reporter().render(hostile(report, HOSTILE[kind]), hostile(decision, HOSTILE[kind]))
    check(shown, "::(error|warning) title=(MG[0-9]{4}|modelguard)[ ,:]" if reporter.format == "github" else "$.")
    if reporter.format == "html":
        assert not re.search(r"<(img src=x|!--)|onerror=alert\(1\)>", shown)
        assert shown.count("<script") == 1
        assert not re.search('href="(?!#|data:application/json;base64,)', shown)
    if reporter.format in ("json", "sarif"):
        json.loads(shown)
    if reporter.format == "sarif":
        for text in _texts(json.loads(shown)):
            assert "](" not in text
            assert not re.search(r"(?<!\{)\{\d+\}", text)


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_command_carries_out_what_a_stored_report_says(mg: Run, tmp_path: Path, kind: str) -> None:
    from modelguard import render

    report, decision = everything()
    finding = next(item for _, item in report.findings())
    target = replace(hostile(report.target, HOSTILE[kind]), identity=report.target.identity)
    stored = {"old": replace(hostile(report, HOSTILE[kind]), target=target), "new": replace(hostile(report, "x"), target=target)}
    for name, item in stored.items():
        (tmp_path / f"{name}.json").write_text(render(replace(item, failure=""), hostile(decision, HOSTILE[kind])))
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    for form in ([], ["--json"]):
        for what in (finding.rule, finding.fingerprint):
            ran = mg("explain", what, "--report", old, *form)
            assert ran.code == 0, ran.err
            check(ran.out)
    for chosen in ("console", "json"):
        for pair in ((old, new), (new, old)):
            ran = mg("report", pair[0], "--compare", pair[1], "-f", chosen)
            assert ran.code == 1, ran.err
            check(ran.out)


def _texts(value: Any) -> Iterator[str]:
    """Every message text of a SARIF document."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "message":
                yield item["text"]
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


@pytest.mark.parametrize("kind", HOSTILE)
def test_errors_and_progress_are_one_plain_line(kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._cli._progress.LINE_SECONDS", -1.0)
    complain(SourceError(HOSTILE[kind], HOSTILE[kind], HOSTILE[kind]))
    display = ProgressDisplay(quiet=False)
    display.reading(1, 2, HOSTILE[kind])
    display.reading(2, 2, HOSTILE[kind])
    display.progressed(HOSTILE[kind], 1, 2, HOSTILE[kind])
    shown = capsys.readouterr().err
    check(shown)
    assert len(shown.splitlines()) <= 4


def test_names_in_a_real_artifact_stay_names(mg: Run, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for kind in ("terminal", "bidi", "command after text", "formula", "newline", "markdown"):
        name = HOSTILE[kind].replace("/", "_").replace("\0", "_")
        (folder / f"{name}.bin").write_bytes(bytes(range(256)))
    write_safetensors(folder / "model.safetensors", {HOSTILE["command"]: np.zeros(4, np.float32)})
    ran = mg(
        "scan", folder, "-o", f"html={tmp_path / 'r.html'}", "-o", f"sarif={tmp_path / 'r.sarif'}", "-o", f"json={tmp_path / 'r.json'}"
    )
    assert ran.code in (1, 3)
    for shown in (ran.out, ran.err, *((tmp_path / f"r.{form}").read_text() for form in ("html", "sarif", "json"))):
        check(shown)
    assert mg("policy", "eval", tmp_path / "r.json").code == ran.code


def test_an_error_of_our_own_is_shown_plainly(mg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: object) -> None:
        raise RuntimeError(HOSTILE["newline"] + HOSTILE["terminal"])

    monkeypatch.setattr("modelguard._policies.load.read_text", broken)
    ran = mg("policy", "show", "x")
    assert ran.code == 3
    check(ran.err)


def test_plain_text_stays_as_it_is() -> None:
    for text in ("a:b", "module::name", "tests/a.py::", "modelguard/v1:00", "layers.0.weight", "## heading", "#[x]", "名前 é"):
        assert visible(text) == text


# Size


def test_names_that_would_fill_a_report_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._limits.PATHS", 1000)
    for number in range(4):
        (tmp_path / f"{number}{'x' * 249}").touch()
    assert len(LocalSource(tmp_path).fetch(str(tmp_path), SourceContext()).files) == 4
    (tmp_path / "y").touch()
    with pytest.raises(Refused, match="the names of its files have more than 1000 bytes"):
        LocalSource(tmp_path).fetch(str(tmp_path), SourceContext())


def finding(size: int, evidence: int) -> Finding:
    return Finding("MG0001", "m" * size, Confidence.LOW, location=Location("f"), evidence={"x": "y" * evidence})


def test_a_full_report_drops_evidence_first_and_takes_no_more_than_it_holds() -> None:
    budget = Budget(5000)
    assert budget.finding(finding(100, 3000)) == finding(100, 3000)
    slim = budget.finding(finding(100, 3000))
    assert slim is not None
    assert (slim.message, slim.evidence) == ("m" * 100, {"left_out": "the report is full"})
    assert budget.finding(finding(3000, 0)) is None
    assert budget.values({"score": 1.0}) == {"score": 1.0}
    assert budget.values({"tensors": ["x" * 5000]}) is None
    assert 0 <= budget.left < 5000


def test_a_detector_whose_findings_find_no_room_did_not_complete(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard._scanner.run.Budget", lambda: Budget(20_000))
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", {"w": np.zeros(4, np.float32)})
    for number in range(200):
        (tmp_path / "m" / f"{number:04}-{'x' * 200}.bin").write_bytes(bytes(range(256)))
    ran = mg("scan", tmp_path / "m", "-q", "-f", "json", "--detector", "format-integrity")
    assert ran.code == 3
    (outcome,) = ran.json["outcomes"]
    assert outcome["status"] == "errored"
    assert "more than the" in outcome["reason"]
    assert len(json.dumps(outcome)) < 40_000
    assert sys.getsizeof(ran.out) < 400_000
