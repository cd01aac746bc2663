"""``remote-code``: configuration that names code is told, whatever else it looks like."""

from __future__ import annotations

import json
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
    assert [finding.rule for finding in outcome.findings] == ["MG0301"]
    assert named in outcome.findings[0].message
    assert "auto_map" in outcome.findings[0].evidence
    assert outcome.summary["score"] == 1.0


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
