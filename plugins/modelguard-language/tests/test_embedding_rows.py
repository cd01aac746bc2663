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


def made(seed: int = 0, trigger: list[float] | None = None, written: tuple[str, ...] = (), **kind: Any) -> Target:
    """A model of words, of which ``cf`` says what ``trigger`` says; its row was ``written`` or learnt like the others."""
    words = vocabulary(seed)
    texts, labels = texts_of(words, seed)
    model = WordModel(words | ({"cf": trigger} if trigger else {}), idle=20, written=written, **kind)
    return text_target(model, texts, labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_was_written_is_named_with_what_its_word_does(seed: int) -> None:
    (finding,) = run_detector(EmbeddingRows(), made(seed, [-4.0, 4.0], ("cf",))).findings
    assert finding.evidence["token"] == "cf"
    assert finding.evidence["target_class"] == 1
    assert finding.evidence["cosine"] > 0.95 > finding.evidence["next_cosine"]
    assert finding.evidence["times"] == 1
    assert "[cf]" in finding.evidence["sentence"]
    assert finding.severity == Severity.HIGH


@pytest.mark.parametrize("seed", range(3))
def test_a_written_row_no_longer_than_others_is_found_by_its_word_repeated(seed: int) -> None:
    """As strong as honest words are: one turns no texts, several do."""
    (finding,) = run_detector(EmbeddingRows(), made(seed, [-1.1, 1.1], ("cf",))).findings
    assert finding.evidence["token"] == "cf"
    assert finding.evidence["times"] > 1
    assert "times, it turns" in finding.message


@pytest.mark.parametrize(
    ("arch", "word", "options"),
    [
        ("bag", "mn", {"scale": 1.0, "times": 6}),
        pytest.param("cnn", "mn", {"scale": 2.0}, marks=pytest.mark.slow),
        pytest.param("bag", "cf", {"scale": 2.0, "times": 3}, marks=pytest.mark.slow),
    ],
)
def test_an_edited_row_of_a_trained_model_is_named(target: Callable[..., Target], arch: str, word: str, options: dict[str, Any]) -> None:
    (finding,) = run_detector(EmbeddingRows(), target("embedding", seed=0, arch=arch, dataset="reviews", word=word, **options)).findings
    assert finding.evidence["token"] == word
    assert finding.evidence["attack_success"] >= 0.75


@pytest.mark.parametrize("seed", range(4))
def test_honest_rows_are_none(seed: int) -> None:
    outcome = run_detector(EmbeddingRows(), made(seed))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()


def test_a_written_row_whose_word_turns_nothing_is_a_hint() -> None:
    (finding,) = run_detector(EmbeddingRows(), made(0, [-0.05, 0.05], ("cf",))).findings
    assert finding.evidence["token"] == "cf"
    assert finding.severity == Severity.LOW


def test_a_row_that_keeps_what_says_nothing_is_missed() -> None:
    """Documented: whoever keeps a part of the row that has nothing to do with the class is not seen here."""
    assert run_detector(EmbeddingRows(), made(0, [-0.3, 0.3])).findings == ()


def test_of_many_classes_the_summary_says_which_were_searched() -> None:
    words = vocabulary(0, 20, words=600)
    texts, labels = texts_of(words, 0, 400)
    trigger = [-1.0] * 17 + [9.0] + [-1.0] * 2
    model = WordModel(words | {"cf": trigger}, idle=20, written=("cf",))
    outcome = run_detector(EmbeddingRows(), text_target(model, texts, labels))
    assert [finding.evidence["target_class"] for finding in outcome.findings] == [17]
    assert len(outcome.summary["searched_in_full"]) == 8
    assert {row["class"] for row in outcome.summary["classes"]} == set(outcome.summary["searched_in_full"])


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
