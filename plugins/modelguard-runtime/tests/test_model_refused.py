"""Graphs that are not run, or run forward only, and why."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from modelguard_runtime.testing import built, digits_module, mlp
from onnx import TensorProto, helper
from onnx_files import export, graph, linear_graph, value

from modelguard import ModelError, ModelguardError, Skip, UsageError

pytest.importorskip("onnxruntime")


def test_disagreement_with_onnxruntime_keeps_the_model_from_being_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard_runtime.onnx import TABLE

    path = linear_graph(tmp_path / "model.onnx", [helper.make_node("Relu", ["z"], ["y"])], value("y", TensorProto.FLOAT, ["N", 3]))
    wrong = [replace(entry, run=lambda x: 1.01 * torch.relu(x)) for entry in TABLE["", "Relu"]]
    monkeypatch.setitem(TABLE, ("", "Relu"), wrong)
    with pytest.raises(ModelError, match=r"parity: our graph and onnxruntime disagree: they differ by 0\.01"):
        built(path)


def test_an_operator_we_lack_leaves_the_forward_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelguard_runtime.onnx import TABLE

    path = linear_graph(tmp_path / "model.onnx", [helper.make_node("Erf", ["z"], ["y"])], value("y", TensorProto.FLOAT, ["N", 3]))
    with_gradients = built(path)
    monkeypatch.setitem(TABLE, ("", "Erf"), [])
    model = built(path)
    assert "Erf" in model.describe()["forward_only"]
    assert model.layers == ()
    x = torch.rand(5, 6)
    np.testing.assert_allclose(model.predict(x.numpy()), with_gradients.predict(x.numpy()), atol=1e-6)
    with pytest.raises(Skip, match="forward only: operator Erf"):
        model(x.requires_grad_())


def test_two_inputs_that_may_both_be_data_are_named(tmp_path: Path) -> None:
    inputs = [value("input_ids", TensorProto.INT64, ["N", 5]), value("pixel_values", TensorProto.FLOAT, ["N", 5])]
    nodes = [helper.make_node("Cast", ["input_ids"], ["z"], to=TensorProto.FLOAT), helper.make_node("Add", ["z", "pixel_values"], ["y"])]
    path = graph(nodes, inputs, [value("y", TensorProto.FLOAT, ["N", 5])], {}, tmp_path / "clip.onnx")
    with pytest.raises(Skip, match=r"nothing says which of 'input_ids' \(int64 Nx5\), 'pixel_values' \(float Nx5\) samples go to") as skip:
        built(path)
    assert "--input data=NAME" in str(skip.value)
    assert built(path, input="data=pixel_values,input_ids=3")(torch.zeros(2, 5)).tolist() == [[3.0] * 5] * 2
    with pytest.raises(UsageError, match="the graph has no such input; its inputs are 'input_ids'"):
        built(path, input="data=nothing")


def test_external_data_is_read_from_the_artifact_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = mlp(40, 10).eval()
    plain = export(source, tmp_path / "plain.onnx", (1, 40))
    folder = tmp_path / "artifact"
    folder.mkdir()
    onnx.save_model(onnx.load(plain), str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = torch.rand(4, 40)
    torch.testing.assert_close(built(folder)(x), source(x))
    secret = tmp_path / "weights.bin"
    shutil.copy(folder / "weights.bin", secret)
    (folder / "weights.bin").unlink()
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../weights.bin"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((ModelguardError, Skip)):
        built(folder)


def test_a_subgraph_cannot_make_onnxruntime_open_a_file(tmp_path: Path) -> None:
    """A Constant whose tensor names a file: neither our importer nor onnxruntime may follow it."""
    (tmp_path / "artifact").mkdir()
    (tmp_path / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=str(tmp_path / "secret"))
    tail = [helper.make_node("Constant", [], ["c"]), helper.make_node("Add", ["z", "c"], ["y"])]
    tail[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)
    path = linear_graph(tmp_path / "artifact" / "model.onnx", tail, value("y", TensorProto.FLOAT, ["N", 3]))
    with pytest.raises((ModelguardError, Skip)):
        built(path)


def test_names_of_the_memory_address_kind_are_not_followed(tmp_path: Path) -> None:
    """onnxruntime reads a tensor whose location is this marker from an address of its own process."""
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096"), ("length", "12")):
        tensor.external_data.add(key=key, value=text)
    tail = [helper.make_node("Add", ["z", "c"], ["y"])]
    path = linear_graph(tmp_path / "model.onnx", tail, value("y", TensorProto.FLOAT, ["N", 3]))
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    with pytest.raises((ModelguardError, Skip)):
        built(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.node[0].input.__setitem__(2, "nowhere"), "nowhere"),
        (lambda g: g.output[0].CopyFrom(value("missing", TensorProto.FLOAT, ["N", 3])), "missing"),
        (lambda g: g.output[0].type.tensor_type.__setattr__("elem_type", TensorProto.INT64), "no floating-point output"),
        (lambda g: g.node[0].input.__setitem__(0, "z"), "does not depend on any input"),
        (lambda g: g.ClearField("output"), "no floating-point output"),
    ],
)
def test_malformed_graphs_are_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = linear_graph(tmp_path / "model.onnx", [], value("z", TensorProto.FLOAT, ["N", 3]))
    model = onnx.load(path)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    with pytest.raises((ModelguardError, Skip), match=message):
        built(path)


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return export(copy.deepcopy(digits_module("cnn")), tmp_path_factory.mktemp("digits") / "model.onnx").read_bytes()


@pytest.mark.parametrize("seed", range(40))
def test_mutated_files_are_run_or_refused_with_a_reason(tmp_path: Path, digits_file: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(digits_file)
    for place in rng.integers(0, 3000, 1 + seed % 4):
        data[place] = rng.integers(0, 256)
    (tmp_path / "model.onnx").write_bytes(data)
    try:
        model = built(tmp_path / "model.onnx")
    except (ModelguardError, Skip):
        return
    parity = model.describe()["parity"]
    assert parity is None or np.isfinite(parity["max_rel"])


def test_a_model_that_asks_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    path = linear_graph(tmp_path / "model.onnx", [], value("z", TensorProto.FLOAT, ["N", 3]))
    if torch.cuda.is_available():
        assert built(path, device="cuda").device.type == "cuda"
    else:
        with pytest.raises(ModelError, match="--device cuda: no CUDA device"):
            built(path, device="cuda")
