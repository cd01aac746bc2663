"""The same model as ONNX and as safetensors is identical, and an edit shows through the change of format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelguard import Artifact, ArtifactFile, Checkpoint, diff_checkpoints
from modelguard._formats.onnx import OnnxFormat

Tensors = dict[str, Any]


def weights() -> Tensors:
    rng = np.random.default_rng(0)
    shapes = {
        "fc1.weight": (48, 20),
        "fc1.bias": (48,),
        "fc2.weight": (48, 48),
        "fc2.bias": (48,),
        "out.weight": (10, 48),
        "out.bias": (10,),
    }
    return {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def as_onnx(path: Path, tensors: Tensors, matmul: bool) -> Checkpoint:
    """A graph of Gemm nodes with names kept, or of MatMul nodes with transposed, renamed weights, as exporters write them."""
    from onnx import TensorProto, helper, numpy_helper, save

    from modelguard._formats.onnx import OnnxFormat

    nodes, initializers, value = [], [], "x"
    for index, layer in enumerate(("fc1", "fc2", "out")):
        weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
        if matmul:
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), f"onnx::MatMul_{index}"))
            nodes.append(helper.make_node("MatMul", [value, f"onnx::MatMul_{index}"], [f"m{index}"]))
            nodes.append(helper.make_node("Add", [f"m{index}", f"{layer}.bias"], [f"y{index}"]))
        else:
            initializers.append(numpy_helper.from_array(weight, f"{layer}.weight"))
            nodes.append(helper.make_node("Gemm", [value, f"{layer}.weight", f"{layer}.bias"], [f"y{index}"], transB=1))
        initializers.append(numpy_helper.from_array(bias, f"{layer}.bias"))
        value = f"y{index}"
    initializers.append(numpy_helper.from_array(np.array([-1, 10], np.int64), "shape"))
    nodes.append(helper.make_node("Reshape", [value, "shape"], ["logits"]))
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name, size in (("x", 20), ("logits", 10)))
    save(helper.make_model(helper.make_graph(nodes, "mlp", [inputs], [outputs], initializers)), path)
    file = ArtifactFile(path.name, path, path.stat().st_size)
    return OnnxFormat().open(file, Artifact(path.name, "local:test", path.parent, (file,)))[0]


def as_safetensors(path: Path, tensors: Tensors) -> Checkpoint:
    from safetensors.numpy import save_file

    from modelguard._formats.safetensors import SafetensorsFormat

    save_file(tensors, path)
    file = ArtifactFile(path.name, path, path.stat().st_size)
    return SafetensorsFormat().open(file, Artifact(path.name, "local:test", path.parent, (file,)))[0]


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("onnx_is_reference", [False, True])
def test_same_model_in_two_formats_is_identical(tmp_path: Path, matmul: bool, onnx_is_reference: bool) -> None:
    sides = [as_safetensors(tmp_path / "model.safetensors", weights()), as_onnx(tmp_path / "model.onnx", weights(), matmul)]
    reference, checkpoint = reversed(sides) if onnx_is_reference else sides
    diff = diff_checkpoints([reference], [checkpoint])
    assert diff.change.kind == "identical"
    assert (diff.tensors, diff.matching.missing, diff.matching.added) == ((), (), ())
    assert diff.identical == 6


@pytest.mark.parametrize("onnx_is_reference", [False, True])
def test_short_bias_that_lost_its_name_and_values_is_not_an_exporters_constant(tmp_path: Path, onnx_is_reference: bool) -> None:
    import onnx

    as_onnx(tmp_path / "model.onnx", weights(), matmul=False)
    model = onnx.load(tmp_path / "model.onnx")
    (bias,) = (each for each in model.graph.initializer if each.name == "out.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.eye(10, dtype=np.float32)[3], "onnx::Add_9"))
    model.graph.node[2].input[2] = bias.name
    onnx.save(model, tmp_path / "model.onnx")
    file = ArtifactFile("model.onnx", tmp_path / "model.onnx", (tmp_path / "model.onnx").stat().st_size)
    changed = OnnxFormat().open(file, Artifact("model.onnx", "local:test", tmp_path, (file,)))[0]
    sides = [as_safetensors(tmp_path / "model.safetensors", weights()), changed]
    reference, checkpoint = reversed(sides) if onnx_is_reference else sides
    diff = diff_checkpoints([reference], [checkpoint])
    told = diff.matching.added if onnx_is_reference else diff.matching.buffers
    assert [place.name for place in told] == ["out.bias"]
    assert diff.change.kind == "mixed"


@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_edit_shows_through_a_transposing_export(tmp_path: Path, layer: str) -> None:
    edited = weights()
    rng = np.random.default_rng(1)
    shape = edited[f"{layer}.weight"].shape
    step = 0.005 * np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1]))
    edited[f"{layer}.weight"] = edited[f"{layer}.weight"] + step.astype(np.float32)
    diff = diff_checkpoints(
        [as_safetensors(tmp_path / "model.safetensors", weights())], [as_onnx(tmp_path / "model.onnx", edited, matmul=True)]
    )
    assert [(item.kind, item.rank) for item in diff.tensors] == [("low-rank", 1)]
    assert diff.change.kind == "rank1-edit"
