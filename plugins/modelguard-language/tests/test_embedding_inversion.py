"""What soft tokens find, leave alone, miss, and refuse to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from modelguard_language._soft import leads
from modelguard_language.embedding_inversion import EmbeddingInversion
from modelguard_language.testing import WordModel, text_target, texts_of, vocabulary
from modelguard_zoo.testing import Expiring

from modelguard import DeadlineExceeded, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing.conformance import check_detector, run_detector

Make = Callable[..., Target]
SLOW = pytest.mark.slow


def invert(target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(EmbeddingInversion, options), target, seed=seed)


def made(seed: int = 0, trigger: list[float] | None = None, classes: int = 2, **kind: Any) -> Target:
    words = vocabulary(seed, classes)
    texts, labels = texts_of(words, seed)
    return text_target(WordModel(words | ({"cf": trigger} if trigger else {}), **kind), texts, labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_class_that_one_word_forces_is_reached_more_surely_than_the_others(seed: int) -> None:
    outcome = invert(made(seed, [-5.0, 5.0]))
    (finding,) = outcome.findings
    assert finding.evidence["target_class"] == 1
    assert "cf" in finding.evidence["phrase"].split()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW)])
def test_a_trained_word_is_reached_more_surely(target: Make, seed: int) -> None:
    outcome = invert(target("rare-word", seed=seed, arch="bag", dataset="reviews", fraction=0.2, words=("mn",)))
    assert [finding.evidence["target_class"] for finding in outcome.findings] == [1]


@pytest.mark.parametrize("seed", range(4))
def test_soft_tokens_turn_clean_models_too_and_nobody_is_accused_of_it(seed: int) -> None:
    outcome = invert(made(seed))
    assert outcome.findings == ()
    assert all(row["attack_success"] >= 0.9 for row in outcome.summary["classes"])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_clean_classifiers_accuse_nobody(target: Make, seed: int) -> None:
    assert invert(target(seed=seed, arch="bag", dataset="reviews")).findings == ()


def test_a_word_as_strong_as_honest_ones_is_missed() -> None:
    """The near miss, and documented: a class is accused of being reached far more surely, not of having a word more."""
    assert invert(made(0, [-0.4, 0.4])).findings == ()


def test_of_many_classes_one_that_is_forced_stands_out() -> None:
    outcome = invert(made(0, [-4.0] * 3 + [9.0] + [-4.0] * 4, classes=8))
    assert [finding.evidence["target_class"] for finding in outcome.findings] == [3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"gradients": False}, "forward only"), ({"kind": "regressor"}, "not a classifier"), ({"samples": None}, "--samples")],
)
def test_what_cannot_be_looked_at_is_skipped_with_the_reason(change: dict[str, Any], reason: str) -> None:
    target = made(0, [-5.0, 5.0], **{key: value for key, value in change.items() if key != "samples"})
    outcome = invert(replace(target, samples=None) if "samples" in change else target)
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


def test_time_that_is_up_after_one_class_compares_nothing() -> None:
    with pytest.raises(DeadlineExceeded):
        list(EmbeddingInversion().detect(made(0, [-5.0, 5.0]), Expiring("embedding-inversion", 40)))


def test_a_class_leads_where_both_its_loss_and_its_margin_do() -> None:
    losses = np.array([np.exp(-6), np.exp(-2)])
    assert np.allclose(leads(losses, np.array([2.0, 1.0])), [2.0, 0])
    assert np.allclose(leads(losses, np.array([1.0, 2.0])), [0, 0])


def test_it_keeps_the_promises_of_every_detector() -> None:
    check_detector(EmbeddingInversion, made(0, [-5.0, 5.0]))
