"""Counterparts across names, layouts, fusing, shards and formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelguard import diff_checkpoints
from modelguard.testing import ArrayCheckpoint

Tensors = dict[str, Any]


def model(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    d = 24
    shapes = {"model.embed_tokens.weight": (60, d), "model.norm.weight": (d,)}
    for layer in range(3):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (d, d) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (3 * d, d) for name in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": (d, 3 * d), f"{prefix}.self_attn.q_proj.bias": (d,)}
    return {name: (0.02 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


class Onnx(ArrayCheckpoint):
    format = "onnx"


def compare(reference: Tensors, checkpoint: Tensors, kind: type[ArrayCheckpoint] = ArrayCheckpoint) -> Any:
    return diff_checkpoints([ArrayCheckpoint(reference)], [kind(checkpoint)])


def assert_identical(diff: Any) -> None:
    assert diff.change.kind == "identical", diff.change
    assert (diff.tensors, diff.matching.missing, diff.matching.added, diff.matching.resized) == ((), (), (), ())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "transformer.", "base_model.model."])
def test_wrapper_prefixes(prefix: str) -> None:
    assert_identical(compare(model(), {prefix + name: value for name, value in model().items()}))
    assert_identical(compare({prefix + name: value for name, value in model().items()}, model()))


def test_transposed_projections() -> None:
    assert_identical(compare(model(), {k: v.T if v.ndim == 2 and "mlp" in k else v for k, v in model().items()}))


def test_square_matrices_of_another_format_may_be_transposed() -> None:
    assert_identical(compare(model(), {k: v.T if v.ndim == 2 and "self_attn" in k else v for k, v in model().items()}, Onnx))


def test_onnx_without_names_is_identical() -> None:
    exported = {f"onnx::MatMul_{index}": v.T if v.ndim == 2 else v for index, (k, v) in enumerate(model().items())}
    exported |= {"shape": np.array([1, -1, 24]), "scale": np.array(0.125, np.float32)}
    diff = compare(model(), exported, Onnx)
    assert_identical(diff)
    assert diff.matching.constants == ("scale", "shape")


def test_edit_is_seen_where_names_are_lost() -> None:
    exported = {f"onnx::MatMul_{index}": v.T if v.ndim == 2 else v for index, v in enumerate(model().values())}
    edited = next(name for name, value in exported.items() if value.shape == (24, 72))
    rng = np.random.default_rng(5)
    exported[edited] = exported[edited] + (0.001 * np.outer(rng.standard_normal(24), rng.standard_normal(72))).astype(np.float32)
    diff = compare(model(), exported, Onnx)
    assert [(item.name, item.kind, item.rank, item.matched) for item in diff.tensors] == [(edited, "low-rank", 1, "similar")]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("fused_reference", [False, True])
def test_fused_projections(axis: int, fused_reference: bool) -> None:
    fused = {k: v for k, v in model().items() if not any(part in k for part in ("q_proj.w", "k_proj", "v_proj", "gate", "up_"))}
    for layer in range(3):
        prefix = f"model.layers.{layer}"
        qkv = np.concatenate([model()[f"{prefix}.self_attn.{name}_proj.weight"] for name in "qkv"])
        fused[f"{prefix}.self_attn.qkv_proj.weight"] = qkv.T if axis else qkv
        fused[f"{prefix}.mlp.gate_up_proj.weight"] = np.concatenate(
            [model()[f"{prefix}.mlp.{name}_proj.weight"] for name in ("gate", "up")]
        )
    assert_identical(compare(fused, model()) if fused_reference else compare(model(), fused))


def test_edit_inside_a_fused_projection_names_the_part() -> None:
    fused = {k: v for k, v in model().items() if ".1.mlp.gate" not in k and ".1.mlp.up" not in k}
    parts = [model()[f"model.layers.1.mlp.{name}_proj.weight"] for name in ("gate", "up")]
    parts[1] = parts[1] + np.float32(0.001) * np.random.default_rng(0).standard_normal(parts[1].shape).astype(np.float32)
    fused["model.layers.1.mlp.gate_up_proj.weight"] = np.concatenate(parts)
    (changed,) = compare(model(), fused).tensors
    assert (changed.name, changed.tensor) == ("model.layers.1.mlp.gate_up_proj.weight[up_proj]", "model.layers.1.mlp.gate_up_proj.weight")


def test_tied_head_stored_once_or_twice() -> None:
    untied = model() | {"lm_head.weight": model()["model.embed_tokens.weight"]}
    assert_identical(compare(untied, model()))
    assert_identical(compare(model(), untied))


def test_edited_copy_of_a_tied_head_is_not_waved_through() -> None:
    head = model()["model.embed_tokens.weight"].copy()
    head[7] += np.float32(0.01)
    diff = compare(model(), model() | {"lm_head.weight": head})
    assert [(item.name, item.kind, item.matched) for item in diff.tensors] == [("lm_head.weight", "row-edit", "tied")]


def test_grown_vocabulary_with_equal_old_rows() -> None:
    grown = model()
    grown["model.embed_tokens.weight"] = np.concatenate([grown["model.embed_tokens.weight"], np.ones((4, 24), np.float32)])
    diff = compare(model(), grown)
    assert diff.tensors == ()
    assert [after.name for _, after in diff.matching.resized] == ["model.embed_tokens.weight"]
    assert diff.change.kind != "identical"


def test_other_sharding_and_a_missing_shard() -> None:
    names = sorted(model())
    halves = [{name: model()[name] for name in part} for part in (names[:7], names[7:])]
    shards = [ArrayCheckpoint(half, f"model-0000{index + 1}-of-00002") for index, half in enumerate(halves)]
    assert_identical(diff_checkpoints([ArrayCheckpoint(model())], shards))
    partial = diff_checkpoints([ArrayCheckpoint(model())], shards[:1])
    assert [place.name for place in partial.matching.missing] == names[7:]
    assert partial.change.kind != "identical"


def test_other_architecture_is_unrelated_and_does_not_crash() -> None:
    rng = np.random.default_rng(9)
    other = {
        "conv1.weight": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "fc.weight": rng.standard_normal((10, 8)).astype(np.float32),
    }
    diff = compare(model(), other)
    assert diff.change.kind == "unrelated"
    assert len(diff.matching.added) == 2


def test_several_checkpoints_are_paired_by_name() -> None:
    parts = [ArrayCheckpoint(model(1), "unet/model"), ArrayCheckpoint(model(2), "vae/model")]
    edited = model(2)
    edited["model.norm.weight"] = edited["model.norm.weight"] + np.float32(0.01) * np.arange(24, dtype=np.float32)
    diff = diff_checkpoints(parts, [parts[0], ArrayCheckpoint(edited, "vae/model")])
    assert [item.name for item in diff.tensors] == ["vae/model/model.norm.weight"]
    extra = diff_checkpoints(parts[:1], parts)
    assert extra.matching.unpaired == ("vae/model",)
    assert extra.change.kind != "identical"


def test_a_model_stored_twice_and_edited_once_is_one_edit() -> None:
    edited = model()
    rng = np.random.default_rng(9)
    name = "model.layers.1.mlp.down_proj.weight"
    edited[name] = edited[name] + np.outer(rng.standard_normal(24), 0.005 * rng.standard_normal(72)).astype(np.float32)
    both = diff_checkpoints([ArrayCheckpoint(model()), Onnx(model())], [ArrayCheckpoint(edited), Onnx(edited)])
    assert both.change.kind == "rank1-edit"
    assert len(both.tensors) == 2
    one = diff_checkpoints([ArrayCheckpoint(model()), Onnx(model())], [ArrayCheckpoint(model()), Onnx(edited)])
    assert one.change.kind == "rank1-edit", "the other copy being intact makes the edited one no better"


def test_files_with_equal_digests_are_not_read() -> None:
    class Unreadable(ArrayCheckpoint):
        def raw(self, name: str) -> memoryview:
            raise AssertionError(name)

    digest = {"model.safetensors": "0" * 64}
    diff = diff_checkpoints([Unreadable(model())], [Unreadable(model())], reference_digests=digest, digests=digest)
    assert_identical(diff)
    assert len(diff.by_digest) == len(model())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_integer_weights_that_one_format_adds_are_no_constants(dtype: Any) -> None:
    branch = np.random.default_rng(3).integers(0, 100, (24, 24)).astype(dtype)
    diff = compare(model(), model() | {"branch": branch, "axes": np.arange(4)}, Onnx)
    assert [place.name for place in diff.matching.added] == ["branch"]
    assert diff.matching.constants == ("axes",)
    assert diff.change.kind != "identical"


def test_integer_buffers_that_an_export_leaves_out_are_not_passed_over() -> None:
    diff = compare(model() | {"position_ids": np.arange(512)}, model(), Onnx)
    assert [place.name for place in diff.matching.buffers] == ["position_ids"]
    assert diff.matching.missing == ()
    assert diff.change.kind != "identical"
