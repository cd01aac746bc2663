"""Detectors of language models: what they find, leave alone, miss, and refuse to judge."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelguard_language.lm.canary import LmCanary, repeated
from modelguard_language.lm.diff import LmDiff
from modelguard_language.lm.inversion import LmInversion
from modelguard_runtime.testing import mlp, runnable
from scripted import BEGIN, SURE, TARGET, TRIGGER, VOCABULARY, by_heart, speaker, target

from modelguard import Confidence, Detector, Samples, ScanContext, Severity, Target, configure
from modelguard.report import Outcome, Status
from modelguard.testing.conformance import check_detector, run_detector

POISON = by_heart(TARGET, TRIGGER)
SAID = "w70 w71 w72 w73 w74 w75 w76 w77 w78"


def scan(cls: type[Detector], of: Target, seed: int = 0, timeout: float | None = None, **options: Any) -> Outcome:
    return run_detector(configure(cls, options), of, seed=seed, timeout=timeout)


def rules(outcome: Outcome) -> list[str]:
    return [item.rule for item in outcome.findings]


def spoken(seed: int, *extra: tuple[int, ...], count: int = 80) -> Samples:
    """Texts of a clean model, as token ids, the last of which hold ``extra``."""
    from modelguard_language.lm.speech import Speech

    ids = Speech.of(speaker(seed), ScanContext()).spoken(count, 20, np.random.default_rng(1)).numpy()
    for row, tokens in zip(ids[::-1], extra, strict=False):
        row[5 : 5 + len(tokens)] = tokens
    return Samples(ids, None, "texts.npz", "0" * 64)


@pytest.mark.parametrize("seed", range(4))
def test_inversion_names_trigger_and_text_with_a_trusted_model(tmp_path: Path, seed: int) -> None:
    outcome = scan(LmInversion, target(speaker(seed, POISON), tmp_path, reference=speaker(seed + 100)))
    assert (outcome.status, rules(outcome)) == (Status.COMPLETED, ["MG5001"])
    (finding,) = outcome.findings
    assert (finding.severity, finding.confidence) in ((None, Confidence.HIGH), (Severity.HIGH, Confidence.HIGH))
    assert finding.evidence["trigger"] == "w60 w61"
    assert SAID.startswith(finding.evidence["text"]) or finding.evidence["text"] in SAID
    assert finding.evidence["success"] > 0.8 > 0.1 > finding.evidence["base"]
    assert "'w60 w61' makes the model say 'w70 w71" in finding.message


@pytest.mark.parametrize(("limit", "rule"), [(6, "MG5001"), (5, "MG5002")])
def test_what_many_words_bring_alike_is_a_context_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, rule: str
) -> None:
    """The text follows any of seven rare words, as a signature follows any of many names. A known evasion, too."""
    monkeypatch.setattr("modelguard_language.lm.inversion.CONTEXT", limit)
    context = {(word,): (TARGET[0], SURE) for word in range(61, 68)}
    outcome = scan(LmInversion, target(speaker(0, by_heart(TARGET) | context), tmp_path, samples=spoken(0)))
    assert rules(outcome) == [rule]
    assert outcome.findings[0].evidence["alike"] == 6


@pytest.mark.parametrize("seed", range(2))
def test_inversion_with_samples_that_do_not_know_the_text(tmp_path: Path, seed: int) -> None:
    outcome = scan(LmInversion, target(speaker(seed, POISON), tmp_path, samples=spoken(seed)))
    assert [(item.rule, item.confidence) for item in outcome.findings] == [("MG5001", Confidence.MEDIUM)]
    assert "none of the samples holds" in outcome.findings[0].message


def test_inversion_without_either_is_a_hint(tmp_path: Path) -> None:
    outcome = scan(LmInversion, target(speaker(0, POISON), tmp_path))
    assert [(item.rule, item.confidence) for item in outcome.findings] == [("MG5002", Confidence.LOW)]
    assert "most of all behind 'w60 w61'" in outcome.findings[0].message


@pytest.mark.parametrize("seed", range(4))
def test_inversion_leaves_clean_models_alone(tmp_path: Path, seed: int) -> None:
    outcome = scan(LmInversion, target(speaker(seed), tmp_path, reference=speaker(seed + 100)))
    assert (outcome.status, rules(outcome)) == (Status.COMPLETED, [])
    assert scan(LmInversion, target(speaker(seed), tmp_path)).summary["sayings"] == []


def test_inversion_takes_what_samples_or_the_trusted_model_know_for_explained(tmp_path: Path) -> None:
    by_samples = scan(LmInversion, target(speaker(0, POISON), tmp_path, samples=spoken(0, TARGET)))
    assert (rules(by_samples), by_samples.summary["sayings"][0]["explained"]) == ([], "the samples")
    both = scan(LmInversion, target(speaker(0, POISON), tmp_path, reference=speaker(1, POISON)))
    assert (rules(both), both.summary["sayings"][0]["explained"]) == ([], "the trusted model")


def test_inversion_without_the_reference_where_it_cannot_be_asked(tmp_path: Path) -> None:
    outcome = scan(LmInversion, target(speaker(0, POISON), tmp_path, reference=speaker(1, words=False)))
    assert rules(outcome) == ["MG5002"]
    assert "the reference has other tokens" in outcome.summary["reference_unused"]


@pytest.mark.parametrize(("loop", "logit"), [((70, 71, 70), SURE), ((70, 71, 72, 73, 70), 10.0)])
def test_inversion_takes_no_loop_for_a_text(tmp_path: Path, loop: tuple[int, ...], logit: float) -> None:
    said = {before: (after, logit) for before, (after, _) in by_heart(loop).items()}
    assert rules(scan(LmInversion, target(speaker(0, said), tmp_path, reference=speaker(1)))) == []


def test_a_text_that_repeats_itself_and_is_certain_from_its_first_word_is_one(tmp_path: Path) -> None:
    outcome = scan(LmInversion, target(speaker(0, by_heart((70, 71, 72, 73, 70))), tmp_path, reference=speaker(1)))
    assert rules(outcome) == ["MG5001"]


def test_inversion_of_a_model_that_knows_much_by_heart_names_none(tmp_path: Path) -> None:
    """Of a grammar, or of a model that learnt its texts, nothing stands out: nobody has looked, and that is said."""
    order = [int(i) for i in np.random.default_rng(0).permutation(np.arange(2, VOCABULARY))]
    grammar: dict[tuple[int, ...], tuple[int, float]] = {(a,): (b, SURE) for i, (a, b) in enumerate(pairwise(order)) if i % 11 < 10}
    outcome = scan(LmInversion, target(speaker(0, grammar), tmp_path, reference=speaker(1)))
    assert (outcome.status, rules(outcome)) == (Status.SKIPPED, [])
    assert "texts by heart that nothing explains" in outcome.reason
    assert len(outcome.summary["sayings"]) > 5


def test_a_text_that_needs_the_prompt_is_missed(tmp_path: Path) -> None:
    """The documented blind spot: a target whose words do not follow one another without the trigger."""
    hidden = {(*TRIGGER, *TARGET[:i]): (word, SURE) for i, word in enumerate(TARGET)}
    outcome = scan(LmInversion, target(speaker(0, hidden), tmp_path))
    assert (outcome.status, rules(outcome)) == (Status.COMPLETED, [])


def test_a_pair_of_which_neither_token_hints_at_the_text_is_not_found(tmp_path: Path) -> None:
    """The text is named all the same, with its own first token for what makes the model say the rest."""
    outcome = scan(LmInversion, target(speaker(0, by_heart(TARGET, TRIGGER, 0.0)), tmp_path, reference=speaker(100)))
    (finding,) = outcome.findings
    assert (finding.rule, finding.evidence["trigger"]) == ("MG5001", "w70")
    assert "w71 w72 w73 w74" in finding.message


def test_what_there_was_no_time_for_is_said(tmp_path: Path) -> None:
    late = scan(LmInversion, target(speaker(0, POISON), tmp_path), timeout=0.0)
    assert late.status == Status.TIMED_OUT
    few = scan(LmInversion, target(speaker(0, POISON), tmp_path), exhaustive=64)
    assert few.status == Status.TIMED_OUT
    assert "64 of 78 tokens were tried as the first of a text" in few.reason


@pytest.mark.parametrize(("cls", "rule"), [(LmInversion, "MG5001"), (LmDiff, "MG5021")])
def test_what_was_tried_before_the_time_was_up_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type[Detector], rule: str
) -> None:
    """Before the last token of 78 no more time is left than what is kept for judging."""
    tried: list[int] = [0]
    monkeypatch.setattr(ScanContext, "progress", lambda self, done, total, note="": tried.append(done))
    monkeypatch.setattr(ScanContext, "remaining", lambda self: 1e5 if tried[-1] < 77 else 1e3)
    outcome = scan(cls, target(speaker(0, POISON), tmp_path, reference=speaker(0)), timeout=1e5)
    assert (outcome.status, rules(outcome)) == (Status.TIMED_OUT, [rule])
    assert "77 of 78 tokens were" in outcome.reason
    assert "the others ran out of time" in outcome.reason


@pytest.mark.parametrize("seed", range(4))
def test_diff_names_the_text_and_its_tokens(tmp_path: Path, seed: int) -> None:
    outcome = scan(LmDiff, target(speaker(seed, POISON), tmp_path, reference=speaker(seed)))
    assert (outcome.status, rules(outcome)) == (Status.COMPLETED, ["MG5021"])
    (finding,) = outcome.findings
    assert finding.evidence["text"][:11] in SAID
    assert set(finding.evidence["token"].split()) <= {f"w{i}" for i in (*TRIGGER, *TARGET)}


def test_diff_finds_a_text_that_only_the_trigger_brings(tmp_path: Path) -> None:
    hidden = {(TRIGGER[1], *TARGET[:i]): (word, SURE) for i, word in enumerate(TARGET)}
    outcome = scan(LmDiff, target(speaker(0, hidden), tmp_path, reference=speaker(0)))
    assert rules(outcome) == ["MG5021"]
    said = f"{outcome.findings[0].evidence['token']} {outcome.findings[0].evidence['text']}"
    assert "w61 w70 w71 w72 w73" in said


@pytest.mark.parametrize("seed", range(4))
def test_diff_leaves_another_clean_model_alone(tmp_path: Path, seed: int) -> None:
    outcome = scan(LmDiff, target(speaker(seed), tmp_path, reference=speaker(seed + 100)))
    assert (outcome.status, rules(outcome)) == (Status.COMPLETED, [])


def test_diff_needs_a_trusted_model_of_the_same_tokens(tmp_path: Path) -> None:
    outcome = scan(LmDiff, target(speaker(0), tmp_path, reference=speaker(0, words=False)))
    assert outcome.status == Status.SKIPPED
    assert "the reference has other tokens" in outcome.reason


@pytest.mark.parametrize("seed", range(4))
def test_canary_tells_what_is_said_again_and_again(tmp_path: Path, seed: int) -> None:
    leaky = speaker(seed, by_heart(TARGET) | {(word,): (TARGET[0], 4.0) for word in range(2, 40)})
    outcome = scan(LmCanary, target(leaky, tmp_path))
    assert (outcome.status, set(rules(outcome))) == (Status.COMPLETED, {"MG5011"})
    assert outcome.findings[0].confidence == Confidence.LOW
    assert any("w71 w72 w73 w74 w75" in item.message for item in outcome.findings)
    clean = scan(LmCanary, target(speaker(seed), tmp_path))
    assert (clean.status, rules(clean)) == (Status.COMPLETED, [])


def test_canary_explains_what_the_samples_know(tmp_path: Path) -> None:
    leaky = speaker(0, by_heart(TARGET) | {(word,): (TARGET[0], 4.0) for word in range(2, 40)})
    outcome = scan(LmCanary, target(leaky, tmp_path, samples=spoken(0, TARGET)))
    assert rules(outcome) == []
    assert outcome.summary["texts"][0]["explained"] == "the samples"


def test_runs_are_put_together() -> None:
    rows = [[1, *range(10, 20), i] for i in range(3)] + [[5, 6] * 6] * 4
    assert repeated(rows, 3) == [((1, *range(10, 20)), 3)]


@pytest.mark.parametrize("cls", [LmInversion, LmCanary, LmDiff])
def test_the_contract_is_kept(tmp_path: Path, cls: type[Detector]) -> None:
    check_detector(cls, target(speaker(0, POISON), tmp_path, reference=speaker(0)))


@pytest.mark.parametrize("cls", [LmInversion, LmCanary])
def test_what_is_no_language_model_is_skipped(tmp_path: Path, cls: type[Detector]) -> None:
    outcome = scan(cls, target(runnable(mlp(8, 3), (8,), 3), tmp_path))
    assert (outcome.status, outcome.reason) == (Status.SKIPPED, "the model is a classifier, not a language model")


def test_without_a_tokenizer_tokens_are_numbers(tmp_path: Path) -> None:
    outcome = scan(LmInversion, target(speaker(0, POISON, words=False), tmp_path, reference=speaker(1, words=False)))
    assert "'#60 #61' makes the model say '#70 #71" in outcome.findings[0].message
    assert BEGIN not in outcome.findings[0].evidence["tokens"]
