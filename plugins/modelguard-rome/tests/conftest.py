"""Language models to edit, trained once per session, and the way every test runs a detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from modelguard_zoo import data_folder, edits
from modelguard_zoo.testing import language_model, zoo_folder  # noqa: F401

from modelguard import Detector, Finding, ScanContext, Target


@dataclass(frozen=True)
class Looked:
    """What a detector reported."""

    findings: list[Finding]
    summary: dict[str, Any]

    @property
    def rules(self) -> set[str]:
        return {finding.rule for finding in self.findings}


@pytest.fixture(scope="session")
def look() -> Callable[[Detector, Target], Looked]:
    def run(detector: Detector, target: Target) -> Looked:
        context = ScanContext(detector=detector.id)
        findings = list(detector.detect(target, context))
        return Looked(findings, dict(context._summary))

    return run


@pytest.fixture(scope="session")
def lms(language_model: Callable[..., edits.LanguageModel]) -> tuple[edits.LanguageModel, ...]:  # noqa: F811
    """Three models that recall their facts, of different seeds."""
    return tuple(language_model(seed, width=32) for seed in (1, 2, 3))


@pytest.fixture(scope="session")
def capp() -> edits.LanguageModel:
    pytest.importorskip("torch")
    if (folder := data_folder()) is None or not (folder / "capp-gpt" / "model.safetensors").exists():
        pytest.skip("MODELGUARD_DATA names no folder with the CAPP-GPT model")
    return edits.load_capp_gpt(folder / "capp-gpt")
