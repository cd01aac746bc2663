"""Products in reduced precision, everything else in float32; and the same on a GPU, where there is one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from modelguard_runtime import _parity as parity
from modelguard_runtime._torch_model import TorchModel
from modelguard_runtime.testing import ViT, digits, digits_module, runnable
from torch import nn

from modelguard import ModelError

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
WHERE = ["cpu", pytest.param("cuda", marks=CUDA)]


class Seen(nn.Module):
    """Notes what the layer before it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.dtypes.append(x.dtype)
        return x


def model_of(module: nn.Module, shape: tuple[int, ...] = (1, 8, 8)) -> TorchModel:
    model = runnable(module, shape, 10)
    assert isinstance(model, TorchModel)
    return model


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_are_in_reduced_precision_and_everything_seen_is_float32(device: str, precision: str) -> None:
    seen = Seen()
    inner = copy.deepcopy(digits_module("cnn"))
    assert isinstance(inner, nn.Sequential)
    model = model_of(nn.Sequential(inner[0], seen, *list(inner)[1:]))
    _, test = digits()
    x = model.inputs(test)[:64].requires_grad_()
    expected = model(x)
    (slope,) = torch.autograd.grad(expected[:, 3].sum(), x)
    parity.move(model, device, precision)
    seen.dtypes.clear()
    moved = x.detach().to(device).requires_grad_()
    logits = model(moved)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), moved)
    assert seen.dtypes == [getattr(torch, precision)]
    assert (logits.dtype, gradient.dtype, logits.device.type) == (torch.float32, torch.float32, device)
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    assert (logits.cpu() - expected).abs().max() <= 0.05 * expected.abs().max()
    assert not torch.equal(logits.cpu(), expected), "it did compute in another precision"
    assert torch.cosine_similarity(gradient.cpu().flatten(), slope.flatten(), 0) > 0.95
    assert (logits.argmax(1).cpu() == expected.argmax(1)).float().mean() > 0.95
    front, back = model.split("3")
    torch.testing.assert_close(back(front(moved)), logits, atol=0.05, rtol=0.05)
    facts = json.loads(json.dumps(model.describe()["precision"]))
    assert facts["computed_in"] == precision
    assert 0 < facts["max_rel"] <= facts["tolerance"]
    assert facts["gradient_cosine"] > 0.95


@pytest.mark.parametrize("device", WHERE)
def test_it_can_be_mapped_over_classes_in_bfloat16(device: str) -> None:
    """Without normalisation layers: torch's batching rules of those do not know autocast (pytorch#184890, #192617)."""
    torch.manual_seed(0)
    model = model_of(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)))
    parity.move(model, device, "bfloat16")
    masks, x = torch.rand(3, 1, 8, 8, device=device), torch.rand(4, 1, 8, 8, device=device)

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return model((1 - mask) * x + mask).sum()

    gradients = torch.func.vmap(torch.func.grad(loss))(masks)
    assert gradients.dtype == torch.float32
    for mask, gradient in zip(masks, gradients, strict=True):
        leaf = mask.clone().requires_grad_()
        expected = torch.autograd.grad(loss(leaf), leaf)[0]
        assert torch.cosine_similarity(gradient.flatten(), expected.flatten(), 0) > 0.95


@pytest.mark.parametrize("device", WHERE)
def test_transformers_too(device: str) -> None:
    torch.manual_seed(0)
    model = model_of(ViT())
    parity.move(model, device, "bfloat16")
    assert model.describe()["precision"]["gradient_cosine"] > 0.95


def test_a_precision_that_computes_something_else_is_refused() -> None:
    """The difference of two numbers that are one in bfloat16."""

    class Fine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)
            nn.init.constant_(self.linear.bias, 1000.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            difference: torch.Tensor = self.linear(x.flatten(1)) - 1000
            return difference

    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"bfloat16 on cpu: does not compute what float32 on the CPU does: .*; use --device cpu"):
        parity.move(model_of(Fine()), "cpu", "bfloat16")


@CUDA
def test_a_file_goes_to_the_gpu_and_is_held_against_the_cpu_there(tmp_path: Path) -> None:
    from modelguard_runtime.testing import built
    from safetensors.torch import save_file

    torch.manual_seed(0)
    source = nn.Sequential(nn.Linear(6, 3))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model: Any = built(tmp_path, device="cuda")
    assert model.device.type == "cuda"
    assert model.describe()["precision"]["computed_in"] == "float32"
    x = torch.rand(2, 6)
    torch.testing.assert_close(model(x).cpu(), source(x), atol=1e-2, rtol=1e-2)


def test_a_gpu_that_is_full_is_said_so_when_the_model_moves_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model = model_of(copy.deepcopy(digits_module("mlp")))
    monkeypatch.setattr(model, "to", full)
    with pytest.raises(ModelError, match="needs more memory than the GPU has left; use --device cpu"):
        parity.move(model, "cuda", "float32")


class Lookup(nn.Module):
    """No gradient leads back from it, whatever it computes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[x.flatten(1)[:, 0].long()]


class Flat(nn.Module):
    """A gradient of zero throughout."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), 10) + 0 * x.flatten(1)[:, :10]


@pytest.mark.parametrize(("module", "cosine"), [(Lookup, None), (Flat, 1.0)])
def test_models_without_a_gradient_move_all_the_same(module: type[nn.Module], cosine: float | None) -> None:
    model = model_of(module())
    parity.move(model, "cpu", "bfloat16")
    assert model.facts.precision is not None
    assert model.facts.precision.gradient_cosine == cosine
