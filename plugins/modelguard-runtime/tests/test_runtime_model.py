"""One runnable model over any torch module: raw domain in, logits out, activations captured, patched and cut."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from modelguard_runtime.testing import ViT, cnn, digits, digits_module, mlp, runnable
from torch import nn

from modelguard import ModelError
from modelguard.model import RunnableModel, Samples


@pytest.fixture(scope="module")
def model() -> RunnableModel:
    return runnable(copy.deepcopy(digits_module("cnn")), (1, 8, 8), 10)


def raw(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """A convolution around which the input also passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.inner(x) + x)
        return self.last(x.mean((2, 3)))  # type: ignore[no-any-return]


class Untraceable(nn.Module):
    """Control flow on a value, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.act, self.out = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.hidden(x))
        if bool(torch.isfinite(hidden).all()):
            hidden = 2 * hidden
        return self.out(hidden)  # type: ignore[no-any-return]


def test_the_model_understands_digits(model: RunnableModel) -> None:
    _, test = digits()
    assert (model.predict(model.inputs(test).numpy()).argmax(1) == test.labels).mean() > 0.95


def test_it_is_frozen(model: RunnableModel) -> None:
    before = model(raw())
    module = model.module  # type: ignore[attr-defined]
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    x = raw().requires_grad_()
    model(x).sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    assert x.grad is not None
    assert torch.equal(before, model(raw())), "running it must not change batch-norm statistics"


def test_normalisation_and_layout_are_undone_and_the_gradient_reaches_raw_pixels() -> None:
    class Last(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[-1] == 3
            return self.inner(x.permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    inner = cnn(channels=3).eval()
    mean, std = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    model = runnable(Last(inner), (3, 8, 8), 10, high=255, mean=mean, std=std, layout="NHWC")
    x = (255 * torch.rand(2, 3, 8, 8)).requires_grad_()
    by_hand = inner((x - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1))
    torch.testing.assert_close(model(x), by_hand)
    ours, theirs = (torch.autograd.grad(y[:, 3].sum(), x)[0] for y in (model(x), by_hand))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("head", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_at_the_end_is_taken_off(head: nn.Module) -> None:
    inner = digits_module("cnn")
    model = runnable(nn.Sequential(copy.deepcopy(inner), head), (1, 8, 8), 10)
    assert model.output.head == {"Softmax": "softmax", "LogSoftmax": "log-softmax"}[type(head).__name__]
    torch.testing.assert_close(model(raw()), inner(raw()))


def test_a_functional_softmax_becomes_log_probabilities() -> None:
    class Probabilities(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).softmax(-1)  # type: ignore[no-any-return]

    inner = digits_module("cnn")
    model = runnable(Probabilities(copy.deepcopy(inner)), (1, 8, 8), 10)
    assert model.output.head == "softmax"
    torch.testing.assert_close(model(raw()), inner(raw()).log_softmax(1), atol=1e-4, rtol=1e-4)
    assert torch.isfinite(model(100 * raw())).all(), "a saturated probability must not become infinite"


def test_one_sigmoid_output_is_a_classifier_of_two_classes() -> None:
    torch.manual_seed(0)
    inner = mlp(6, 1)
    model = runnable(nn.Sequential(inner, nn.Sigmoid()), (6,), 2)
    x = torch.rand(5, 6)
    assert model(x).shape == (5, 2)
    torch.testing.assert_close(model(x).softmax(1)[:, 1:], inner(x).sigmoid())


def test_layers_have_kind_shape_and_axis(model: RunnableModel) -> None:
    assert [(layer.name, layer.kind, layer.shape, layer.unit_axis) for layer in model.layers] == [
        ("0", "conv", (16, 8, 8), 0),
        ("1", "norm", (16, 8, 8), 0),
        ("2", "activation", (16, 8, 8), 0),
        ("3", "pool", (16, 4, 4), 0),
        ("4", "conv", (32, 4, 4), 0),
        ("5", "norm", (32, 4, 4), 0),
        ("6", "activation", (32, 4, 4), 0),
        ("7", "pool", (32, 2, 2), 0),
        ("9", "linear", (64,), 0),
        ("10", "activation", (64,), 0),
        ("11", "linear", (10,), 0),
    ]


def test_capture_patch_and_split_agree_at_every_layer(model: RunnableModel) -> None:
    x = raw(5).requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
    for layer in model.layers:
        captured_logits, captured = model.capture(x, [layer.name])
        activation = captured[layer.name]
        assert activation.shape == (5, *layer.shape)
        torch.testing.assert_close(captured_logits, logits)
        assert torch.autograd.grad(captured_logits[:, 1].sum(), activation)[0].abs().sum() > 0, "the activation is on the path"
        torch.testing.assert_close(model.patch(x, {layer.name: lambda value: value}), logits)
        assert not torch.allclose(model.patch(x, {layer.name: lambda value: 0 * value + 3}), logits)
        front, back = model.split(layer.name)
        torch.testing.assert_close(front(x), activation)
        torch.testing.assert_close(back(front(x)), logits)
        torch.testing.assert_close(torch.autograd.grad(back(front(x))[:, 1].sum(), x)[0], gradient)


def test_an_unknown_layer_is_named(model: RunnableModel) -> None:
    for use in (
        lambda: model.capture(raw(), ["nowhere"]),
        lambda: model.patch(raw(), {"nowhere": torch.relu}),
        lambda: model.split("nowhere"),
    ):
        with pytest.raises(ModelError, match="nowhere: the model has no such layer"):
            use()


def test_a_layer_with_a_path_around_it_is_no_cut() -> None:
    torch.manual_seed(0)
    model = runnable(Residual(), (1, 8, 8), 3)
    with pytest.raises(ModelError, match="layer inner: is not a cut"):
        model.split("inner")
    front, back = model.split("relu#2")
    torch.testing.assert_close(back(front(raw())), model(raw()))


def test_a_module_called_twice_is_two_layers_and_in_place_changes_do_not_show() -> None:
    torch.manual_seed(0)
    module = Residual()
    by_hand = module.first(raw())
    model = runnable(module, (1, 8, 8), 3)
    assert [layer.name for layer in model.layers] == ["first", "relu", "inner", "relu#2", "last"]
    _, captured = model.capture(raw(), ["first", "relu", "relu#2"])
    torch.testing.assert_close(captured["first"], by_hand)
    torch.testing.assert_close(captured["relu"], by_hand.relu())


def test_what_cannot_be_traced_is_cut_with_hooks() -> None:
    torch.manual_seed(0)
    model = runnable(Untraceable(), (6,), 3)
    x = torch.rand(4, 6).requires_grad_()
    for layer in model.layers:
        front, back = model.split(layer.name)
        torch.testing.assert_close(back(front(x)), model(x))
    front, back = model.split("act")
    activation = front(x).detach().requires_grad_()
    assert torch.autograd.grad(back(activation).sum(), activation)[0].abs().sum() > 0


def test_transformer_blocks_are_cuts_and_what_is_inside_is_not() -> None:
    torch.manual_seed(0)
    model = runnable(ViT(), (1, 8, 8), 10)
    kinds = {layer.name: (layer.kind, layer.unit_axis) for layer in model.layers}
    assert kinds["blocks.0"] == ("block", -1)
    assert kinds["blocks.0.self_attn"] == ("attention", -1)
    assert kinds["patches"] == ("conv", 0)
    front, back = model.split("blocks.0")
    torch.testing.assert_close(back(front(raw())), model(raw()), atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="not a cut"):
        model.split("blocks.0.linear1")


def test_it_can_be_mapped_over_classes(model: RunnableModel) -> None:
    masks = torch.rand(3, 1, 8, 8)
    x = raw(4)

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return model((1 - mask) * x + mask).sum()

    gradients = torch.func.vmap(torch.func.grad(loss))(masks)
    for mask, gradient in zip(masks, gradients, strict=True):
        leaf = mask.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(leaf), leaf)[0], atol=1e-5, rtol=1e-4)


def test_every_batch_size_works_and_predict_is_forward(model: RunnableModel) -> None:
    x = raw(300)
    np.testing.assert_allclose(model.predict(x.numpy()), model(x).detach().numpy(), atol=1e-4)
    assert model.predict(np.zeros((0, 1, 8, 8), np.float32)).shape == (0, 10)
    torch.testing.assert_close(model(x[:1]), model(x)[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 1000])
def test_the_number_of_outputs_is_free(classes: int) -> None:
    model = runnable(nn.Linear(4, classes), (4,), classes)
    assert model(torch.rand(3, 4)).shape == (3, classes)


def test_the_number_of_classes_is_checked() -> None:
    with pytest.raises(ModelError, match=r"returns 10 values .* not 7 classes"):
        runnable(mlp(), (64,), 7)


def test_an_input_the_module_cannot_take_is_refused() -> None:
    with pytest.raises(ModelError, match=r"does not run on image inputs of shape 3x8x8.*--input shape="):
        runnable(cnn(channels=1), (3, 8, 8), 10)


def test_token_ids_go_in_whole_and_a_language_model_answers_for_the_last_position() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out = nn.Embedding(20, 8), nn.Linear(8, 20)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.embedding(ids).cumsum(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    module = Language()
    model = runnable(module, (-1,), 20, high=19, layout="NT")
    ids = torch.randint(0, 20, (3, 7))
    torch.testing.assert_close(model(ids), module(ids)[:, -1])
    front, back = model.split("embedding")
    assert front(ids).shape == (3, 7, 8)
    torch.testing.assert_close(back(front(ids)), model(ids))


def test_samples_of_a_convenient_shape_become_canonical(model: RunnableModel) -> None:
    def samples(inputs: Any) -> Samples:
        return Samples(np.asarray(inputs), None, "x.npz", "0" * 64)

    grey = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    for arranged in (grey, grey[:, None], grey[..., None], grey.reshape(3, 64), grey.astype(np.float64)):
        torch.testing.assert_close(model.inputs(samples(arranged)), torch.from_numpy(grey[:, None]))
    pixels = np.round(255 * grey).astype(np.uint8)
    torch.testing.assert_close(model.inputs(samples(pixels)), torch.from_numpy(pixels[:, None] / np.float32(255)))


def test_describe_is_plain_json(model: RunnableModel) -> None:
    import json

    facts = json.loads(json.dumps(model.describe(), allow_nan=False))
    assert facts["input"]["shape"] == [1, 8, 8]
    assert facts["output"] == {"kind": "classifier", "classes": 10, "head": "logits", "labels": [], "told_by": ""}
    assert facts["device"] == "cpu"
    assert facts["layers"] == 11


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_runs_on_a_gpu() -> None:
    from modelguard_runtime._torch_model import TorchModel

    model = runnable(copy.deepcopy(digits_module("cnn")), (1, 8, 8), 10)
    on_cpu = model(raw())
    assert isinstance(model, TorchModel)
    model.to("cuda")
    x = raw().requires_grad_()
    logits = model(x)
    torch.testing.assert_close(logits.cpu(), on_cpu, atol=1e-2, rtol=1e-2)
    logits.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    front, back = model.split("6")
    torch.testing.assert_close(back(front(x)), logits)
    np.testing.assert_allclose(model.predict(raw().numpy()), on_cpu.detach().numpy(), atol=1e-2, rtol=1e-2)


def test_a_model_whose_softmax_was_taken_off_is_cut_and_patched_all_the_same() -> None:
    inner = digits_module("cnn")
    model = runnable(nn.Sequential(copy.deepcopy(inner), nn.Softmax(1)), (1, 8, 8), 10)
    assert "1" not in {layer.name for layer in model.layers}
    front, back = model.split("0.6")
    torch.testing.assert_close(back(front(raw())), inner(raw()))
    torch.testing.assert_close(model.patch(raw(), {"0.6": torch.clone}), inner(raw()))
    torch.testing.assert_close(model.capture(raw(), ["0.11"])[1]["0.11"], inner(raw()))


@pytest.mark.parametrize("module", [Residual, Untraceable])
def test_threads_do_not_see_each_other(module: type[nn.Module]) -> None:
    torch.manual_seed(0)
    shape = (1, 5, 5) if module is Residual else (6,)
    model = runnable(module(), shape, 3)
    name = next(layer.name for layer in model.layers if layer.kind == "activation")
    _, back = model.split(name)
    inputs = [torch.rand(3, *shape, generator=torch.Generator().manual_seed(i)) for i in range(24)]

    def everything(x: torch.Tensor) -> list[torch.Tensor]:
        logits, seen = model.capture(x, [name])
        patched = model.patch(x, {name: lambda value: 0.5 * value})
        return [logits, seen[name], patched, model(x), back(seen[name])]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(everything, inputs))

    for x, values in zip(inputs, found, strict=True):
        for value, expected in zip(values, everything(x), strict=True):
            torch.testing.assert_close(value, expected)
