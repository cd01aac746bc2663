"""Buffers that loading computes anew, experts stacked or not, and matrices in the other memory order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modelguard import ScanContext, Severity, diff_checkpoints, numpy_dtype
from modelguard._diff.detector import WeightDiff
from modelguard.testing import ArrayCheckpoint, as_target
from modelguard.testing.checkpoints import open_target, write_safetensors

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
    "embeddings.token_type_ids": np.zeros((1, 512), np.int64),
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
    assert found.change.reason == "every tensor is identical; 8 that loading computes anew are on one side only"


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def by_llama3(plain: Array) -> Array:
    """As transformers computes it (modeling_rope_utils, Llama 3.1), one by one."""
    found = []
    for value in plain.tolist():
        wave = 2 * np.pi / value
        smooth = (8192 / wave - 1.0) / (4.0 - 1.0)
        found.append(value if wave < 8192 / 4 else value / 8 if wave > 8192 else (1 - smooth) * value / 8 + smooth * value)
    return np.asarray(found)


def powers(base: float, count: int = 64) -> Array:
    return np.asarray(base ** (-np.arange(count) / count))


TURNING: dict[str, tuple[dict[str, Any], Array]] = {
    "rope_theta": ({"rope_theta": 500000.0}, powers(5e5)),
    "GPT-NeoX": ({"rotary_emb_base": 25000}, powers(25000)),
    "a part of the model": ({"text_config": {"rope_theta": 1e6}, "vision_config": {"rope_theta": 1e4}}, powers(1e6)),
    "two for one model": ({"rope_theta": 1e6, "rope_local_base_freq": 10000.0}, powers(1e4)),
    "rope_parameters": ({"rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}}, powers(15e4)),
    "linear": ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}, powers(1e4) / 4),
    "Llama 3.1": ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, by_llama3(powers(5e5))),
}


@pytest.mark.parametrize("how", TURNING)
def test_rotary_embeddings_turn_as_the_configuration_says(how: str, tmp_path: Path) -> None:
    config, frequencies = TURNING[how]
    buffer = {"layers.0.rotary_emb.inv_freq": frequencies.astype(np.float32)}
    assert told_of_files(tmp_path, model() | buffer, model(), config) == {("MG1101", Severity.LOW)}
    other = {"layers.0.rotary_emb.inv_freq": (frequencies * 1.01).astype(np.float32)}
    assert ("MG1101", Severity.LOW) not in told_of_files(tmp_path, model() | other, model(), config)


def test_the_configuration_of_the_checkpoint_counts_and_any_other_is_none(tmp_path: Path) -> None:
    """Loading computes what the checkpoint's own configuration says."""
    buffer = {"layers.0.rotary_emb.inv_freq": powers(1e4).astype(np.float32)}
    assert ("MG1101", Severity.LOW) not in told_of_files(tmp_path, model() | buffer, model(), {"rope_theta": 1e6})
    stretched = {"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    assert ("MG1101", Severity.LOW) not in told_of_files(tmp_path, model() | buffer, model(), stretched)
    for odd in ("[]", "{", '{"rope_theta": "x", "rope_scaling": 3}', '{"rope_theta": 1e999}', '{"a": ' * 400 + "1" + "}" * 400):
        told_of_files(tmp_path, model() | buffer, model(), odd)


def told_of_files(folder: Path, before: Tensors, after: Tensors, config: dict[str, Any] | str) -> set[tuple[str, Severity | None]]:
    for name, tensors in (("before", before), ("after", after)):
        (folder / name).mkdir(exist_ok=True)
        write_safetensors(folder / name / "model.safetensors", tensors)
    (folder / "after" / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    target = replace(open_target(folder / "after"), reference=open_target(folder / "before"))
    return {(finding.rule, finding.severity) for finding in WeightDiff().detect(target, ScanContext(detector="weight-diff"))}


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


PARTS = {"gate_proj": (40, 24), "up_proj": (40, 24), "down_proj": (24, 40)}
STACKED = ("stacked by part", "gpt-oss", "gpt-oss, not transposed", "DBRX")


def mixture(how: str, change: bool = False) -> Tensors:
    """Four experts with biases, in one of the ways that libraries keep them; ``change`` alters one part of one of them."""
    rng = np.random.default_rng(3)
    wide = {part: rng.standard_normal((4, *shape)).astype(np.float32) for part, shape in PARTS.items()}
    bias = {part: rng.standard_normal((4, shape[0])).astype(np.float32) for part, shape in PARTS.items()}
    if change:
        wide["up_proj"][2] += 0.1 * rng.standard_normal((40, 24)).astype(np.float32)
    found = model()
    if how in ("split", "Mixtral"):
        before, names = ("mlp", list(PARTS)) if how == "split" else ("block_sparse_moe", ["w1", "w3", "w2"])
        for part, name in zip(PARTS, names, strict=True):
            for number in range(4):
                found[f"layers.0.{before}.experts.{number}.{name}.weight"] = wide[part][number]
                found[f"layers.0.{before}.experts.{number}.{name}.bias"] = bias[part][number]
        return found
    if how == "DBRX":
        for part, name in zip(PARTS, ("w1", "v1", "w2"), strict=True):
            values = wide[part] if part != "down_proj" else wide[part].transpose(0, 2, 1)
            found[f"layers.0.ffn.experts.mlp.{name}"] = np.ascontiguousarray(values).reshape(-1, 24)
            found[f"layers.0.ffn.experts.mlp.{name}_bias"] = bias[part]
        return found
    if how == "stacked by part":
        return found | {f"layers.0.mlp.experts.{part}": wide[part] for part in PARTS} | {
            f"layers.0.mlp.experts.{part}_bias": bias[part] for part in PARTS
        }  # fmt: skip
    taking_turns = {
        "gate_up_proj": np.stack([wide["gate_proj"], wide["up_proj"]], axis=2).reshape(4, 80, 24), "down_proj": wide["down_proj"],
    }  # fmt: skip
    if how == "gpt-oss":
        taking_turns = {name: np.ascontiguousarray(values.transpose(0, 2, 1)) for name, values in taking_turns.items()}
    both = np.stack([bias["gate_proj"], bias["up_proj"]], axis=2).reshape(4, 80)
    taking_turns |= {"gate_up_proj_bias": both, "down_proj_bias": bias["down_proj"]}
    return found | {f"layers.0.mlp.experts.{name}": values for name, values in taking_turns.items()}


@pytest.mark.parametrize("how", STACKED)
@pytest.mark.parametrize("single", ["split", "Mixtral"])
def test_experts_of_every_layout_are_the_same(single: str, how: str) -> None:
    assert told(mixture(single), mixture(how)) == ("identical", set())
    assert told(mixture(how), mixture(single)) == ("identical", set())


@pytest.mark.parametrize("how", STACKED)
def test_one_changed_part_of_one_expert_is_found_in_every_layout(how: str) -> None:
    for before, after in ((mixture("split"), mixture(how, change=True)), (mixture(how), mixture("split", change=True))):
        found = diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)])
        (item,) = found.tensors
        assert "2.up_proj" in item.name
        assert item.kind == "dense"


def test_a_stack_that_lacks_an_expert_is_no_counterpart() -> None:
    before = {name: values for name, values in experts().items() if ".experts.3." not in name}
    assert diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(stacked(experts(), False))]).matching.added


# Memory order.


def test_a_matrix_written_column_by_column_is_said_to_be() -> None:
    after = model()
    after["layers.2.w"] = np.frombuffer(after["layers.2.w"].tobytes(order="F"), np.float32).reshape(48, 32)
    found = diff_checkpoints([ArrayCheckpoint(model())], [ArrayCheckpoint(after)])
    assert [(item.name, item.kind) for item in found.tensors] == [("layers.2.w", "reordered")]
    assert found.change.reason == "1 tensor changed: 1 reordered"
    assert ("MG1124", None) in told(model(), after)[1]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 2, 3, 1), (2, 3, 1, 0)])
def test_a_convolution_written_with_its_axes_in_another_order_is_said_to_be(order: tuple[int, ...]) -> None:
    """Fortran's; channels last; and as TensorFlow keeps them."""
    kernel = np.random.default_rng(5).standard_normal((8, 6, 3, 5)).astype(np.float32)
    before, after = model() | {"conv.weight": kernel}, model()
    after["conv.weight"] = np.frombuffer(kernel.transpose(order).tobytes(), np.float32).reshape(kernel.shape)
    found = diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)])
    assert [(item.name, item.kind) for item in found.tensors] == [("conv.weight", "reordered")]
    after["conv.weight"] = after["conv.weight"].copy()
    after["conv.weight"][7, 5, 2, 4] += 1
    assert diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)]).tensors[0].kind != "reordered"


def test_a_matrix_in_any_other_order_is_not() -> None:
    after = model()
    after["layers.2.w"] = np.random.default_rng(0).permutation(after["layers.2.w"].reshape(-1)).reshape(48, 32)
    found = diff_checkpoints([ArrayCheckpoint(model())], [ArrayCheckpoint(after)])
    assert found.tensors[0].kind == "unrelated"
