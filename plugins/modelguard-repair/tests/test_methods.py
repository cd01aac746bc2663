"""Which weights a repair may change, which make a unit, and what the methods do to networks of other kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modelguard_evaluate import Picture, labelled
from modelguard_repair._units import batch_norms, silence, unit_rows
from modelguard_repair._weights import Weights
from modelguard_repair._write import write
from modelguard_repair.methods import METHODS, Material, anp, distil, fine_pruning, nad
from modelguard_repair.methods.nearby import nearby
from modelguard_runtime import TorchModel
from modelguard_runtime.testing import ViT, digits, digits_module, train
from modelguard_zoo import Built
from onnx_files import export
from safetensors.torch import save_file

from modelguard import Skip, Target
from modelguard.testing import open_target


def weights_of(target: Target) -> Weights:
    model = target.model
    assert isinstance(model, TorchModel)
    graph = model.facts.graph is not None
    return Weights.of(model, next(item for item in target.checkpoints if (item.format == "onnx") == graph))


@pytest.fixture
def plain(tmp_path: Path) -> Target:
    """Two convolutions with BatchNorm, as safetensors alone."""
    save_file({name: item.contiguous() for name, item in digits_module("cnn").state_dict().items()}, tmp_path / "model.safetensors")
    return open_target(tmp_path, samples=digits()[1])


def material(weights: Weights, target: Target, count: int = 180) -> Material:
    assert target.samples is not None
    inputs = labelled(weights.model, target.samples)
    return Material(weights, inputs.only(np.arange(count)), (), 0.03, 0, lambda note: None)


def test_the_weights_are_those_of_the_checkpoint_but_for_the_normalisation_of_pixels(built: Callable[..., Built], plain: Target) -> None:
    folder = built(None, 0, "cnn").path
    found = weights_of(open_target(folder, samples=folder / "samples.npz"))
    assert set(found.tensors) == {f"body.{layer}.{part}" for layer in (0, 3, 7, 9) for part in ("weight", "bias")}
    assert set(weights_of(plain).tensors) == {name for name in plain.checkpoints[0].tensors if name.endswith(("weight", "bias"))}


def test_nothing_is_written_to_the_file_that_is_mapped(plain: Target) -> None:
    weights = weights_of(plain)
    before = {name: plain.checkpoints[0].read(name).copy() for name in weights.tensors}
    silence([(parameter, 0) for parameter in weights.tensors.values()], [0])
    assert all(np.array_equal(before[name], plain.checkpoints[0].read(name)) for name in before)


@pytest.mark.parametrize("kind", ["onnx", "plain"])
def test_silence_makes_units_zero_and_leaves_the_others(built: Callable[..., Built], plain: Target, kind: str) -> None:
    folder = built(None, 0, "cnn").path
    target = plain if kind == "plain" else open_target(folder, samples=folder / "samples.npz")
    weights = weights_of(target)
    given = material(weights, target)
    layer, _ = fine_pruning.last_hidden(given)
    rows = unit_rows(weights, layer, given.x[:16])
    before = weights.model.capture(given.x, [layer.name])[1][layer.name]
    silence(rows, [3, 5])
    after = weights.model.capture(given.x, [layer.name])[1][layer.name]
    others = [unit for unit in range(before.shape[1]) if unit not in (3, 5)]
    assert bool((after[:, [3, 5]] == 0).all())
    assert torch.equal(after[:, others], before[:, others])


def test_anp_prunes_channels_and_keeps_the_accuracy(plain: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anp, "STEPS", 60)
    weights = weights_of(plain)
    given = material(weights, plain)
    before = given.accuracy(given.x)
    assert len(batch_norms(weights)) == 2
    facts = METHODS["anp"]().repair(given)
    assert facts["channels"] == 48
    assert given.accuracy(given.x) >= before - given.max_drop
    zero = sum(int((gamma == 0).sum()) for gamma, _ in batch_norms(weights))
    assert zero == facts["pruned"]


@pytest.mark.parametrize("method", ["distil", "nad", "fine-pruning"])
def test_a_method_works_on_weights_alone_and_writes_them(
    plain: Target, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (fine_pruning, nad):
        monkeypatch.setattr(module, "EPOCHS", 10)
    monkeypatch.setattr(distil, "EPOCHS", 60)
    weights = weights_of(plain)
    given = material(weights, plain)
    start = weights.state()
    METHODS[method]().repair(given)
    made = weights.arrays()
    assert given.accuracy(given.x) > 0.9
    weights.restore(start)
    METHODS[method]().repair(given)
    assert all(np.array_equal(made[name], array) for name, array in weights.arrays().items())  # the same seed, the same bytes
    write(plain, plain.checkpoints[0], made, tmp_path / "made")
    again = open_target(tmp_path / "made", samples=digits()[1])
    assert all(np.array_equal(again.checkpoints[0].read(name), array) for name, array in made.items())
    kept = set(again.checkpoints[0].tensors) - set(made)
    assert all(np.array_equal(again.checkpoints[0].read(name), plain.checkpoints[0].read(name)) for name in kept)


def test_half_precision_weights_are_rounded_and_stay_half(tmp_path: Path) -> None:
    state = {name: item.half() if item.is_floating_point() else item for name, item in digits_module("cnn").state_dict().items()}
    (tmp_path / "half").mkdir()
    save_file({name: item.contiguous() for name, item in state.items()}, tmp_path / "half" / "model.safetensors")
    target = open_target(tmp_path / "half", samples=digits()[1])
    weights = weights_of(target)
    write(target, target.checkpoints[0], {name: array + 0.1 for name, array in weights.arrays().items()}, tmp_path / "made")
    made = open_target(tmp_path / "made").checkpoints[0]
    assert {name: info.dtype for name, info in made.tensors.items()} == {
        name: info.dtype for name, info in target.checkpoints[0].tensors.items()
    }


def test_attention_needs_places(built: Callable[..., Built]) -> None:
    folder = built(None, 0, "mlp").path
    target = open_target(folder, samples=folder / "samples.npz")
    with pytest.raises(Skip, match="no layer of the model has places"):
        METHODS["nad"]().repair(material(weights_of(target), target))


def test_a_vision_transformer_is_pruned_and_distilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_pruning, "EPOCHS", 5)
    monkeypatch.setattr(nad, "EPOCHS", 5)
    learnt, samples = digits()
    assert learnt.labels is not None
    torch.manual_seed(0)
    network = train(ViT(depth=1), learnt.inputs, learnt.labels, epochs=16)
    target = open_target(export(network, tmp_path / "model.onnx"), samples=samples)
    weights = weights_of(target)
    start = weights.state()
    for method in ("fine-pruning", "nad"):
        weights.restore(start)
        given = material(weights, target)
        METHODS[method]().repair(given)
        assert given.accuracy(given.x) > 0.9


def test_quantised_weights_are_not_trained(built: Callable[..., Built], tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = built(None, 0, "mlp").path
    quantization.quantize_dynamic(folder / "model.onnx", tmp_path / "model.onnx")
    target = open_target(tmp_path / "model.onnx", samples=folder / "samples.npz")
    with pytest.raises(Skip, match=r"quantised|forward only"):
        weights_of(target)


def test_no_patches_are_made_near_a_blend(built: Callable[..., Built]) -> None:
    folder = built(None, 0, "cnn").path
    target = open_target(folder, samples=folder / "samples.npz")
    given = material(weights_of(target), target, 40)
    everywhere, corner = np.full((1, 8, 8), 0.2, np.float32), np.zeros((1, 8, 8), np.float32)
    corner[0, -2:, -2:] = 1
    assert nearby(given, Picture(everywhere, everywhere, 0.0), 1) == []
    made = nearby(given, Picture(corner, corner, 0.0), 1)
    assert len(made) > 1
    for stamped in made:
        assert torch.equal(stamped[..., :5, :], given.x[..., :5, :])
        assert not torch.equal(stamped, given.x)
        assert float(stamped.min()) >= 0
        assert float(stamped.max()) <= 255
