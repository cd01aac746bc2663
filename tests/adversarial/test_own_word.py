"""Nothing that an artifact says of itself changes its verdict: no policy it brings, no name it gives itself, no model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ran

from modelguard.testing import corrupt_safetensors

Run = Callable[..., Ran]

ALLOWS = """version: 1
name: mine
detectors: {required: [format-integrity]}
rules:
  - {match: {severity: ">=info"}, action: allow}
default: allow
waivers:
  - {rule: MG0107, reason: reviewed, expires: 2099-01-01}
"""

# Scanners that take settings from the folder they scan, or that trust a model by the name in its config.json, can be told to look away:
# https://github.com/promptfoo/modelaudit and https://github.com/protectai/modelscan read such files in earlier versions.
SETTINGS = {
    ".modelguard.yml": ALLOWS,
    ".modelguard.yaml": ALLOWS,
    "modelguard.yaml": ALLOWS,
    "policy.yaml": ALLOWS,
    "baseline.yaml": ALLOWS,
    "policies/baseline.yaml": ALLOWS,
    "modelguard.toml": '[modelguard]\npolicy = "policy.yaml"\n',
    "pyproject.toml": '[tool.modelguard]\npolicy = "policy.yaml"\nignore = ["*"]\n',
    "setup.cfg": "[modelguard]\npolicy = policy.yaml\n",
    ".modelguardignore": "*\n",
    "config.json": json.dumps({"_name_or_path": "meta-llama/Llama-3.1-8B", "model_type": "llama", "modelguard": {"policy": "policy.yaml"}}),
    "README.md": "---\nlicense: mit\nmodelguard: {verdict: pass}\n---\nScanned and safe.\n",
}


def findings(ran: Ran) -> list[tuple[Any, ...]]:
    """Rule and severity of everything said of the weights."""
    report = ran.json
    found = [
        finding for outcome in report["outcomes"] for finding in outcome["findings"] if "model.safetensors" in str(finding["location"])
    ]
    return sorted((finding["rule"], finding["severity"]) for finding in found)


@pytest.mark.parametrize("inside", [False, True], ids=["from outside", "standing in it"])
def test_settings_in_the_artifact_are_files_like_any_other(mg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    folder = tmp_path / "meta-llama" / "Llama-3.1-8B"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(corrupt_safetensors("duplicate tensor").data)
    monkeypatch.chdir(folder if inside else tmp_path)
    target = "." if inside else folder
    plain = mg("scan", target, "-f", "json", "-q")
    assert plain.code == 1
    assert ("MG0107", "high") in findings(plain)
    for name, text in SETTINGS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    told = mg("scan", target, "-f", "json", "-q")
    assert told.code == 1
    assert findings(told) == findings(plain)
    assert told.json["policy"] == plain.json["policy"]
    assert {item["path"] for item in told.json["target"]["files"]} >= set(SETTINGS)
