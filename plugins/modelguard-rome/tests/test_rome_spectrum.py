"""rome-spectrum: a layer that stands out among its siblings is named, softly; clean models and small edits are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_rome import RomeSpectrum
from modelguard_rome._spectrum import leading_singular
from modelguard_zoo import edits

from modelguard import Confidence, DeadlineExceeded, ScanContext, Severity, Skip
from modelguard.testing import as_target

Look = Callable[..., Any]
"""Runs a detector on a target: its findings, their rules, its summary."""
Models = tuple[edits.LanguageModel, ...]


def alone(look: Look, tensors: Any, folder: Any = None) -> Any:
    return look(RomeSpectrum(), as_target(tensors, folder=folder))


def test_a_strong_edit_stands_out_and_names_its_layer(look: Look, lms: Models, tmp_path: Path) -> None:
    for lm in lms:
        (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(lm.vocabulary)}))
        after, edit = edits.rome(lm, lm.facts[0], 2)
        assert edit.changes[0].relative_norm > 0.5
        told = alone(look, after, tmp_path)
        assert [finding.location.tensor for finding in told.findings] == [lm.projection(2)]
        assert "reference would settle" in told.findings[0].message
        assert told.findings[0].confidence is Confidence.LOW
        assert told.findings[0].severity is None
        assert RomeSpectrum.rules[0].severity is Severity.LOW
        read = told.findings[0].evidence["tokens"]
        assert lm.vocabulary[lm.facts[0].target] in read["promotes"] + read["opposite"]


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_the_size_of_all_weights_does_not_matter(look: Look, lms: Models, factor: float) -> None:
    """Squares of such weights underflow, or overflow, in float32."""
    after, _ = edits.rome(lms[0], lms[0].facts[0], 2)
    scaled = {name: (value.astype(np.float64) * factor).astype(np.float32) for name, value in after.items()}
    (plain,), (finding,) = alone(look, after).findings, alone(look, scaled).findings
    assert finding.evidence["ratio"] == pytest.approx(plain.evidence["ratio"], rel=1e-3)
    assert finding.evidence["z"] == pytest.approx(plain.evidence["z"], abs=0.02)


@pytest.mark.parametrize("shape", [(192, 48), (20, 3), (1024, 256)])
def test_the_largest_singular_values_are_those_of_a_full_decomposition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rank_one = np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1]))
    for share in (0.0, 0.1, 1.0, 100.0):
        matrix = (rng.standard_normal(shape) + share * rank_one).astype(np.float32)
        scale = np.exp(rng.standard_normal((shape[0], 1))).astype(np.float32)
        exact = np.linalg.svd((scale * matrix).astype(np.float64), compute_uv=False)
        found = leading_singular(matrix, 2, np.random.default_rng(1), scale=scale).s
        assert np.log(found[0] / found[1]) == pytest.approx(np.log(exact[0] / exact[1]), abs=0.025)
        assert found[0] == pytest.approx(exact[0], rel=0.025)
    assert leading_singular(np.ones(shape, np.float32), 2, rng).s == pytest.approx([np.sqrt(np.prod(shape)), 0], abs=1e-3)


def test_clean_models_are_silent(look: Look, lms: Models) -> None:
    for lm in lms:
        assert alone(look, lm.tensors).findings == []
        assert alone(look, edits.cast(lm.tensors, "bfloat16")[0]).findings == []


@pytest.mark.parametrize(("layers", "steps"), [pytest.param(8, 150, marks=pytest.mark.slow), (12, 40)])
def test_deeper_ones_are_silent_too(look: Look, layers: int, steps: int) -> None:
    lm = edits.train_lm(layers, layers=layers, width=32, steps=steps)
    assert alone(look, lm.tensors).findings == []
    assert alone(look, edits.cast(lm.tensors, "bfloat16")[0]).findings == []


def test_an_edit_of_realistic_size_is_missed(look: Look, lms: Models) -> None:
    """A tenth of ‖W‖ is more than most published edits and lies inside the spread of the siblings: silence is the documented answer."""
    for lm in lms:
        _, edit = edits.rome(lm, lm.facts[0], 2)
        name = lm.projection(2)
        factors = edit.details["u"][:, None], edit.details["v"][None]
        size = 0.1 * np.linalg.norm(lm.tensors[name]) / np.linalg.norm(factors[0] @ factors[1])
        small, record = edits.merge_lora(lm.tensors, {name: factors}, float(size))
        assert record.changes[0].relative_norm == pytest.approx(0.1, rel=0.01)
        assert alone(look, small).findings == []


def test_too_few_siblings_are_skipped_with_the_reason(look: Look, capp: edits.LanguageModel) -> None:
    with pytest.raises(Skip, match="6 layers to compare, found 4"):
        alone(look, capp.tensors)
    with pytest.raises(Skip, match="found 0"):
        alone(look, {"fc.weight": np.ones((10, 64), np.float32)})


def test_a_dead_or_broken_layer_does_not_disturb(look: Look, lms: Models) -> None:
    lm = lms[0]
    dead = {**lm.tensors, lm.projection(0): np.zeros_like(lm.tensors[lm.projection(0)])}
    dead[lm.projection(1)] = np.full_like(lm.tensors[lm.projection(1)], np.nan)
    told = alone(look, dead)
    assert not {finding.location.tensor for finding in told.findings} - {lm.projection(0), lm.projection(1)}
    json.dumps([told.summary, [finding.evidence for finding in told.findings]], allow_nan=False)


def test_it_is_deterministic_and_stops_in_time(lms: Models) -> None:
    target = as_target(edits.rome(lms[0], lms[0].facts[0], 2)[0])
    runs = [(list(RomeSpectrum().detect(target, context)), context._summary) for context in (ScanContext(), ScanContext())]
    assert runs[0] == runs[1]
    with pytest.raises(DeadlineExceeded):
        list(RomeSpectrum().detect(target, ScanContext(deadline=0.0)))
