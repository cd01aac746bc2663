"""Buffers that loading computes anew, experts stacked or not, and matrices in the other memory order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import ScanContext, Severity, diff_checkpoints, numpy_dtype
from modelguard._diff.detector import WeightDiff
from modelguard.testing import ArrayCheckpoint, as_target

Array = npt.NDArray[Any]
Tensors = dict[str, Array]


def model() -> Tensors:
    rng = np.random.default_rng(0)
    return {f"layers.{layer}.w": rng.standard_normal((48, 32)).astype(np.float32) for layer in range(4)}


def told(before: Tensors, after: Tensors) -> tuple[str, set[tuple[str, Severity | None]]]:
    context = ScanContext(detector="weight-diff")
    findings = list(WeightDiff().detect(as_target(after, before), context))
    return str(context._summary["verdict"]), {(finding.rule, finding.severity) for finding in findings}


CAUSAL = np.tri(64).reshape(1, 1, 64, 64)
BUFFERS: dict[str, Array] = {
    "layers.0.rotary_emb.inv_freq": (10000.0 ** (-np.arange(0, 128, 2) / 128)).astype(np.float32),
    "layers.1.rotary_emb.inv_freq": (10000.0 ** (-np.arange(0, 128, 2) / 128)).astype(numpy_dtype("BF16")),
    "embeddings.position_ids": np.arange(512).reshape(1, 512),
    "h.0.attn.bias": CAUSAL.astype(np.float32),
    "h.1.attn.bias": CAUSAL.astype(np.bool_),
    "h.0.attn.masked_bias": np.asarray(-1e4, np.float32),
    "attn_mask": np.where(np.tri(77) > 0, 0, -np.inf).astype(np.float32),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_with_exactly_the_derived_values_is_low(name: str) -> None:
    assert told(model() | {name: BUFFERS[name]}, model()) == ("identical", {("MG1101", Severity.LOW)})
    assert told(model(), model() | {name: BUFFERS[name]}) == ("identical", {("MG1102", Severity.LOW)})


@pytest.mark.parametrize("name", BUFFERS)
def test_with_any_other_value_it_is_not(name: str) -> None:
    values = BUFFERS[name].copy()
    flat = values.reshape(-1)
    at = 0 if flat.size == 1 else flat.size // 2
    flat[at] = ~flat[at] if flat.dtype == np.bool_ else flat[at] * 2 - 3 if np.isfinite(flat[at]) else -7
    assert told(model() | {name: values}, model()) == ("mixed", {("MG1101", None), ("MG1216", None)})


def test_the_values_under_another_name_are_weights() -> None:
    assert told(model() | {"layers.0.v": np.arange(512)}, model()) == ("mixed", {("MG1101", None), ("MG1216", None)})


def test_the_sentence_counts_them() -> None:
    found = diff_checkpoints([ArrayCheckpoint(model() | BUFFERS)], [ArrayCheckpoint(model())])
    assert found.change.reason == "every tensor is identical; 7 that loading computes anew are on one side only"


# Experts.


def experts(dtype: str = "BF16") -> Tensors:
    rng = np.random.default_rng(1)
    names = [f"layers.0.mlp.experts.{number}.{part}.weight" for number in range(4) for part in ("gate_proj", "up_proj", "down_proj")]
    shapes = {name: (24, 40) if "down" in name else (40, 24) for name in names}
    return model() | {name: rng.standard_normal(shapes[name]).astype(numpy_dtype(dtype)) for name in names}


def stacked(tensors: Tensors, turned: bool) -> Tensors:
    def of(part: str) -> Array:
        return np.stack([tensors[f"layers.0.mlp.experts.{number}.{part}.weight"] for number in range(4)])

    found = {"gate_up_proj": np.concatenate([of("gate_proj"), of("up_proj")], axis=1), "down_proj": of("down_proj")}
    rest = {name: values for name, values in tensors.items() if "experts" not in name}
    return rest | {
        f"layers.0.mlp.experts.{name}": np.ascontiguousarray(values.transpose(0, 2, 1) if turned else values)
        for name, values in found.items()
    }


@pytest.mark.parametrize("turned", [False, True])
def test_experts_stacked_and_split_are_the_same(turned: bool) -> None:
    one, many = stacked(experts(), turned), experts()
    assert told(many, one) == ("identical", set())
    assert told(one, many) == ("identical", set())


@pytest.mark.parametrize("turned", [False, True])
def test_an_expert_that_changed_is_found_in_the_stack(turned: bool) -> None:
    after = experts()
    name = "layers.0.mlp.experts.2.up_proj.weight"
    after[name] = (after[name].astype(np.float32) + 0.1 * np.random.default_rng(2).standard_normal((40, 24))).astype(after[name].dtype)
    found = diff_checkpoints([ArrayCheckpoint(experts())], [ArrayCheckpoint(stacked(after, turned))])
    assert [item.name for item in found.tensors] == ["layers.0.mlp.experts.gate_up_proj[2.up_proj]"]


def test_a_stack_that_lacks_an_expert_is_no_counterpart() -> None:
    before = {name: values for name, values in experts().items() if ".experts.3." not in name}
    assert diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(stacked(experts(), False))]).matching.added


# Memory order.


def test_a_matrix_written_column_by_column_is_said_to_be() -> None:
    after = model()
    after["layers.2.w"] = np.frombuffer(after["layers.2.w"].tobytes(order="F"), np.float32).reshape(48, 32)
    found = diff_checkpoints([ArrayCheckpoint(model())], [ArrayCheckpoint(after)])
    assert [(item.name, item.kind) for item in found.tensors] == [("layers.2.w", "reordered")]
    assert ("MG1124", None) in told(model(), after)[1]


def test_a_matrix_in_any_other_order_is_not() -> None:
    after = model()
    after["layers.2.w"] = np.random.default_rng(0).permutation(after["layers.2.w"].reshape(-1)).reshape(48, 32)
    found = diff_checkpoints([ArrayCheckpoint(model())], [ArrayCheckpoint(after)])
    assert found.tensors[0].kind == "unrelated"
