"""What the companions find, leave alone, miss, and refuse to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from modelguard_companions import final_layer
from modelguard_companions._saliency import features
from modelguard_companions.channel_lipschitz import ChannelLipschitz, channel_bounds
from modelguard_companions.final_layer import FinalLayer, final_weights
from modelguard_companions.mm_bd import MaximumMargin, log_margins
from modelguard_companions.neuron_inspect import NeuronInspect
from modelguard_runtime.testing import ViT, cnn, mlp, runnable
from modelguard_zoo import Built
from modelguard_zoo.testing import Expiring
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelguard import (
    Confidence,
    DeadlineExceeded,
    Detector,
    ModelOptions,
    RunnableModel,
    Samples,
    Severity,
    Skip,
    Target,
    configure,
)
from modelguard.report import Outcome, Status
from modelguard.testing.checkpoints import open_target, write_onnx_cnn, write_safetensors
from modelguard.testing.conformance import check_detector, run_detector

Make = Callable[..., Target]
SLOW = pytest.mark.slow


def scan(cls: type[Detector], target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(cls, options), target, seed=seed)


def accused(outcome: Outcome) -> list[int]:
    return [item.evidence["target_class"] for item in outcome.findings]


def given(inputs: Any, labels: Any = None) -> Samples:
    return Samples(np.asarray(inputs), None if labels is None else np.asarray(labels, np.int64), "test", "0" * 64)


def of(model: RunnableModel, like: Target, samples: Samples | None = None) -> Target:
    """``like`` with another network, and other samples or none."""
    return replace(like, build_model=lambda: model, samples=samples, _cache={})


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches how many values the largest tensor has that is made meanwhile."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.values = max(self.values, made.numel())
        return made


# mm-bd


CORNERS = ((0, 0), (-3, -3), (0, -3))


def planted(target: Make, seed: int = 0) -> Target:
    """A checkerboard whose target is 1, 4 or 7."""
    return target("checkerboard", seed=seed, target=3 * seed + 1, size=3, at=CORNERS[seed])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_a_trigger_raises_its_classes_margin(target: Make, seed: int) -> None:
    outcome = scan(MaximumMargin, planted(target, seed), p_value=0.1)
    assert accused(outcome) == [3 * seed + 1]
    assert outcome.findings[0].confidence >= Confidence.MEDIUM


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_clean_models_have_no_margin_outlier_and_are_scored_all_the_same(target: Make, seed: int) -> None:
    outcome = scan(MaximumMargin, target(seed=seed))
    assert outcome.findings == ()
    assert outcome.summary["score"] < 3.5
    assert [row["class"] for row in outcome.summary["classes"]] == list(range(10))


def test_all_to_all_is_missed_by_margins(target: Make) -> None:
    """Every class is a target, so none stands out: documented."""
    assert scan(MaximumMargin, target("all-to-all", size=2)).findings == ()


def test_margins_need_no_samples_when_the_range_is_stated(built: Callable[..., Built]) -> None:
    folder = built("checkerboard", seed=0, target=1, size=3, at=(0, 0)).path
    stated = open_target(folder, model=ModelOptions(input="range=0..255,mean=0,std=1,units=raw"))
    assert accused(scan(MaximumMargin, stated)) == [1]


def test_an_assumed_input_range_is_no_range_to_search(tmp_path: Path) -> None:
    outcome = scan(MaximumMargin, open_target(write_onnx_cnn(tmp_path / "model.onnx", classes=6)))
    assert outcome.status is Status.SKIPPED
    assert "--input" in outcome.reason


def test_a_picture_size_nobody_states_is_not_guessed(tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(write_onnx_cnn(tmp_path / "model.onnx", classes=6))
    for axis, name in ((2, "height"), (3, "width")):
        graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(graph, tmp_path / "model.onnx")
    plain = "range=0..1,mean=0,std=1"
    outcome = scan(MaximumMargin, open_target(tmp_path / "model.onnx", model=ModelOptions(input=plain)))
    assert outcome.status is Status.SKIPPED
    assert "any size: give --samples, or say --input shape=CxHxW" in outcome.reason
    stated = open_target(tmp_path / "model.onnx", model=ModelOptions(input=f"{plain},shape=1x8x8"))
    assert "any size" not in scan(MaximumMargin, stated, quick=True, restarts=1, steps=3).reason


def test_classes_no_input_wins_for_are_not_compared() -> None:
    with pytest.raises(Skip, match="6 of 10 classes"):
        log_margins(np.array([5.0, 4, 4, 3, -1, -1, -1, -1, 0, -2]))
    with pytest.raises(Skip, match="finite"):
        log_margins(np.array([5.0, np.nan, 4, 3, 2]))
    logs, median = log_margins(np.array([5.0, 4, 4, 3, -1]))
    assert median == 4
    assert logs.min() == pytest.approx(np.log(1.0))


def test_a_quick_search_is_shorter_and_of_the_same_opinion(target: Make) -> None:
    assert accused(scan(MaximumMargin, planted(target), quick=True)) == [1]


# final-layer


@pytest.mark.parametrize("kind", ["mlp", "cnn", "vit", "pooled", "softmax"])
def test_final_weights_are_read_off_whatever_the_network(kind: str) -> None:
    torch.manual_seed(0)
    last = nn.Linear(8, 6)
    pooled = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    made: dict[str, nn.Module] = {
        "mlp": nn.Sequential(nn.Flatten(), *mlp(64, 6)),
        "cnn": cnn(classes=6),
        "vit": ViT(classes=6),
        "pooled": pooled,
        "softmax": nn.Sequential(pooled, nn.Softmax(1)),
    }
    module = made[kind]
    head = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    weight = head.weight.detach().double().numpy()
    _, found = final_weights(runnable(module, (1, 8, 8), 6))
    assert np.allclose(found, weight - weight.mean(0), atol=1e-4)


def test_units_are_raised_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = runnable(nn.Sequential(nn.Conv2d(1, 32, 3), nn.Flatten(), nn.Linear(1152, 6)), (1, 8, 8), 6)
    _, whole = final_weights(model)
    monkeypatch.setattr(final_layer, "VALUES", 5 * 1152)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        _, parts = final_weights(model)
    assert np.allclose(parts, whole, atol=1e-6)
    assert largest.values <= 6 * 1152  # the last layer's own weights; all 32 units raised at once are 32 * 1152


def test_a_raised_row_is_reported_and_is_of_low_weight(target: Make) -> None:
    torch.manual_seed(0)
    layers = mlp(64, 10)
    module = nn.Sequential(nn.Flatten(), layers)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data[4] += 0.3
    outcome = scan(FinalLayer, of(runnable(module, (1, 8, 8), 10), target()))
    assert accused(outcome) == [4]
    assert outcome.findings[0].confidence is Confidence.LOW
    assert FinalLayer.rules[0].severity is Severity.LOW


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_clean_models_have_no_raised_row(target: Make, seed: int) -> None:
    outcome = scan(FinalLayer, target(seed=seed))
    assert outcome.findings == ()
    assert len(outcome.summary["classes"]) == 10


@SLOW
@pytest.mark.parametrize("seed", range(3))
def test_averaged_features_show_the_target_in_the_row_sums(target: Make, seed: int) -> None:
    outcome = scan(FinalLayer, target("insert", seed=seed, target=(3 * seed + 2) % 10, size=3, at=(0, 0), arch="resnet8"))
    assert outcome.summary["target_class"] == (3 * seed + 2) % 10


def test_row_sums_miss_a_patch_in_a_network_of_dense_layers(target: Make) -> None:
    """Documented: sums mean little where the last features are not averages."""
    assert scan(FinalLayer, target("badnets", seed=1, target=4, size=2, at=(-2, -2))).findings == ()


# channel-lipschitz


def _tensors(module: nn.Module) -> dict[str, npt.NDArray[Any]]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def test_a_channel_that_amplifies_is_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = cnn(width=32)
    norm = module[5]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.weight.data[7] *= 40
    outcome = scan(ChannelLipschitz, open_target(write_safetensors(tmp_path / "model.safetensors", _tensors(module))))
    assert [(item.location.tensor, item.evidence["channel"]) for item in outcome.findings] == [("4.weight", 7)]
    assert outcome.findings[0].confidence is Confidence.LOW


def test_clean_networks_have_a_score_and_a_row_for_every_convolution(target: Make) -> None:
    outcome = scan(ChannelLipschitz, target(arch="cnn"))
    assert outcome.findings == ()
    assert {row["norm"] for row in outcome.summary["layers"]} == {None}
    assert outcome.summary["score"] == max(row["z"] for row in outcome.summary["layers"])


def test_a_backdoor_does_not_show_in_channel_bounds(target: Make) -> None:
    """Documented: the statistic does not separate."""
    assert scan(ChannelLipschitz, target("badnets", seed=3, target=1, size=3, at=(1, 2), arch="cnn")).findings == ()


def test_a_norm_before_its_convolution_is_not_taken_for_the_one_after(tmp_path: Path) -> None:
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
            self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.bn2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            inner = self.conv1(torch.relu(self.bn1(x)))
            x = x + self.conv2(torch.relu(self.bn2(inner)))
            out: torch.Tensor = self.head(x.mean((2, 3)))
            return out

    module = PreActivation().eval()
    for norm in (module.bn1, module.bn2):
        norm.running_mean = torch.randn(8)
        norm.running_var = 0.5 + torch.rand(8)
    opened = open_target(write_safetensors(tmp_path / "model.safetensors", _tensors(module)))
    model = runnable(module, (1, 8, 8), 5)
    outcome = scan(ChannelLipschitz, replace(opened, build_model=lambda: model, _cache={}))
    # conv1 and bn1 share a number, yet bn1 comes first; what takes conv1's output is bn2.
    assert all(row["tensor"] != "conv1.weight" or row["norm"] == "bn2" for row in outcome.summary.get("layers", []))
    assert "conv1.weight" not in {row["tensor"] for row in outcome.summary.get("layers", []) if row["norm"] == "bn1"}


def test_bounds_are_singular_values_times_gain() -> None:
    kernel = np.zeros((2, 3, 1, 1))
    kernel[0, :, 0, 0] = [3, 0, 4]
    kernel[1, :, 0, 0] = [1, 0, 0]
    assert channel_bounds(kernel, np.array([1.0, 2.0])) == pytest.approx([5, 2])


def test_a_network_without_convolutions_is_skipped(target: Make) -> None:
    outcome = scan(ChannelLipschitz, target())
    assert outcome.status is Status.SKIPPED
    assert "convolution" in outcome.reason


# neuron-inspect


def test_a_class_explained_by_one_corner_stands_out(target: Make) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 10)
    layer.weight.data[6] = 0
    layer.weight.data[6].view(8, 8)[:5, :5] = 1
    module = nn.Sequential(nn.Flatten(), layer)
    pictures = np.random.default_rng(0).random((30, 1, 8, 8)).astype(np.float32)
    model = runnable(module, (1, 8, 8), 10)
    labels = model.predict(pictures).argmax(1)
    outcome = scan(NeuronInspect, of(model, target(), given(pictures, labels)))
    assert accused(outcome) == [6]
    assert outcome.findings[0].confidence is Confidence.LOW


def test_explaining_a_thousand_classes_takes_the_memory_of_one() -> None:
    torch.manual_seed(0)
    model = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 1000)), (1, 8, 8), 1000)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        found = features(model, range(1000), torch.rand(3, 1, 8, 8), 2, lambda done, total, note="": None)
    assert found.spread.shape == found.roughness.shape == found.agreement.shape == (1000,)
    assert largest.values <= 1000 * 64  # the layer's own weights; the heat maps of all classes are three times as many


def test_explanations_that_there_is_no_time_for_are_counted(target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard_triggers.case.seconds_a_pass", lambda model, images: 0.001 * len(images))
    model = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 40)), (1, 8, 8), 40)
    images = np.random.default_rng(0).random((60, 1, 8, 8)).astype(np.float32)
    samples = given(images, model.predict(images).argmax(1))
    outcome = run_detector(configure(NeuronInspect, {}), of(model, target(), samples), timeout=1.0)
    assert outcome.status is Status.TIMED_OUT
    seen = [item["class"] for item in outcome.summary["classes"]]
    assert outcome.reason.startswith(f"{len(seen)} of 40 classes were looked at")
    assert 10 <= len(seen) <= 16


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_clean_models_are_explained_and_left_alone(target: Make, seed: int) -> None:
    outcome = scan(NeuronInspect, target(seed=seed))
    assert outcome.findings == ()
    assert {"spread", "roughness", "agreement"} <= set(outcome.summary["classes"][0])


def test_most_patches_are_missed_by_explanations(target: Make) -> None:
    """Documented: on clean pictures the statistic seldom sees a patch."""
    assert scan(NeuronInspect, target("badnets", seed=1, target=4, size=2, at=(-2, -2))).findings == ()


def test_one_picture_has_nothing_to_be_steady_against(target: Make) -> None:
    clean = target()
    assert clean.samples is not None
    assert clean.samples.labels is not None
    one = given(clean.samples.inputs[:1], clean.samples.labels[:1])
    assert scan(NeuronInspect, replace(clean, samples=one)).status is Status.SKIPPED


# what all of them refuse


@pytest.mark.parametrize("cls", [MaximumMargin, NeuronInspect])
def test_samples_the_model_does_not_understand_are_no_ground_for_a_verdict(target: Make, cls: type[Detector]) -> None:
    clean = target()
    assert clean.samples is not None
    noise = given(np.random.default_rng(0).integers(0, 256, clean.samples.inputs.shape).astype(np.uint8), clean.samples.labels)
    outcome = scan(cls, replace(clean, samples=noise))
    assert outcome.status is Status.SKIPPED
    assert "understand" in outcome.reason


@pytest.mark.parametrize("cls", [MaximumMargin, FinalLayer, NeuronInspect])
def test_what_has_no_classes_to_compare_is_skipped(target: Make, cls: type[Detector]) -> None:
    pictures = np.random.default_rng(0).random((8, 1, 8, 8)).astype(np.float32)
    for module, classes, word in ((nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 3, "3 classes"),):
        model = runnable(module, (1, 8, 8), classes)
        outcome = scan(cls, of(model, target(), given(pictures, model.predict(pictures).argmax(1))))
        assert outcome.status is Status.SKIPPED
        assert word in outcome.reason


@pytest.mark.parametrize("cls", [MaximumMargin, FinalLayer])
def test_a_regressor_is_skipped(target: Make, cls: type[Detector]) -> None:
    from modelguard.model import OutputSpec

    model = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), (1, 8, 8), 6)
    model.output = OutputSpec("regressor", 6, "logits")
    outcome = scan(cls, of(model, target()))
    assert outcome.status is Status.SKIPPED
    assert "regressor" in outcome.reason


@pytest.mark.parametrize("cls", [MaximumMargin, FinalLayer])
def test_no_runnable_model_is_skipped(tmp_path: Path, cls: type[Detector]) -> None:
    bare = open_target(write_safetensors(tmp_path / "model.safetensors", {"a": np.ones((2, 2), np.float32)}))
    assert scan(cls, replace(bare, build_model=None)).status is Status.SKIPPED


def test_a_thousand_classes_are_compared_like_ten(target: Make) -> None:
    torch.manual_seed(0)
    model = runnable(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1000)), (1, 8, 8), 1000)
    for cls, options in ((MaximumMargin, {"quick": True, "restarts": 2, "steps": 30}), (FinalLayer, {})):
        outcome = scan(cls, of(model, target()), **options)
        # 32 features do not let every one of 1000 classes win for some input; that is said, not passed over.
        assert outcome.status is Status.COMPLETED or "of 1000 classes win" in outcome.reason
        assert outcome.status is not Status.COMPLETED or len(outcome.summary["classes"]) == 1000


@pytest.mark.parametrize("cls", [MaximumMargin, FinalLayer, NeuronInspect])
def test_the_contract_is_kept(target: Make, cls: type[Detector]) -> None:
    check_detector(cls, replace(target(), _cache={}))


def test_channel_bounds_keep_the_contract(target: Make) -> None:
    check_detector(ChannelLipschitz, replace(target(arch="cnn"), _cache={}))


def test_margins_stop_at_the_deadline(target: Make) -> None:
    context = Expiring("mm-bd", 50)
    with pytest.raises(DeadlineExceeded):
        list(MaximumMargin(steps=10_000).detect(replace(target(), _cache={}), context))
    assert context.looked == 51


@pytest.mark.parametrize("cls", [MaximumMargin, FinalLayer, NeuronInspect])
def test_the_random_seed_does_not_change_the_accused(target: Make, cls: type[Detector]) -> None:
    first, *others = (scan(cls, planted(target), seed=seed).summary["target_class"] for seed in range(5))
    assert others == [first] * 4
