"""The search itself: what fits in a pass, what it starts from, and when it stops to ask for the time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modelguard_neural_cleanse._evidence import _halves
from modelguard_neural_cleanse._findings import require_guided
from modelguard_neural_cleanse._search import Question, Schedule, Search, successes
from modelguard_neural_cleanse._transforms import Patch
from modelguard_triggers.case import Case, Tick
from modelguard_triggers.evidence import Evidence
from torch import Tensor, nn

from modelguard import DeadlineExceeded, Skip

CLASSES, BATCH = 3, 8
SCHEDULE = Schedule(steps=6, batches=2, batch=BATCH, rate=0.1, patience=2, grow=1.5, shrink=2.0)


class Linear(nn.Module):
    """A model that keeps count of how many images it is given at once."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, CLASSES)
        self.given: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(len(x))
        logits: Tensor = self.layer(x.flatten(1))
        return logits


EVERY_IMAGE = Question(torch.arange(CLASSES)[:, None].repeat(1, CLASSES))


def on_time(done: int, total: int, note: str = "") -> None:
    """There is always time."""


def case(model: nn.Module, budget: int, tick: Tick = on_time) -> Case:
    images = torch.rand((20, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(20) % CLASSES
    evidence = Evidence(images, labels, images[:10], labels[:10], CLASSES, None)
    return Case(model, evidence, budget, lambda stream: np.random.default_rng(0), tick)  # type: ignore[arg-type]


def search(model: nn.Module, budget: int) -> Search:
    return Search(case(model, budget), EVERY_IMAGE, Patch((1, 4, 4), 0.0, 1.0), SCHEDULE, torch.Generator().manual_seed(2))


@pytest.fixture
def model() -> Linear:
    torch.manual_seed(0)
    return Linear().requires_grad_(False)


@pytest.mark.parametrize("at_once", [1, 3, BATCH - 1, BATCH, 2 * BATCH])
def test_no_pass_holds_more_images_than_fit(model: Linear, at_once: int) -> None:
    split = search(model, at_once)
    split.run(SCHEDULE.steps)
    assert max(model.given) <= at_once
    assert sum(model.given) == CLASSES * SCHEDULE.passes


@pytest.mark.parametrize("at_once", [1, 3, BATCH - 1])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(model: Linear, at_once: int) -> None:
    whole, split = search(model, CLASSES * BATCH), search(model, at_once)
    for one in (whole, split):
        one.cost += 1.0  # so that the size counts in the gradient, and counts once
    for expected, found in zip(whole._gradients(lambda: None), split._gradients(lambda: None), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_check_asks_for_the_time_before_every_pass(model: Linear) -> None:
    found = search(model, 4).found
    asked, wanted = torch.ones(CLASSES, 10, dtype=torch.bool), torch.zeros(CLASSES, 10, dtype=torch.int64)

    def tick(done: int, total: int, note: str = "") -> None:
        if len(model.given) == 2:
            raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        successes(case(model, 4, tick), found, Patch((1, 4, 4), 0.0, 1.0), wanted, asked)
    assert model.given == [4, 4]


def test_of_more_classes_than_images_are_wanted_chance_chooses() -> None:
    classes = np.repeat(np.arange(100), 3)
    first, second = _halves(np.arange(300), classes, 50, np.random.default_rng(0))
    chosen = classes[np.concatenate([first, second])]
    assert len(np.unique(chosen)) == 50
    assert chosen.max() > 90


def test_every_class_has_its_turn_before_any_has_two() -> None:
    classes = np.repeat(np.arange(10), [40, 1, *[40] * 8])
    first, second = _halves(np.arange(len(classes)), classes, 100, np.random.default_rng(0))
    count = np.bincount(classes[np.concatenate([first, second])])
    assert count[1] == 1
    assert set(np.delete(count, 1)) == {11}


def test_every_arm_of_a_differentiable_model_is_guided_and_stays_so(model: Linear) -> None:
    one = search(model, 256)
    assert not one.guided.any()
    one.run(1)
    assert one.guided.all()
    one.keep(torch.tensor([1]))
    assert one.found.guided.tolist() == [True]


@pytest.mark.parametrize(("guided", "reason"), [(0, "nothing was looked at"), (4, "only 4 of 10 triggers were looked at"), (5, "")])
def test_fewer_than_half_of_the_searches_are_no_verdict(guided: int, reason: str) -> None:
    if not reason:
        require_guided(np.arange(10) < guided, "triggers")
        return
    with pytest.raises(Skip, match=reason):
        require_guided(np.arange(10) < guided, "triggers")
