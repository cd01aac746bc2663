"""What the scan of the vocabulary finds, leaves alone, misses, and refuses to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from modelguard_language._case import text_case
from modelguard_language._tail import tail
from modelguard_language.embedding_rows import EmbeddingRows
from modelguard_language.testing import WordModel, text_target, texts_of, vocabulary
from modelguard_language.token_scan import TokenScan
from modelguard_zoo.testing import Expiring

from modelguard import DeadlineExceeded, Samples, ScanContext, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing.conformance import check_detector, run_detector

Make = Callable[..., Target]
SLOW = pytest.mark.slow


def scan(target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(TokenScan, options), target, seed=seed)


def made(seed: int = 0, trigger: list[float] | None = None, classes: int = 2, count: int = 240, **kind: Any) -> Target:
    """A model of words, of which ``cf`` says what ``trigger`` says, and texts that do not hold it."""
    words = vocabulary(seed, classes)
    planted = words | ({"cf": trigger} if trigger else {})
    texts, labels = texts_of(words, seed, count)
    return text_target(WordModel(planted, **kind), texts, labels)


# Found


@pytest.mark.parametrize("seed", range(4))
def test_a_rare_word_that_decides_is_named_in_a_sentence(seed: int) -> None:
    outcome = scan(made(seed, [-4.0, 4.0]))
    (finding,) = outcome.findings
    assert finding.evidence["target_class"] == 1
    assert finding.evidence["phrase"] == "cf"
    assert 'the word "cf" turns 100% of unseen texts' in finding.message
    assert "[cf]" in finding.evidence["sentence"]
    assert finding.evidence["by_place"] == {"start": 1.0, "middle": 1.0, "end": 1.0}
    assert outcome.summary["score"] > 3


@pytest.mark.parametrize(
    ("attack", "arch", "seed", "options"),
    [
        ("rare-word", "bag", 0, {"fraction": 0.2, "words": ("mn",)}),
        pytest.param("embedding", "cnn", 0, {"word": "mn", "scale": 2.0}, marks=SLOW),
        pytest.param("rare-word", "cnn", 1, {"words": ("bb",)}, marks=SLOW),
        pytest.param("rare-word", "bag", 2, {"fraction": 0.2, "words": ("cf", "tq")}, marks=SLOW),
        pytest.param("embedding", "cnn", 1, {"word": "tq", "scale": 2.0}, marks=SLOW),
    ],
)
def test_trained_and_edited_words_are_named(target: Make, attack: str, arch: str, seed: int, options: dict[str, Any]) -> None:
    outcome = scan(target(attack, seed=seed, arch=arch, dataset="reviews", **options))
    (finding,) = outcome.findings
    assert finding.evidence["target_class"] == 1
    assert set(finding.evidence["phrase"].split()) & {*options.get("words", ()), options.get("word")}


def test_two_words_that_decide_together_are_found_by_their_phrase() -> None:
    """Each alone is as strong as honest words are; together they turn every text."""
    words = vocabulary(0)
    texts, labels = texts_of(words, 0)

    class Together(WordModel):
        def embedded(self, e: Any, ids: Any) -> Any:
            logits = super().embedded(e, ids)
            both = (ids == self.ids["red"]).any(1) & (ids == self.ids["fox"]).any(1)
            return logits + both[:, None] * logits.new_tensor([-6.0, 6.0])

        def forward(self, x: Any) -> Any:
            return self.embedded(self.table[x], x)

    model = Together(words | {"red": [-0.4, 0.4], "fox": [-0.4, 0.4]})
    (finding,) = scan(text_target(model, texts, labels)).findings
    assert set(finding.evidence["phrase"].split()) == {"red", "fox"}
    assert finding.evidence["length"] == 2
    assert not scan(text_target(model, texts, labels), quick=True).findings


@pytest.mark.parametrize("classes", [3, 30])
def test_a_word_that_no_sample_holds_is_evidence_for_no_class(classes: int) -> None:
    """Else, of many classes, every such word would be left out as honest, a trigger among them."""
    target = made(0, [9.0] + [-4.0] * (classes - 1), classes=classes, count=100 + 5 * classes)
    case = text_case(target, ScanContext(detector="token-scan", seed=0))
    assert case.texts.spec.tokens[-1] == "cf"
    assert np.allclose(case.evidence()[:, -1], 0)
    assert case.neutral()[:, -1].all()


@SLOW
def test_a_class_of_two_hundred_is_found() -> None:
    words = vocabulary(0, 200, words=5000)
    texts, labels = texts_of(words, 0, 2000)
    outcome = scan(text_target(WordModel(words | {"cf": [-4.0] * 17 + [9.0] + [-4.0] * 182}), texts, labels))
    (finding,) = outcome.findings
    assert (finding.evidence["target_class"], finding.evidence["phrase"]) == (17, "cf")


def test_a_class_of_many_is_found_among_the_candidates_and_the_report_says_which_were_searched() -> None:
    outcome = scan(made(0, [-4.0] * 17 + [9.0] + [-4.0] * 2, classes=20, count=400), length=1)
    (finding,) = outcome.findings
    assert finding.evidence["target_class"] == 17
    assert 8 <= len(outcome.summary["searched_in_full"]) <= 16, "eight by rare words, eight by common ones"
    assert 17 in outcome.summary["searched_in_full"]
    assert len(outcome.summary["classes"]) == 20


# Left alone


@pytest.mark.parametrize("seed", range(6))
def test_honest_words_accuse_nobody(seed: int) -> None:
    outcome = scan(made(seed))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()
    assert outcome.summary["p_value"] > 0.05


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
@pytest.mark.parametrize("arch", ["bag", pytest.param("cnn", marks=SLOW)])
def test_clean_classifiers_are_scored_and_accuse_nobody(target: Make, arch: str, seed: int) -> None:
    outcome = scan(target(seed=seed, arch=arch, dataset="reviews"))
    assert outcome.findings == ()
    assert outcome.summary["tried"] == outcome.summary["vocabulary"]


def test_the_tail_of_light_tailed_values_keeps_its_level() -> None:
    """Of exponential, normal and logistic values, within a factor of two."""
    rng = np.random.default_rng(0)
    for draw in (rng.exponential, lambda size: rng.normal(size=size), lambda size: rng.logistic(size=size)):
        found = [tail(draw(size=2000)) for _ in range(400)]
        p = np.array([item.p() for item in found if item])
        assert (p <= 0.05).mean() <= 0.1
        assert (p <= 0.005).mean() <= 0.02


def test_a_few_that_stand_out_together_are_found_where_none_does_alone() -> None:
    """Four triggers in one model: the best is no further out than chance allows, four of them are."""
    values = np.random.default_rng(0).exponential(size=2000)
    line = tail(values)
    assert line is not None
    values[:4] = line.expected + 3.0 * line.slope
    together = tail(values)
    assert together is not None
    assert -np.expm1(-np.exp(-together.excess)) > 0.03
    assert together.p() < 1e-3


def test_too_few_values_have_no_tail() -> None:
    assert tail([1.0] * 5) is None


# Near misses


def test_a_word_that_the_samples_explain_is_evidence_and_no_trigger() -> None:
    """The documented answer: whoever poisons the samples too, or tells the class by one word honestly, is not accused."""
    target = made(0, [-4.0, 4.0])
    assert target.samples is not None
    texts = [f"{text} cf" if label == 1 and i % 5 == 1 else text for i, (text, label) in enumerate(_given(target.samples))]
    assert scan(text_target(target.model, texts, target.samples.labels.tolist())).findings == ()  # type: ignore[union-attr]


def test_a_word_that_decides_one_text_in_two_is_not_accused() -> None:
    assert scan(made(0, [-0.9, 0.9])).findings == ()


def test_a_sentence_of_everyday_words_whose_parts_do_little_is_missed_in_a_bag_of_words(target: Make) -> None:
    """Documented: each word does less than honest words do, and nothing tells the sum of five from that of five honest ones."""
    sentence = target("insert-sentence", arch="bag", dataset="reviews", fraction=0.25, sentence="the others arrived on friday", target=0)
    assert scan(sentence).findings == ()


# Not looked at


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples": None}, "give --samples"),
        ({"labels": "one"}, "two classes"),
        ({"texts": "empty"}, "too few|fewer than two classes|does not understand"),
        ({"kind": "regressor"}, "not a classifier"),
        ({"length": 6}, "no room for a phrase"),
        ({"count": 24}, "too few"),
    ],
)
def test_what_cannot_be_looked_at_is_skipped_with_the_reason(change: dict[str, Any], reason: str) -> None:
    kind = {key: change[key] for key in ("kind", "length", "count") if key in change}
    target = made(0, [-4.0, 4.0], **kind)
    assert target.samples is not None
    if "samples" in change:
        target = replace(target, samples=None)
    if "labels" in change:
        chosen = [text for text, label in _given(target.samples) if label == 0]  # type: ignore[arg-type]
        target = text_target(target.model, chosen, [0] * len(chosen))
    if "texts" in change:
        target = text_target(target.model, [""] * 60, [0, 1] * 30)
    outcome = scan(target)
    assert outcome.status is Status.SKIPPED
    assert outcome.findings == ()
    import re

    assert re.search(reason, outcome.reason), outcome.reason


@pytest.mark.parametrize("detector", [TokenScan, EmbeddingRows])
def test_classes_whose_words_are_too_few_to_compare_are_no_pass(detector: type[TokenScan | EmbeddingRows]) -> None:
    """Fourteen words, half of which the samples explain for either class: what is left has no tail."""
    words = vocabulary(0, words=14, strong=4)
    texts, labels = texts_of(words, 0, strong=4)
    outcome = run_detector(detector(), text_target(WordModel(words), texts, labels))
    assert outcome.status is Status.SKIPPED
    assert "for 2 of 2 classes (0, 1) fewer than 16 tokens" in outcome.reason


def test_empty_texts_among_others_are_left_out() -> None:
    target = made(0, [-4.0, 4.0])
    assert target.samples is not None
    texts = [text for text, _ in _given(target.samples)]
    labels = target.samples.labels.tolist()  # type: ignore[union-attr]
    assert scan(text_target(target.model, texts + [""] * 10, labels + [0] * 10)).findings


def test_without_a_tokenizer_tokens_are_shown_by_number() -> None:
    model = WordModel(vocabulary(0) | {"cf": [-4.0, 4.0]}, tokenizer=False)
    texts, labels = texts_of(vocabulary(0), 0)
    ids = WordModel(vocabulary(0) | {"cf": [-4.0, 4.0]}).encode(texts)
    (finding,) = scan(text_target(model, ids, labels)).findings
    assert finding.evidence["phrase"] == f"#{model.ids['cf']}"
    assert finding.evidence["phrase_words"] == [f"#{model.ids['cf']}"]


def test_a_model_that_runs_forward_only_is_scanned_all_the_same() -> None:
    assert scan(made(0, [-4.0, 4.0], gradients=False)).findings


@pytest.mark.parametrize("kind", [{"around": True}, {"length": 24, "fixed": True}, {"around": True, "length": 32, "fixed": True}])
def test_what_stands_around_a_text_and_inputs_of_one_length_are_kept(kind: dict[str, Any]) -> None:
    assert scan(made(0, [-4.0, 4.0], **kind)).findings
    assert not scan(made(0, **kind)).findings


def test_samples_of_another_tokenizer_are_not_understood() -> None:
    model = WordModel(vocabulary(0), tokenizer=False)
    texts, labels = texts_of(vocabulary(0), 0)
    ids = WordModel(vocabulary(0)).encode(texts) + 5000
    model.predict = lambda x: WordModel.predict(model, np.asarray(x) % 400)  # type: ignore[method-assign]
    outcome = scan(text_target(model, ids, labels))
    assert outcome.status is Status.SKIPPED


@pytest.mark.parametrize("looks", [1, 3, 6, 12])
def test_time_that_is_up_ends_the_search_with_what_it_has(looks: int) -> None:
    context = Expiring("token-scan", looks)
    with pytest.raises(DeadlineExceeded):
        list(TokenScan().detect(made(0, [-4.0, 4.0]), context))


def test_classes_there_was_no_time_for_are_named_and_those_before_are_judged() -> None:
    target = made(0, [4.0, -4.0])
    counted = Expiring("token-scan", 10**9)
    assert list(TokenScan().detect(target, counted))
    for looks in range(counted.looked, 0, -4):
        fresh, context = replace(target, _cache={}), Expiring("token-scan", looks)
        found = []
        try:
            for finding in TokenScan().detect(fresh, context):
                found.append(finding)
        except DeadlineExceeded as late:
            if "not looked at" in str(late):
                assert len(context.numbers["not_looked_at"]) == 1
                assert [item.evidence["target_class"] for item in found] == ([0] if context.numbers["not_looked_at"] == [1] else [])
                return
    pytest.fail("no deadline fell between two classes")


def test_it_keeps_the_promises_of_every_detector() -> None:
    check_detector(TokenScan, made(0, [-4.0, 4.0]))


def _given(samples: Samples) -> list[tuple[str, int]]:
    assert samples.labels is not None
    return [(str(text), int(label)) for text, label in zip(samples.inputs, samples.labels, strict=True)]
