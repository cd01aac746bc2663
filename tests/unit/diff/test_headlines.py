"""What the verdict's sentence says, and of how many tensors: never more than was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import Finding, ModelDiff, ScanContext, diff_checkpoints
from modelguard._diff.detector import WeightDiff
from modelguard.testing import ArrayCheckpoint, as_target

Tensors = dict[str, npt.NDArray[Any]]


def model(layers: int = 8, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {f"layers.{layer}.w": rng.standard_normal((48, 32)).astype(np.float32) for layer in range(layers)}


def difference(before: Tensors, after: Tensors) -> ModelDiff:
    return diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)])


def change(before: Tensors, after: Tensors) -> tuple[str, str]:
    found = difference(before, after).change
    return found.kind, found.reason


def scaled(tensors: Tensors) -> Tensors:
    return {name: values * np.float32(0.5 + 0.001) for name, values in tensors.items()}


def test_where_everything_was_compared_the_sentence_speaks_of_everything() -> None:
    assert change(model(), scaled(model())) == ("scaled", "8 tensors are the reference times a factor; nothing else changed")


def test_scaled_beside_most_tensors_missing_is_no_scaled_model() -> None:
    kept = dict(list(scaled(model()).items())[:2])
    kind, reason = change(model(), kept)
    assert kind == "mixed"
    assert reason == "2 tensors are the reference times a factor; only 2 of 8 tensors were compared (6 missing)"


def test_scaled_beside_a_few_missing_says_how_many() -> None:
    kept = dict(list(scaled(model()).items())[:7])
    assert change(model(), kept) == (
        "scaled",
        "7 tensors are the reference times a factor; only 7 of 8 tensors were compared (1 missing)",
    )


def test_one_of_28_that_is_identical_is_said_to_be_one_of_28() -> None:
    kind, reason = change(model(28), {"layers.0.w": model(28)["layers.0.w"]})
    assert (kind, reason) == ("mixed", "only 1 of 28 tensors was compared (27 missing); what was compared is identical")


def test_rows_beside_tensors_of_another_shape() -> None:
    after = model()
    after["layers.0.w"] = after["layers.0.w"].copy()
    after["layers.0.w"][3] += 1
    after["layers.6.w"], after["layers.7.w"] = (np.ones((5, 7), np.float32) * number for number in (2, 3))
    kind, reason = change(model(), after)
    assert kind == "row-edit"
    assert "bit-equal" not in reason
    assert reason.endswith("only 6 of 8 tensors were compared (2 of another shape)")


def test_a_fine_tune_in_which_half_has_nothing_to_do_with_the_reference() -> None:
    rng = np.random.default_rng(3)
    before = model(2)
    near = before["layers.0.w"] + 0.05 * rng.standard_normal((48, 32)).astype(np.float32)
    kind, reason = change(before, {"layers.0.w": near, "layers.1.w": rng.standard_normal((48, 32)).astype(np.float32)})
    assert (kind, reason) == ("mixed", "changes of several kinds: 1 dense, 1 unrelated")


def test_a_fine_tune_with_a_fresh_head_names_it() -> None:
    rng = np.random.default_rng(3)
    after = {name: values + 0.05 * rng.standard_normal((48, 32)).astype(np.float32) for name, values in model().items()}
    after["layers.7.w"] = rng.standard_normal((48, 32)).astype(np.float32)
    kind, reason = change(model(), after)
    assert kind == "fine-tune"
    assert "8 of 8 matrices changed densely, 1 of them uncorrelated with the reference (layers.7.w)" in reason


# What holds nothing that could be compared.


def integers(tensors: Tensors, *names: str) -> Tensors:
    return {name: np.rint(values * 30).astype(np.int8) if name in names else values for name, values in tensors.items()}


def run(before: Tensors, after: Tensors) -> tuple[list[Finding], dict[str, Any]]:
    context = ScanContext(detector="weight-diff")
    return list(WeightDiff().detect(as_target(after, before), context)), context._summary


def test_integers_against_floats_are_not_compared_and_not_called_dense() -> None:
    findings, summary = run(model(), integers(model(), "layers.3.w"))
    assert [(item["name"], item["kind"]) for item in summary["tensors"]] == [("layers.3.w", "not-compared")]
    assert {finding.rule for finding in findings} == {"MG1105", "MG1216"}
    assert summary["verdict"] == "mixed"
    assert summary["reason"] == "only 7 of 8 tensors were compared (1 that could not be compared); what was compared is identical"


def test_what_was_not_compared_does_not_make_a_fine_tune() -> None:
    after = scaled(model())
    _, summary = run(model(), integers(after, *list(after)[:6]))
    assert summary["verdict"] == "mixed"
    assert summary["reason"].startswith("2 tensors are the reference times a factor; only 2 of 8 tensors were compared (6 that could")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integers_on_both_sides_are_compared(dtype: Any) -> None:
    quantised = {name: np.rint(values * 30).astype(dtype) for name, values in model().items()}
    assert change(quantised, dict(quantised))[0] == "identical"
