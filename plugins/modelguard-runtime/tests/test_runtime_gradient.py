"""A gradient that says nothing: rounding keeps one, and a model without any runs forward only, so that no search by it completes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime._gradient import SILENT, check
from modelguard_runtime._torch_model import TorchModel
from modelguard_runtime.testing import built, digits, digits_module, mlp, runnable
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelguard import Skip
from modelguard.model import RunnableModel, Samples

pytest.importorskip("onnxruntime")

FEATURES = 6
NODE = helper.make_node

ROUNDED = [NODE("Mul", ["x", "one"], ["a"]), NODE("Round", ["a"], ["c"]), NODE("Div", ["c", "one"], ["h"])]
MASK = [NODE("Mul", ["x", "tiny"], ["t"]), NODE("Add", ["c", "t"], ["h"])]
"""A gradient that is there, and says nothing."""


def planted(folder: Path, before: Sequence[Any], after: Sequence[Any] = (), *, precision: Any = "float32") -> RunnableModel:
    """(N, 6) ``x`` -> ``before`` -> ``h`` -> a ReLU network whose logits are ``z`` -> ``after`` -> ``y``."""
    rng = np.random.default_rng(0)
    shapes = {"w": (FEATURES, 16), "b": (16,), "v": (16, 3), "table": (9,)}
    numbers = {"one": 1.0, "half": 0.5, "many": 64.0, "tiny": 1e-20, "small": 0.02}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()} | numbers
    nodes = [
        *before,
        NODE("Gemm", ["h", "w", "b"], ["g"]),
        NODE("Relu", ["g"], ["r"]),
        NODE("MatMul", ["r", "v"], ["z" if after else "y"]),
        *after,
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", FEATURES), ("y", 3)))
    stored = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()]
    stored += [numpy_helper.from_array(array, name) for name, array in {"two": np.array(2), "other": np.array([5, 4, 3, 2, 1, 0])}.items()]
    graph = helper.make_graph(nodes, "planted", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return built(folder / "model.onnx", input="range=0..4", precision=precision)


def gradient(model: RunnableModel, x: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0]


def cast(given: str, made: str, to: int) -> Any:
    return NODE("Cast", [given], [made], to=to)


@pytest.mark.parametrize(
    "before",
    [
        ROUNDED,
        [NODE("Floor", ["x"], ["h"])],
        [NODE("Ceil", ["x"], ["h"])],
        [cast("x", "c", TensorProto.INT64), cast("c", "h", TensorProto.FLOAT)],
        [cast("x", "c", TensorProto.UINT8), cast("c", "h", TensorProto.FLOAT)],
    ],
    ids=["round", "floor", "ceil", "int64", "uint8"],
)
def test_rounding_passes_the_gradient_of_what_follows(tmp_path: Path, before: list[Any]) -> None:
    model = planted(tmp_path, before)
    assert "forward_only" not in model.describe()
    assert model.layers
    whole = torch.randint(0, 5, (8, FEATURES)).float()
    (tmp_path / "plain").mkdir()
    plain = planted(tmp_path / "plain", [NODE("Identity", ["x"], ["h"])])
    torch.testing.assert_close(model(whole), plain(whole))
    torch.testing.assert_close(gradient(model, whole), gradient(plain, whole))
    assert gradient(model, whole).any()


def test_logits_rounded_to_a_64th_pass_the_gradient(tmp_path: Path) -> None:
    after = [NODE("Mul", ["z", "many"], ["a"]), NODE("Round", ["a"], ["c"]), NODE("Div", ["c", "many"], ["y"])]
    model = planted(tmp_path, [NODE("Identity", ["x"], ["h"])], after)
    assert "forward_only" not in model.describe()
    x = torch.rand(8, FEATURES)
    assert torch.equal(model(x) * 64, (model(x) * 64).round())
    assert gradient(model, x).any(1).all()


STEPPED = [NODE("Sub", ["x", "half"], ["s"]), NODE("Sign", ["s"], ["c"])]
BLIND = {
    "sign": [*STEPPED, *MASK],
    "threshold": [NODE("Greater", ["x", "half"], ["s"]), cast("s", "c", TensorProto.FLOAT), *MASK],
    "whole numbers": [cast("x", "s", TensorProto.INT64), NODE("Mul", ["s", "two"], ["d"]), cast("d", "c", TensorProto.FLOAT), *MASK],
    "look-up": [cast("x", "s", TensorProto.INT64), NODE("Gather", ["table", "s"], ["h"])],
    "of other features": [
        *STEPPED,
        NODE("Gather", ["x", "other"], ["o"], axis=1),
        NODE("Mul", ["o", "small"], ["t"]),
        NODE("Add", ["c", "t"], ["h"]),
    ],
    "of a saw's teeth": [*STEPPED, NODE("Mod", ["x", "small"], ["t"], fmod=1), NODE("Sub", ["c", "t"], ["h"])],
}
"""The last two have a gradient: a fiftieth of what changes, for each feature that of another; and a full one, that leads the wrong way."""


@pytest.mark.parametrize("before", BLIND.values(), ids=BLIND)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_whose_gradient_says_nothing_runs_forward_only(tmp_path: Path, before: list[Any], precision: str) -> None:
    model = planted(tmp_path, before, precision=precision)
    assert model.describe()["forward_only"] == SILENT
    x = torch.rand(5, FEATURES)
    assert np.isfinite(model.predict(x.numpy())).all()
    leaf = x.clone().requires_grad_()
    for differentiate in (model, lambda y: model.capture(y, []), lambda y: model.patch(y, {})):
        with pytest.raises(Skip, match="forward only: its gradient says nothing: zero, or of something else, where the output moves"):
            differentiate(leaf)
    with torch.no_grad():
        assert model(leaf).shape == (5, 3)
        assert len(model.capture(leaf, [layer.name for layer in model.layers])[1]) == len(model.layers) > 0
    # Before a detector has spent its time on what needs no gradient, and whatever it wants of the layer.
    with pytest.raises(Skip, match="its gradient says nothing"):
        model.split(model.layers[0].name)


class Alike(nn.Module):
    """Classes that differ by rounding alone, as those of a network whose weights are all the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64, 300, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = [x.flatten(1).roll(turn, 1) @ self.weight.roll(turn, 0) for turn in range(5)]  # the same sum, in another order
        return torch.cat([part.square().sum(1, keepdim=True) for part in turned], 1)


def test_classes_that_differ_by_rounding_alone_do_not_move() -> None:
    """Nothing foretells which way they round."""
    model = runnable(Alike(), (1, 8, 8), 5)
    check(model, None)  # type: ignore[arg-type]
    assert "forward_only" not in model.describe()


@pytest.mark.parametrize("kind", ["mlp", "cnn", "vit"])
def test_networks_keep_their_gradient(kind: Any) -> None:
    held_out = digits()[1]
    model = runnable(copy.deepcopy(digits_module(kind)), (1, 8, 8), 10)
    check(model, held_out)  # type: ignore[arg-type]
    assert "forward_only" not in model.describe()


class Sharp(nn.Module):
    """So sure that most softmaxes are 0 or 1 to the bit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = mlp(FEATURES, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(2000 * self.inner(x), 1)


class Dead(nn.Module):
    """Where the first ReLU is shut, for all but few inputs, so is the gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x[:, :3] - 0.9)


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 3) + 0 * x[:, :3]


class Broken(nn.Module):
    """NaN is no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + torch.sqrt(0 * x[:, :3])


class Detached(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3].detach() ** 2


@pytest.mark.parametrize(
    ("module", "silent"),
    [(Sharp, False), (Dead, False), (Constant, False), (Broken, True), (Detached, True)],
    ids=["sharp", "dead", "constant", "broken", "detached"],
)
def test_a_gradient_that_is_zero_here_and_there_is_one(module: type[nn.Module], silent: bool) -> None:
    model = runnable(module(), (FEATURES,), 3)
    assert isinstance(model, TorchModel)
    edges = Samples(np.eye(FEATURES, dtype=np.float32), None, "edges.npz", "")
    check(model, edges)
    assert model.facts.forward_only == (SILENT if silent else None)


def test_a_model_that_fails_where_it_is_probed_is_not_taken_for_one_with_a_gradient() -> None:
    class Refusing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.requires_grad:
                raise RuntimeError("not to be differentiated")
            return x[:, :3]

    model = runnable(Refusing(), (FEATURES,), 3)
    check(model, None)  # type: ignore[arg-type]
    assert "cannot be checked: the model fails while it runs (RuntimeError: not to be" in model.describe()["forward_only"]


def test_tokens_are_not_probed() -> None:
    model = runnable(nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(20, 3)), (5,), 3, high=10.0, layout="NT")
    check(model, None)  # type: ignore[arg-type]
    assert "forward_only" not in model.describe()


@pytest.mark.parametrize("name", ["Round", "Floor", "Ceil"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rounded_values_are_exact_however_large(name: str, dtype: torch.dtype) -> None:
    from modelguard_runtime.onnx import TABLE

    large = torch.finfo(dtype).max
    x = torch.tensor([0.5, 1.5, -0.3, 0.3, 1e-7, 16777217.0, -8388607.5, large, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    run = TABLE["", name][0].run
    expected = {"Round": torch.round, "Floor": torch.floor, "Ceil": torch.ceil}[name](x)
    leaf = x.clone().requires_grad_()
    assert torch.equal(run(leaf).detach().nan_to_num(7), expected.nan_to_num(7))
    assert torch.autograd.grad(run(leaf).sum(), leaf)[0].eq(1).all()
    mapped = torch.func.vmap(torch.func.grad(lambda v: run(v).sum()))(x[:8].reshape(4, 2))
    assert mapped.eq(1).all()
