"""CycloneDX: valid by the library's own schema, the same text each time, and nothing of the artifact's that drives a terminal."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from everything import everything

from modelguard.api import render

validation: Any = pytest.importorskip("cyclonedx.validation.json", reason="the extra `bom` is not installed")


def test_a_bill_of_materials() -> None:
    from cyclonedx.schema import SchemaVersion

    report, decision = everything()
    target = replace(
        report.target, identity="hf:org/name", revision="0" * 40, licence="apache-2.0", base_models=("org/base",),
        files=tuple(replace(file, sha256=file.sha256 or "a" * 64) for file in report.target.files),
    )  # fmt: skip
    text = render(replace(report, target=target), decision, "cyclonedx")
    assert text == render(replace(report, target=target), decision, "cyclonedx")
    assert {char for char in text if not char.isprintable()} == {"\n"}
    with contextlib.suppress(validation.MissingOptionalDependencyException):
        assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    model = document["metadata"]["component"]
    assert (model["type"], model["purl"]) == ("machine-learning-model", f"pkg:huggingface/org/name@{'0' * 40}")
    assert model["licenses"] == [{"license": {"name": "apache-2.0"}}]
    assert model["pedigree"]["ancestors"][0]["purl"] == "pkg:huggingface/org/base"
    assert {item["name"]: item["value"] for item in model["properties"]}["modelguard:verdict"] == decision.verdict.value
    digests = {item["name"]: item["hashes"][0]["content"] for item in document["components"]}
    assert len(digests) == len(target.files)
    assert set(digests.values()) == {file.sha256 for file in target.files}


def test_a_model_that_was_not_read_has_no_digest() -> None:
    report, decision = everything()
    empty = replace(report, target=replace(report.target, files=(), identity="", revision=None))
    document = json.loads(render(empty, decision, "cyclonedx"))
    assert "hashes" not in document["metadata"]["component"]
    assert document.get("components", []) == []
