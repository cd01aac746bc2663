"""ONNX graphs whose batch is not free, or that fail on some inputs: run in chunks, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import built
from onnx import TensorProto, helper, numpy_helper

from modelguard import ModelError

ort = pytest.importorskip("onnxruntime")

WEIGHTS = {
    "w": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32),
    "v": np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32),
}
TAIL = [
    helper.make_node("MatMul", ["h", "w"], ["g"]),
    helper.make_node("Relu", ["g"], ["r"]),
    helper.make_node("MatMul", ["r", "v"], ["y"]),
]
ROW = np.array([1, -1], np.int64)
BACK = np.array([-1, 6], np.int64)


def graph(path: Path, nodes: list[Any], batch: int | str, weights: dict[str, Any] = WEIGHTS) -> Path:
    """(batch, 6) -> ``nodes``, which make ``y`` (batch, 3)."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def reference(path: Path, x: np.ndarray, batch: int) -> np.ndarray:
    """onnxruntime on ``batch`` inputs at a time; the last are filled up with copies of the last."""
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    padded = np.concatenate([x, np.repeat(x[-1:], -len(x) % batch, 0)])
    return np.concatenate([session.run(None, {"x": part})[0] for part in np.split(padded, len(padded) // batch)])[: len(x)]


MIXING = [
    helper.make_node("Reshape", ["x", "row"], ["a"]),
    helper.make_node("Softmax", ["a"], ["s"]),
    helper.make_node("Reshape", ["s", "back"], ["h"]),
    *TAIL,
]
COUPLED = [helper.make_node("ReduceMean", ["x", "zero"], ["m"], keepdims=1), helper.make_node("Sub", ["x", "m"], ["h"]), *TAIL]
FROZEN = [
    helper.make_node("Slice", ["x", "zero", "four", "one"], ["c"]),
    helper.make_node("Concat", ["token", "c"], ["h"], axis=1),
    *TAIL,
]
SHAPES = {
    "row": ROW,
    "back": BACK,
    "zero": np.array([0]),
    "one": np.array([1]),
    "four": np.array([4]),
    "token": np.ones((1, 2), np.float32),
}


@pytest.mark.parametrize(
    ("nodes", "declared", "batch"),
    [(MIXING, "N", 1), (FROZEN, "N", 1), (COUPLED, 2, 2), (COUPLED, 3, 3)],
    ids=["a free batch that is mixed up", "a free batch that is frozen", "two inputs", "three inputs"],
)
def test_it_runs_in_chunks(tmp_path: Path, nodes: list[Any], declared: int | str, batch: int) -> None:
    path = graph(tmp_path / "model.onnx", nodes, declared, WEIGHTS | SHAPES)
    model = built(path)
    facts = model.describe()
    assert (facts["batch"], facts["parity"]["ok"]) == (batch, True)
    x = torch.rand(7, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(x)
    np.testing.assert_allclose(logits.detach().numpy(), reference(path, x.detach().numpy(), batch), atol=1e-5)
    np.testing.assert_allclose(model.predict(x.detach().numpy()), logits.detach().numpy(), atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
    assert gradient.abs().sum() > 0
    assert [(layer.kind, layer.shape) for layer in model.layers if layer.kind != "other"] == [
        ("linear", (4,)), ("activation", (4,)), ("linear", (3,)),
    ]  # fmt: skip
    shift = torch.arange(7.0).reshape(7, 1)
    for layer in model.layers:
        again, found = model.capture(x, [layer.name])
        activation = found[layer.name]
        assert activation.shape == (7, *layer.shape)
        torch.testing.assert_close(again, logits)
        assert torch.autograd.grad(again[:, 1].sum(), activation, retain_graph=True)[0].abs().sum() > 0
        front, back = model.split(layer.name)
        torch.testing.assert_close(back(front(x)), logits)
        torch.testing.assert_close(torch.autograd.grad(back(front(x))[:, 1].sum(), x)[0], gradient)
        torch.testing.assert_close(model.patch(x, {layer.name: lambda value: value + shift}), back(front(x) + shift))


def test_chunks_can_be_mapped_over_classes(tmp_path: Path) -> None:
    model = built(graph(tmp_path / "model.onnx", COUPLED, 2, WEIGHTS | SHAPES))
    x, deltas = torch.rand(4, 6), torch.rand(3, 6)
    mapped = torch.func.vmap(torch.func.grad(lambda delta: model(x + delta)[:, 0].square().sum()))(deltas)
    for delta, gradient in zip(deltas, mapped, strict=True):
        leaf = delta.clone().requires_grad_()
        expected = torch.autograd.grad(model(x + leaf)[:, 0].square().sum(), leaf)[0]
        torch.testing.assert_close(gradient, expected)


def test_a_reshape_for_one_input_works_for_many(tmp_path: Path) -> None:
    """What a legacy export of ``x.reshape(1, 6)`` says, with the batch fixed to one."""
    nodes = [helper.make_node("Reshape", ["x", "row"], ["h"]), *TAIL]
    model = built(graph(tmp_path / "model.onnx", nodes, 1, WEIGHTS | SHAPES))
    x = torch.rand(5, 6)
    assert "batch" not in model.describe()
    expected = np.maximum(x.numpy() @ WEIGHTS["w"], 0) @ WEIGHTS["v"]
    np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-5)


LOOK_UP = [
    helper.make_node("ReduceMax", ["x", "one"], ["m"], keepdims=0),
    helper.make_node("Cast", ["m"], ["i"], to=TensorProto.INT64),
    helper.make_node("Gather", ["table", "i"], ["y"]),
]


def test_what_fails_only_on_some_inputs_is_one_line(tmp_path: Path) -> None:
    """A table of two rows, looked up by the largest value of the input: 0..1 on the inputs it was checked with."""
    weights = {"table": 2 * np.eye(2, 3, dtype=np.float32), "one": np.array([1])}
    model = built(graph(tmp_path / "model.onnx", LOOK_UP, "N", weights))
    torch.testing.assert_close(model(torch.zeros(2, 6)), torch.tensor([[2.0, 0, 0]] * 2))
    fine, wrong = torch.zeros(2, 6), torch.full((2, 6), 9.0)
    for use in (
        lambda: model(wrong),
        lambda: model.capture(wrong, []),
        lambda: model.patch(wrong, {}),
        lambda: model.predict(wrong.numpy()),
    ):
        with pytest.raises(ModelError) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        assert str(caught.value).count("; ") == 1
    assert model(fine).shape == (2, 3)


def test_a_cut_that_is_given_something_else_is_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["h"]), *TAIL]
    model = built(graph(tmp_path / "model.onnx", nodes, "N"))
    front, back = model.split(model.layers[0].name)
    assert back(front(torch.rand(2, 6))).shape == (2, 3)
    with pytest.raises(ModelError, match=r"model: fails while it runs \(RuntimeError: .*shapes cannot be multiplied.*\); check that"):
        back(torch.rand(2, 5))


def test_an_edit_that_fails_says_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["h"]), *TAIL]
    model = built(graph(tmp_path / "model.onnx", nodes, "N"))
    with pytest.raises(ModelError, match=r"fails while it runs \(ZeroDivisionError: division by zero\)"):
        model.patch(torch.rand(2, 6), {model.layers[0].name: lambda value: value * (1 / 0)})


def test_parity_is_checked_on_a_batch_of_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our Relu made wrong for one input alone: three together would not show it."""
    from dataclasses import replace

    from modelguard_runtime.onnx import TABLE

    entries = TABLE["", "Relu"]
    wrong = [replace(entry, run=lambda x: torch.relu(x) * (1.01 if x.shape[0] == 1 else 1)) for entry in entries]
    monkeypatch.setitem(TABLE, ("", "Relu"), wrong)
    nodes = [helper.make_node("Identity", ["x"], ["h"]), *TAIL]
    with pytest.raises(ModelError, match="our graph and onnxruntime disagree"):
        built(graph(tmp_path / "model.onnx", nodes, "N"))
