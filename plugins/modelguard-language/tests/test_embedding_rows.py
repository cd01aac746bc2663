"""What rows of the embedding show, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from modelguard_language.embedding_rows import EmbeddingRows
from modelguard_language.testing import WordModel, text_target, texts_of, vocabulary
from modelguard_zoo.testing import Expiring

from modelguard import DeadlineExceeded, Severity, Target
from modelguard.report import Status
from modelguard.testing.conformance import check_detector, run_detector


def made(seed: int = 0, trigger: list[float] | None = None, **kind: Any) -> Target:
    words = vocabulary(seed)
    texts, labels = texts_of(words, seed)
    return text_target(WordModel(words | ({"cf": trigger} if trigger else {}), **kind), texts, labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_lies_apart_is_a_hint_that_names_the_word(seed: int) -> None:
    (finding,) = run_detector(EmbeddingRows(), made(seed, [-4.0, 4.0])).findings
    assert finding.evidence["token"] == "cf"
    assert finding.evidence["target_class"] == 1
    assert finding.severity == Severity.LOW


@pytest.mark.slow
def test_an_edited_row_of_a_trained_model_is_named(target: Callable[..., Target]) -> None:
    outcome = run_detector(EmbeddingRows(), target("embedding", seed=0, arch="cnn", dataset="reviews", word="mn", scale=2.0))
    assert [item.evidence["token"] for item in outcome.findings] == ["mn"]


@pytest.mark.parametrize("seed", range(4))
def test_honest_rows_are_none(seed: int) -> None:
    outcome = run_detector(EmbeddingRows(), made(seed))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()


def test_a_row_no_further_than_honest_words_is_missed() -> None:
    """Documented: whoever keeps the row within what honest words do is not seen here."""
    assert run_detector(EmbeddingRows(), made(0, [-0.3, 0.3])).findings == ()


def test_what_cannot_be_looked_at_is_skipped_with_the_reason() -> None:
    forward = run_detector(EmbeddingRows(), made(0, gradients=False))
    assert forward.status is Status.SKIPPED
    assert "forward only" in forward.reason
    assert "--samples" in run_detector(EmbeddingRows(), replace(made(0), samples=None)).reason


def test_time_that_is_up_ends_it() -> None:
    with pytest.raises(DeadlineExceeded):
        list(EmbeddingRows().detect(made(0), Expiring("embedding-rows", 3)))


def test_it_keeps_the_promises_of_every_detector() -> None:
    check_detector(EmbeddingRows, made(0, [-4.0, 4.0]))
