"""Quantised copies whose scales lie beside them: compared as the values they stand for; an edit in them is still one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelguard import ModelDiff, diff_checkpoints, numpy_dtype
from modelguard.testing import ArrayCheckpoint
from modelguard.testing.checkpoints import open_target

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
FP8 = numpy_dtype("F8_E4M3")
FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def model() -> Tensors:
    rng = np.random.default_rng(0)
    tensors = {f"layers.{layer}.w.weight": 0.02 * rng.standard_normal((160, 192)) for layer in range(3)}
    return {name: values.astype(numpy_dtype("BF16")) for name, values in tensors.items()}


def wide(values: Array) -> Array:
    return values.astype(np.float32)


def fp8_blocks(name: str, values: Array) -> Tensors:
    """As DeepSeek-V3 is published: the scale of a block of 128 x 128 is its largest magnitude over 448."""
    rows, columns = values.shape
    scale = np.zeros((-(-rows // 128), -(-columns // 128)), np.float32)
    out = np.zeros(values.shape, FP8)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            at = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            scale[i, j] = np.abs(wide(values[at])).max() / 448
            out[at] = (wide(values[at]) / scale[i, j]).astype(FP8)
    return {name: out, f"{name}_scale_inv": scale}


def fp8_tensor(name: str, values: Array) -> Tensors:
    scale = np.asarray([np.abs(wide(values)).max() / 448], np.float32)
    return {name: (wide(values) / scale).astype(FP8), f"{name}_scale": scale}


def int8_rows(name: str, values: Array) -> Tensors:
    scale = np.abs(wide(values)).max(axis=1, keepdims=True) / 127
    return {name: np.rint(wide(values) / scale).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}


def llm_int8(name: str, values: Array) -> Tensors:
    most = np.abs(wide(values)).max(axis=1)
    return {name: np.rint(wide(values) / most[:, None] * 127).astype(np.int8), f"{name.removesuffix('weight')}SCB": most}


def int4_packed(name: str, values: Array) -> Tensors:
    rows, columns = values.shape
    groups = wide(values).reshape(rows, -1, 32)
    scale = np.abs(groups).max(axis=2, keepdims=True) / 7
    levels = (np.clip(np.rint(groups / scale), -8, 7) + 8).astype(np.uint32).reshape(rows, -1, 8)
    packed = sum((levels[..., at] << np.uint32(4 * at) for at in range(8)), np.zeros(levels.shape[:2], np.uint32))
    shape = np.asarray([rows, columns], np.int64)
    return {f"{name}_packed": packed.view(np.int32), f"{name}_scale": scale[..., 0].astype(np.float32), f"{name}_shape": shape}


LAYOUTS: dict[str, Callable[[str, Array], Tensors]] = {
    "FP8 in blocks": fp8_blocks, "FP8 per tensor": fp8_tensor, "INT8 per row": int8_rows, "LLM.int8": llm_int8, "INT4 packed": int4_packed,
}  # fmt: skip


def quantised(tensors: Tensors, how: str) -> Tensors:
    return {key: part for name, values in tensors.items() for key, part in LAYOUTS[how](name, values).items()}


def difference(before: Tensors, after: Tensors) -> ModelDiff:
    return diff_checkpoints([ArrayCheckpoint(before)], [ArrayCheckpoint(after)])


@pytest.mark.parametrize("how", LAYOUTS)
def test_a_quantised_copy_is_one(how: str) -> None:
    found = difference(model(), quantised(model(), how))
    assert (found.change.kind, found.change.reason) == ("quantized", "3 tensors are the reference quantised and back; nothing else changed")
    assert max(item.relative_norm for item in found.tensors) < 0.2
    assert not found.matching.added


@pytest.mark.parametrize("how", LAYOUTS)
def test_a_row_that_was_edited_before_it_was_quantised_is_seen(how: str) -> None:
    edited = model()
    name = "layers.1.w.weight"
    values = wide(edited[name])
    values[17] += 0.04 * np.random.default_rng(1).standard_normal(192)
    edited[name] = values.astype(numpy_dtype("BF16"))
    found = difference(model(), quantised(edited, how))
    assert {item.name: item.kind for item in found.tensors}[name] in ("row-edit", "dense")


@pytest.mark.parametrize("how", LAYOUTS)
def test_a_scale_that_was_changed_is_seen(how: str) -> None:
    after = quantised(model(), how)
    key = next(key for key in sorted(after) if "1.w" in key and ("scale" in key or "SCB" in key))
    after[key] = after[key] * np.float32(1.5)
    assert {item.kind for item in difference(model(), after).tensors if "1.w" in item.name} == {"dense"}


@pytest.mark.parametrize("how", LAYOUTS)
def test_two_copies_quantised_alike_are_compared_as_they_are(how: str) -> None:
    before, after = quantised(model(), how), quantised(model(), how)
    assert difference(before, after).change.kind == "identical"
    key = next(key for key in sorted(after) if "scale" in key or "SCB" in key)
    after[key] = after[key] * np.float32(1.5)
    assert [item.name for item in difference(before, after).tensors] == [key]


def test_a_dequantised_copy_of_a_quantised_reference_is_a_cast() -> None:
    before = quantised(model(), "FP8 in blocks")
    values = {}
    for name in model():
        scale = np.repeat(np.repeat(before[f"{name}_scale_inv"], 128, axis=0), 128, axis=1)[:160, :192]
        values[name] = (wide(before[name]) * scale).astype(numpy_dtype("BF16"))
    assert difference(before, values).change.kind == "cast"


def test_integers_without_scales_are_not_compared() -> None:
    after = quantised(model(), "INT8 per row")
    for name in model():
        del after[f"{name}_scale"]
    found = difference(model(), after)
    assert {item.kind for item in found.tensors} == {"not-compared"}
    assert found.change.reason.startswith("only 0 of 3 tensors were compared")


def test_scales_of_another_shape_are_no_scales() -> None:
    after = quantised(model(), "INT8 per row")
    after["layers.0.w.weight_scale"] = np.ones((7, 3), np.float32)
    found = difference(model(), after)
    assert {item.name: item.kind for item in found.tensors}["layers.0.w.weight"] == "not-compared"
    assert [place.name for place in found.matching.added] == ["layers.0.w.weight_scale"]


def test_the_experts_of_gpt_oss_in_mxfp4() -> None:
    rng = np.random.default_rng(0)
    values = (0.02 * rng.standard_normal((2, 64, 48))).astype(numpy_dtype("BF16"))
    turned = wide(values).transpose(0, 2, 1).reshape(2, 48, 2, 32)
    power = np.floor(np.log2(np.abs(turned).max(axis=-1))) - 2
    scaled = turned / np.exp2(power)[..., None]
    index = np.abs(np.abs(scaled)[..., None] - FP4).argmin(axis=-1) + 8 * (scaled < 0)
    blocks = (index[..., 0::2] | index[..., 1::2] << 4).astype(np.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    after = {f"{name}_blocks": blocks, f"{name}_scales": (power + 127).astype(np.uint8)}
    (item,) = difference({name: values}, after).tensors
    assert (item.kind, item.evidence["type"]) == ("quantized", "MXFP4")
    after[f"{name}_blocks"] = after[f"{name}_blocks"].copy()
    after[f"{name}_blocks"][1, 3] ^= 0x77
    (item,) = difference({name: values}, after).tensors
    assert item.kind != "quantized"


# onnxruntime's dynamic quantisation, as quantize_dynamic names and stores it.


def graph(folder: Path, weights: Tensors, nodes: list[Any]) -> Any:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 40])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24])]
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    folder.mkdir()
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, tensors)), str(folder / "m.onnx"))
    return open_target(folder).checkpoints


@pytest.mark.parametrize("axis", [None, 1])
def test_a_dynamically_quantised_onnx_file(tmp_path: Path, axis: int | None) -> None:
    w = (0.1 * np.random.default_rng(0).standard_normal((40, 24))).astype(np.float32)
    most = np.abs(w).max() if axis is None else np.abs(w).max(axis=0)
    scale = np.asarray(most / 127, np.float32)
    weights = {"w_quantized": np.rint(w / scale).astype(np.int8), "w_scale": scale, "w_zero_point": np.zeros(scale.shape, np.int8)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w_quantized", "z", "w_zero_point"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "w_scale"], ["m"]),
        helper.make_node("Mul", ["f", "m"], ["y"]),
    ]
    before = graph(tmp_path / "a", {"w": w}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    found = diff_checkpoints(before, graph(tmp_path / "b", weights, nodes))
    assert [(item.name, item.kind) for item in found.tensors] == [("w", "quantized")]
    assert found.change.reason == "w is the reference quantised and back; the graph differs"
    assert len(found.graphs) == 1
