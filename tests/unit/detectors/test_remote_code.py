"""``remote-code``: configuration that names code is told, whatever else it looks like."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modelguard._detectors.remote_code import RemoteCode
from modelguard.report import Status
from modelguard.testing import check_detector, open_target, run_detector, write_safetensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import numpy as np

    write_safetensors(tmp_path / "model.safetensors", {"w": np.ones(2, np.float32)})
    return tmp_path


def test_it_keeps_the_contract(model: Path) -> None:
    check_detector(RemoteCode)


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.XModel"}}, "modeling_x.XModel"),
        ("tokenizer_config.json", {"deep": [{"auto_map": {"AutoTokenizer": ["other/repo--tok.Tok", None]}}]}, "other/repo--tok.Tok"),
        ("model_index.json", {"custom_pipelines": {"p": "pipe.Pipe"}}, "pipe.Pipe"),
    ],
)
def test_a_pointer_at_code_is_found_wherever_it_lies(model: Path, name: str, config: dict[str, object], named: str) -> None:
    (model / name).write_text(json.dumps(config))
    outcome = run_detector(RemoteCode(), open_target(model))
    assert [finding.rule for finding in outcome.findings] == ["MG0301"] + ["MG9009"] * named.startswith("other/")
    assert named in outcome.findings[0].message
    assert "auto_map" in outcome.findings[0].evidence
    assert outcome.summary["score"] == 1.0


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines", "custom_pipeline"])
@pytest.mark.parametrize("name", ["processor.json", "vocab", "prompt.txt", "video_preprocessor.jsonc"])
def test_a_pointer_is_found_whatever_the_file_is_called(model: Path, name: str, key: str) -> None:
    (model / name).write_text(json.dumps({"x": {key: {"AutoModel": "modeling_x.XModel"}}}))
    outcome = run_detector(RemoteCode(), open_target(model))
    assert [(finding.rule, finding.location.file) for finding in outcome.findings] == [("MG0301", name)]


@pytest.mark.parametrize(
    ("config", "elsewhere"),
    [
        ({"auto_map": {"AutoModel": "user/repo--modeling_x.XModel"}}, ["user/repo"]),
        ({"auto_map": {"AutoModel": "my-org/x-2.0--m.X", "AutoTokenizer": ["a/b--t.T", "c/d--t.T"]}}, ["a/b", "c/d", "my-org/x-2.0"]),
        ({"custom_pipelines": {"p": {"impl": "user/repo--pipe.Pipe"}}}, ["user/repo"]),
        ({"custom_pipeline": "lpw_stable_diffusion"}, ["lpw_stable_diffusion"]),
        ({"custom_pipeline": "user/repo"}, ["user/repo"]),
        ({"custom_pipeline": "mine"}, []),
        ({"custom_pipeline": "mine.py"}, []),
        ({"auto_map": {"AutoModel": "modeling_x.XModel"}}, []),
        ({"auto_map": {"AutoModel": "me/own--mine.X"}}, []),
    ],
)
def test_code_of_another_repository_was_not_read(model: Path, config: dict[str, object], elsewhere: list[str]) -> None:
    (model / "config.json").write_text(json.dumps(config))
    (model / "mine.py").write_text("")
    target = open_target(model)
    target = replace(target, artifact=replace(target.artifact, identity="hf:me/own"))
    findings = {item.rule: item for item in run_detector(RemoteCode(), target).findings}
    assert findings.keys() == ({"MG0301", "MG9009"} if elsewhere else {"MG0301"})
    if elsewhere:
        assert findings["MG9009"].evidence["elsewhere"] == elsewhere


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + b'{"auto_map": "a.B"}',
        '{"auto_map": "a.B"}'.encode("utf-16"),
        rb'{"\u0061uto_map": "a.B"}',
        b'{"auto_map": "a.B", "auto_map": {}}',
        b'{"auto_map": {}, "auto_map": "a.B"}',
        b'{"padding": "' + b" " * (5 << 20) + b'", "auto_map": "a.B"}',
    ],
    ids=["with BOM", "UTF-16", "escaped", "twice, first", "twice, last", "large"],
)
@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_a_pointer_is_found_however_it_is_written(model: Path, name: str, data: bytes) -> None:
    (model / name).write_bytes(data)
    outcome = run_detector(RemoteCode(), open_target(model))
    assert [finding.rule for finding in outcome.findings] == ["MG0301"]
    assert "a.B" in outcome.findings[0].message


def test_a_file_past_the_limit_is_told_and_not_parsed(model: Path) -> None:
    (model / "config.json").write_text('{"auto_map": "a.B"}')
    outcome = run_detector(RemoteCode(max_bytes=10), open_target(model))
    assert [finding.rule for finding in outcome.findings] == ["MG9008"]


def test_of_a_key_that_is_there_twice_both_values_are_told(model: Path) -> None:
    (model / "config.json").write_text('{"auto_map": "a.B", "auto_map": "c.D"}')
    outcome = run_detector(RemoteCode(), open_target(model))
    assert outcome.findings[0].evidence["auto_map"] == {"auto_map": "a.B", "auto_map#2": "c.D"}


@pytest.mark.parametrize("text", ['{"auto_map": 3: 1}', "{% if auto_map %}", "[auto_map]"])
def test_what_only_begins_like_json_is_told_where_it_names_code(model: Path, text: str) -> None:
    (model / "vocab.json").write_text(text)
    assert [finding.rule for finding in run_detector(RemoteCode(), open_target(model)).findings] == ["MG9008"]


@pytest.mark.parametrize("config", [{"model_type": "gpt2"}, {"auto_map": {}}, {"note": "auto_map is not used"}])
def test_an_ordinary_configuration_is_no_finding(model: Path, config: dict[str, object]) -> None:
    (model / "config.json").write_text(json.dumps(config))
    outcome = run_detector(RemoteCode(), open_target(model))
    assert outcome.findings == ()
    assert outcome.summary == {"score": 0.0, "configurations_read": 1}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"auto_map": ' + '"x' * 3_000_000])
def test_a_configuration_that_cannot_be_read_is_told(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    outcome = run_detector(RemoteCode(), open_target(model))
    assert [finding.rule for finding in outcome.findings] == ["MG9008"]
    assert outcome.status is Status.COMPLETED
