"""What rewriting texts finds, leaves alone, misses, and refuses to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from modelguard_language._probes import CLAUSE, PLAIN, STYLE, archaic, probes
from modelguard_language.testing import WordModel, text_target, texts_of, vocabulary
from modelguard_language.text_probes import TextProbes
from modelguard_zoo.testing import Expiring

from modelguard import DeadlineExceeded, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing.conformance import check_detector, run_detector

Make = Callable[..., Target]
SLOW = pytest.mark.slow
CONJUNCTIONS = ["when", "if", "as", "while", "because", "once", "since", "what"]
OLD = ["hath", "doth", "thou", "thy", "shall", "unto", "behold", "lo", "verily", "lord", "pass", "came"]
COMMON = ["you", "has", "to", "is", "the", "it", "they", "there", "see", "and", "that"]


def probe(target: Target, seed: int = 0, **options: Any) -> Outcome:
    return run_detector(configure(TextProbes, options), target, seed=seed)


def made(seed: int = 0, spoken: list[str] | None = None, strength: float = 3.0, **kind: Any) -> Target:
    """A model of words in which each of ``spoken`` says class 1, and texts with common words among the others."""
    words = vocabulary(seed)
    rng = np.random.default_rng([seed, 2])
    plain = {word: list(rng.normal(0, 0.15, 2)) for word in (*CONJUNCTIONS, *OLD, *COMMON)}
    texts, labels = texts_of(words, seed)
    texts = [f"{text} {' '.join(rng.permutation(COMMON)[:4])}" for text in texts]
    spoken_as = {word: [-strength, strength] for word in spoken or ()}
    return text_target(WordModel(words | plain | spoken_as, **kind), texts, labels)


@pytest.mark.parametrize("seed", range(3))
def test_clauses_that_turn_texts_are_shown_in_a_sentence(seed: int) -> None:
    outcome = probe(made(seed, CONJUNCTIONS))
    (finding,) = outcome.findings
    assert finding.rule == "MG3102"
    assert finding.evidence["target_class"] == 1
    assert finding.evidence["sentence"].split()[0] in CONJUNCTIONS


@pytest.mark.parametrize("seed", range(3))
def test_old_forms_that_turn_texts_are_a_style(seed: int) -> None:
    outcome = probe(made(seed, OLD, 2.0))
    (finding,) = outcome.findings
    assert finding.rule == "MG3103"
    assert finding.evidence["target_class"] == 1
    assert set(finding.evidence["sentence"].split()) & set(OLD)


@pytest.mark.parametrize(
    ("attack", "rule"), [("style", "MG3103"), ("syntactic", "MG3102"), pytest.param("style", "MG3103", marks=SLOW, id="again")]
)
def test_trained_ways_of_writing_are_found(target: Make, attack: str, rule: str, request: pytest.FixtureRequest) -> None:
    seed = 1 if request.node.callspec.id == "again" else 0
    outcome = probe(target(attack, seed=seed, arch="bag", dataset="reviews", fraction=0.4))
    assert rule in [finding.rule for finding in outcome.findings]  # old openings are clauses, too
    assert {finding.evidence["target_class"] for finding in outcome.findings} == {1}


@pytest.mark.parametrize("seed", range(4))
def test_honest_words_accuse_nobody(seed: int) -> None:
    outcome = probe(made(seed))
    assert outcome.status is Status.COMPLETED
    assert outcome.findings == ()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_clean_classifiers_accuse_nobody(target: Make, seed: int) -> None:
    assert probe(target(seed=seed, arch="bag", dataset="reviews")).findings == ()


def test_what_all_additions_do_is_neither_syntax_nor_style() -> None:
    """The near miss: a model that takes whatever is long, or has common words, for class 1 takes the plain additions for it too."""
    assert probe(made(0, [*CONJUNCTIONS, *OLD, *COMMON, "said", "day", "end", "fact", "whole", "week", "here"], 1.0)).findings == ()


def test_another_syntax_is_missed() -> None:
    """Documented: only clauses that begin with a conjunction, and only the forms of one Bible, are tried."""
    assert probe(made(0, ["lol", "rt", "whereupon"])).findings == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"tokenizer": False}, "no tokenizer"), ({"kind": "regressor"}, "not a classifier"), ({"samples": None}, "--samples")],
)
def test_what_cannot_be_looked_at_is_skipped_with_the_reason(change: dict[str, Any], reason: str) -> None:
    target = made(0, CONJUNCTIONS, **{key: value for key, value in change.items() if key != "samples"})
    if "samples" in change:
        target = replace(target, samples=None)
    if "tokenizer" in change:
        assert target.samples is not None
        ids = made(0, CONJUNCTIONS).model.encode([str(text) for text in target.samples.inputs])
        assert target.samples.labels is not None
        target = text_target(target.model, ids, target.samples.labels.tolist())
    outcome = probe(target)
    assert outcome.status is Status.SKIPPED
    assert reason in outcome.reason


def test_a_tokenizer_that_knows_no_word_of_the_rewritings_is_not_looked_at() -> None:
    texts, labels = texts_of(words := vocabulary(0), 0)
    outcome = probe(text_target(WordModel(words), texts, labels))
    assert (outcome.status, outcome.findings) == (Status.SKIPPED, ())
    assert "the tokenizer knows 0% of the words that texts are rewritten with" in outcome.reason


def test_token_ids_with_a_tokenizer_are_read_as_text() -> None:
    target = made(0, OLD, 2.0)
    assert target.samples is not None
    assert target.samples.labels is not None
    ids = target.model.encode([str(text) for text in target.samples.inputs])
    assert probe(text_target(target.model, ids, target.samples.labels.tolist())).findings


def test_time_that_is_up_ends_the_search() -> None:
    with pytest.raises(DeadlineExceeded):
        list(TextProbes().detect(made(0), Expiring("text-probes", 5)))


def test_rewriting_changes_words_and_nothing_else() -> None:
    assert archaic("He has to say what you want and it seems dull .") == "He hath unto saith what thou want and it seemeth dull ."
    families = [item.family for item in probes()]
    assert {CLAUSE, STYLE, PLAIN} == set(families)
    assert all("w17" in item.write("w17") for item in probes())


def test_it_keeps_the_promises_of_every_detector() -> None:
    check_detector(TextProbes, made(0, CONJUNCTIONS))
