"""The parts: triggers, weights that are forgotten, shadows, and how a score is judged."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from modelguard_meta._calibration import LEAST_HELD_OUT, LEVEL, auroc, p_value, threshold
from modelguard_meta._jumbo import draw, none
from modelguard_meta._meta import answers
from modelguard_meta._network import Network
from modelguard_meta._shadows import Images, train_shadows
from modelguard_runtime import TorchModel
from modelguard_runtime.testing import runnable
from torch import fx, nn

from modelguard import UsageError

SHAPE = (3, 4, 4)


def network(module: nn.Module, classes: int = 3) -> tuple[Network, TorchModel]:
    model = cast(TorchModel, runnable(module, SHAPE, classes))
    return Network(model), model


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


class Prepared(nn.Module):
    """A graph that prepares its input by constants before its first weight."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1))
        self.weight, self.bias = nn.Parameter(torch.randn(3, 48)), nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear((x - self.mean).flatten(1), self.weight, self.bias)


class Asking(nn.Module):
    """A network that asks for values while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.last(x.flatten(1))
        return made if float(made.detach().sum()) > 1e9 else 2 * made


# Weights


def test_fresh_weights_have_the_values_of_the_model_in_another_order_each() -> None:
    made, _ = network(plain())
    weights = made.fresh(3, torch.Generator().manual_seed(0))
    for name, given in made.given.items():
        for each in weights[name]:
            assert torch.equal(each.flatten().sort().values, given.flatten().sort().values)
    kernels = weights["network.0.weight"]
    assert not torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], made.given["network.0.weight"])


def test_many_models_at_once_answer_as_each_alone() -> None:
    made, model = network(plain())
    weights = made.fresh(3, torch.Generator().manual_seed(0))
    own = torch.rand(3, 5, *SHAPE)
    together, shared = made.logits(weights, own), made.logits(weights, own[0])
    assert together.shape == shared.shape == (3, 5, 3)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    for i in range(3):
        alone = {name: value[i : i + 1] for name, value in weights.items()}
        assert torch.allclose(made.logits(alone, own[i : i + 1])[0], together[i], atol=1e-5)
        assert torch.allclose(made.logits(alone, own[0])[0], shared[i], atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_what_torch_cannot_run_at_once_runs_one_by_one() -> None:
    made, _ = network(Asking())
    weights = {name: value.requires_grad_() for name, value in made.fresh(2, torch.Generator().manual_seed(0)).items()}
    logits = made.logits(weights, torch.rand(2, 5, *SHAPE))
    assert logits.shape == (2, 5, 3)
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and bool(value.grad.any()) for value in weights.values())


def test_constants_before_the_first_weight_are_kept() -> None:
    made, _ = network(fx.symbolic_trace(Prepared()))
    assert set(made.given) == {"network.weight", "network.bias"}


def test_running_statistics_are_neither_kept_nor_trained() -> None:
    module = plain()
    norm = cast(nn.BatchNorm2d, cast(nn.Sequential, module)[1])
    assert norm.running_mean is not None
    norm.running_mean.fill_(1e6)
    made, _ = network(module)
    assert set(made.given) == {f"network.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")}
    assert made.logits(made.fresh(1, torch.Generator().manual_seed(0)), torch.rand(2, *SHAPE)).abs().max() < 1e3


def test_a_model_without_weights_is_refused() -> None:
    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    with pytest.raises(UsageError, match="no weights that could be trained"):
        network(Bare())


# Triggers and shadows


@pytest.mark.parametrize("size", [8, 28])
def test_triggers_are_patches_and_patterns_of_every_kind(size: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw((3, size, size), 10, -1.0, 1.0, rng) for _ in range(300)]
    areas = {int((trigger.weight > 0).sum()) for trigger in drawn}
    assert areas == {4, 9, size * size} if size == 8 else {4, 9, 16, 25, size * size}
    assert {trigger.target for trigger in drawn} == set(range(10))
    assert all(0 < trigger.weight.max() <= 1 and -1 <= trigger.pattern.min() <= trigger.pattern.max() <= 1 for trigger in drawn)
    assert all(0.05 <= trigger.share <= 0.5 for trigger in drawn)
    assert not none((3, size, size)).weight.any()


def test_shadows_learn_the_task_and_half_of_them_a_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelguard_meta._shadows.STEPS", (150, 150))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    x = torch.rand(300, *SHAPE, generator=generator) * 0.3
    x[torch.arange(300), labels] += 0.5  # the class is the brightest channel
    torch.manual_seed(0)
    made, model = network(plain())
    told: list[str] = []
    shadows = train_shadows(made, Images(x, labels), model.input, 12, 3, 0, told.append)
    benign, trojaned = shadows.only(~shadows.trojaned), shadows.only(shadows.trojaned)
    assert len(benign) == 12
    assert 3 <= len(trojaned) <= 12
    assert shadows.accuracy.median() > 0.9
    assert trojaned.success.min() >= 0.8
    assert benign.success.isnan().all()
    assert told == ["shadows 1 to 24 of 24"]


def test_images_are_parted_with_every_class_in_both() -> None:
    labels = torch.arange(10).repeat(10)
    learnt, unseen = Images(torch.arange(100.0).reshape(100, 1, 1, 1), labels).parts()
    assert (len(learnt.y), len(unseen.y)) == (80, 20)
    assert set(unseen.y.tolist()) == set(learnt.y.tolist()) == set(range(10))
    assert not set(learnt.x.flatten().tolist()) & set(unseen.x.flatten().tolist())


# Scores


def test_answers_do_not_depend_on_the_scale_of_logits() -> None:
    logits = torch.randn(2, 3, 5, 4)
    assert torch.allclose(answers(logits), answers(7 * logits + 3), atol=1e-5)


@pytest.mark.parametrize("count", [19, 20, 39, 40, 100])
def test_a_score_above_the_threshold_is_one_of_a_small_p_value(count: int) -> None:
    benign = np.random.default_rng(count).permutation(count).astype(np.float32)
    bound = threshold(benign)
    assert p_value(bound + 0.5, benign) <= LEVEL < p_value(bound, benign)
    assert LEAST_HELD_OUT == 19


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == 0.875
