"""A case, and the search in rounds: what it finds, how many images a pass holds, when it stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from modelguard_triggers.ascent import Climbed, Questions, Round, climb
from modelguard_triggers.case import Case, Tick, images_per_pass, margins, quantised, seeded, ticker
from modelguard_triggers.evidence import Evidence
from modelguard_triggers.windows import Windows, search_windows
from torch import Tensor, nn

from modelguard import DeadlineExceeded, Layer, RunnableModel, ScanContext
from modelguard.model import InputSpec

SPEC = InputSpec("image", (1, 6, 6), "float32", "NCHW", 0.0, 1.0, None, None, {})
CLASSES, AT = 5, (3, 1)
ROUNDS = (Round(4, 4, 0.5, keep=4, starts=2), Round(12, 4, 0.2, keep=1))


class Planted(nn.Module):
    """Classes by brightness, but two bright pixels next to each other say class 2. Counts the images of every pass."""

    input = SPEC
    device = torch.device("cpu")

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.given: list[int] = []
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(len(x))
        level = x.mean((1, 2, 3))[:, None]
        logits = -8 * (level - torch.linspace(0.3, 0.7, CLASSES)[None]) ** 2
        row, column = AT
        trigger = 8 * (x[:, 0, row, column] * x[:, 0, row, column + 1])
        return self.change(torch.cat([logits[:, :2], logits[:, 2:3] + trigger[:, None], logits[:, 3:]], 1))


def on_time(done: int, total: int, note: str = "") -> None:
    """There is always time."""


def case(model: Planted, budget: int = 64, tick: Tick = on_time) -> Case:
    images = 0.6 * torch.rand((20, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % CLASSES
    evidence = Evidence(images, labels, images, labels, CLASSES, None)
    return Case(cast(RunnableModel, model), evidence, budget, lambda stream: np.random.default_rng(len(stream)), tick)


def questions(one: Case) -> Questions:
    return Questions.every_other(torch.arange(CLASSES), one.evidence.search_labels)


def test_the_best_window_covers_what_decides_for_the_class() -> None:
    one = case(Planted())
    found = search_windows(one, questions(one), 2, ROUNDS, one.generator("windows"))
    assert found.question.tolist() == list(range(CLASSES))
    assert found.guided.all()
    assert int(found.margin.argmax()) == 2
    row, column = found.arms.corners[2].tolist()
    assert row in (AT[0] - 1, AT[0])
    assert column == AT[1]


@pytest.mark.parametrize("budget", [1, 3, 4, 50])
def test_no_pass_holds_more_images_than_fit(budget: int) -> None:
    model = Planted()
    one = case(model, budget)
    short = (Round(1, 4, 0.5, keep=4, starts=2), Round(2, 4, 0.2, keep=1))
    search_windows(one, questions(one), 3, short, one.generator("windows"))
    assert max(model.given) <= budget


def test_a_model_without_gradients_guides_nobody() -> None:
    one = case(Planted(torch.detach))
    found = search_windows(one, questions(one), 3, ROUNDS, one.generator("windows"))
    assert not found.guided.any()


def test_the_search_asks_for_the_time_before_every_pass() -> None:
    model, asked = Planted(), []

    def tick(done: int, total: int, note: str = "") -> None:
        asked.append((done, total, note))
        if len(asked) == 3:
            raise DeadlineExceeded

    one = case(model, 64, tick)
    assert one.usual_margin > 0
    before = len(model.given)
    with pytest.raises(DeadlineExceeded):
        search_windows(one, questions(one), 3, ROUNDS, one.generator("windows"))
    assert len(model.given) == before + 2
    assert {(total, note) for _, total, note in asked} == {(16, "windows")}


def test_going_on_from_what_was_found_makes_it_no_worse() -> None:
    one = case(Planted())
    first = search_windows(one, questions(one), 3, ROUNDS[:1], one.generator("windows"))
    every = len(first.question) // CLASSES
    begun: Climbed[Windows] = Climbed(first.arms, first.question)
    more = climb(one, questions(one), begun, (Round(30, 8, 0.1, keep=1),), one.generator("more"), "more")
    assert every > 1
    assert len(more.question) == CLASSES
    assert float(more.margin[2]) >= float(first.margin.view(CLASSES, every)[2].max()) - 0.1


def test_margins_are_to_the_best_of_the_others() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 3.0]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [3.0, -1.0]


def test_the_usual_margin_is_never_zero() -> None:
    assert case(Planted(torch.zeros_like)).usual_margin == pytest.approx(1e-3)


def test_stored_images_have_256_levels() -> None:
    spec = InputSpec("image", (1, 1, 1), "float32", "NCHW", -1.0, 1.0, None, None, {})
    levels = torch.tensor(sorted(set(quantised(torch.linspace(-1, 1, 10_000), spec).tolist())))
    assert len(levels) == 256
    assert torch.allclose(quantised(levels, spec), levels)


class Layers:
    """What :func:`images_per_pass` asks of a model."""

    input = SPEC
    device = torch.device("cuda")  # which shares a pass out by itself
    layers = (Layer("a", "conv", (8, 6, 6), 0), Layer("b", "linear", (10,), 0))


@pytest.mark.parametrize(("memory", "images"), [(1 << 30, 256), (1 << 20, 37), (1, 1)])
def test_images_per_pass_stay_within_a_quarter_of_the_memory(memory: int, images: int) -> None:
    model: Any = Layers()
    assert images_per_pass(model, ScanContext(memory_limit=memory), most=256) == images


def test_a_ticker_reports_progress_until_the_time_is_up() -> None:
    said: list[tuple[int, int, str]] = []
    ticker(ScanContext(on_progress=lambda *what: said.append(what)))(1, 4, "search")
    assert said == [(1, 4, "search")]
    with pytest.raises(DeadlineExceeded):
        ticker(ScanContext(deadline=-1.0))(2, 4)


def test_generators_follow_from_their_stream() -> None:
    one = case(Planted())
    draws = [float(torch.rand(1, generator=one.generator(name))) for name in ("a", "a", "bc")]
    assert draws[0] == draws[1] != draws[2]
    assert seeded(np.random.default_rng(0), 62).initial_seed() == seeded(np.random.default_rng(0), 63).initial_seed() >> 1
